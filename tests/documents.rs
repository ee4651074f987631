//! The documents keep up with each other and with the tree: both READMEs give the same commands and tables, and what they name exists.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced blocks of a document.
fn blocks(text: &str) -> Vec<String> {
    text.split("```").skip(1).step_by(2).map(str::to_owned).collect()
}

/// What stands in backticks outside of fenced blocks.
fn code(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of all table rows that hold nothing but code: keys, files, commands, values.
fn keys(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.flat_map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.filter(|cell| cell.starts_with('`') && cell.ends_with('`') && cell.matches('`').count() == 2).collect()
}

/// Targets of the links into the tree.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://")).map(|target| target.split('#').next().unwrap().to_owned()).collect()
}

fn documents() -> Vec<String> {
    let mut names = vec!["README.md".to_owned(), "README.zh-CN.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        names.push(format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    names
}

#[test]
fn both_readmes_give_the_same_commands_and_tables() {
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    assert!(blocks(&english).len() >= 3, "no commands found");
    assert_eq!(blocks(&english), blocks(&chinese));
    assert!(keys(&english).len() > 20, "no tables found");
    assert_eq!(keys(&english), keys(&chinese));
    let headings = |text: &str| {
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.chars().filter(|c| *c == '#').count()).collect::<Vec<_>>()
    };
    assert_eq!(headings(&english), headings(&chinese), "the chapters differ");
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(rows(&english), rows(&chinese), "the tables differ in length");
}

#[test]
fn what_the_documents_link_to_exists() {
    let mut count = 0;
    for name in documents() {
        let folder = Path::new(&name).parent().unwrap().to_owned();
        for link in links(&read(&name)).iter().filter(|link| !link.is_empty()) {
            assert!(root().join(&folder).join(link).exists(), "{name} links to {link}");
            count += 1;
        }
    }
    assert!(count > 3, "no links found");
}

#[test]
fn what_the_commands_name_exists() {
    let makefile = read("Makefile");
    for name in documents() {
        let text = read(&name);
        for command in blocks(&text).iter().flat_map(|block| block.lines()).map(str::to_owned).chain(code(&text)) {
            let words: Vec<&str> = command.split_whitespace().collect();
            for (index, word) in words.iter().enumerate() {
                let next = words.get(index + 1).copied().unwrap_or_default();
                match *word {
                    "make" if !next.is_empty() => assert!(makefile.contains(&format!("\n{next}:")), "{name}: `make {next}`"),
                    "--test" => {
                        let found =
                            [format!("tests/{next}.rs"), format!("tests/{next}/main.rs")].iter().any(|path| root().join(path).exists());
                        assert!(found, "{name}: `{command}`");
                    }
                    path if path.starts_with("scripts/") || path.starts_with("packaging/") || path.starts_with("tests/") => {
                        assert!(root().join(path).exists(), "{name}: {path}");
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn settings_in_the_readme_are_those_of_the_examples() {
    let readme = read("README.md");
    for name in ["domain.cfg", "cell.cfg"] {
        let chapter =
            readme.split(&format!("### config/{name}")).nth(1).unwrap().split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        let told: Vec<(String, String)> = chapter
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
                (cells.nth(1).unwrap(), cells.next().unwrap())
            })
            .collect();
        let example: serde_json::Value = serde_json::from_str(&read(&format!("config/{name}.example"))).unwrap();
        let example = example.as_object().unwrap();
        assert_eq!(told.len(), example.len(), "{name}: {told:?}");
        for (key, default) in told {
            let value = example.get(&key).unwrap_or_else(|| panic!("config/{name}.example has no {key}"));
            let text = if value.is_null() { "none".to_owned() } else { value.to_string() };
            assert_eq!(text, default, "{name}: {key}");
        }
    }
}

/// The lines of the contract's list of defects (§14): letter and how many there are.
const DEFECTS: [(char, usize); 6] = [('A', 10), ('B', 22), ('C', 21), ('D', 27), ('E', 12), ('F', 5)];

/// Every test of the tree, as `cargo test` names it; those in `tests/` with their suite in front.
fn tests_of_the_tree() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                names.extend(tests_of(&path));
            }
        }
    }
    names
}

fn tests_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let place = path.strip_prefix(root()).unwrap().with_extension("");
    let parts = place.iter().skip(1).map(|part| part.to_str().unwrap());
    let mut module: Vec<&str> = parts.filter(|part| !matches!(*part, "mod" | "main")).collect();
    if text.contains("\nmod tests {") {
        module.push("tests");
    }
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && !line.starts_with('/')) {
            let name = rest.split(['(', '<']).next().unwrap();
            names.push([module.as_slice(), &[name]].concat().join("::"));
            is_test = false;
        }
    }
    names
}

#[test]
fn every_defect_of_the_reference_has_a_test_or_a_reason() {
    let text = read("docs/reference-defects.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| line "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let listed: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let expected: Vec<String> = DEFECTS.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}"))).collect();
    assert_eq!(listed, expected);
    let tests = tests_of_the_tree();
    assert!(tests.contains("documents::every_defect_of_the_reference_has_a_test_or_a_reason"), "the tests were not found");
    for row in rows {
        let [line, defect, answer] = row[..] else { panic!("{row:?}") };
        assert!(!defect.is_empty() && answer.len() > 20, "{line} has neither a test nor a reason");
        for name in code(answer).iter().filter(|name| name.contains("::")) {
            assert!(tests.contains(name), "{line}: there is no test {name}");
        }
    }
}
