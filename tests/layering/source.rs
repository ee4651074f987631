//! A source file as the rules look at it: what it names, without comments and test code.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One file below `src`.
pub(crate) struct Source {
    /// Path below `src`.
    pub(crate) name: String,
    /// Path of its module; empty for `lib.rs` and `main.rs`.
    pub(crate) module: Vec<String>,
    /// Every path that begins with `crate` or `super`, from the root of the crate.
    pub(crate) references: Vec<Vec<String>>,
    /// Modules in files of their own that it declares under `#[cfg(test)]`.
    test_modules: Vec<String>,
    /// Every identifier and keyword.
    pub(crate) words: BTreeSet<String>,
    /// Every string.
    pub(crate) texts: Vec<String>,
    /// Its first line is an inner doc comment.
    pub(crate) opens_with_contract: bool,
    /// Length of the file.
    pub(crate) lines: usize,
}

impl Source {
    /// All sources below a folder but those that are compiled for tests only.
    pub(crate) fn tree(root: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".rs") {
                    sources.push(Self::read(&name, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let tests: BTreeSet<String> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
        let within = |module: &str, test: &str| module == test || module.starts_with(&format!("{test}::"));
        sources.retain(|source| !tests.iter().any(|test| within(&source.module.join("::"), test)));
        sources
    }

    /// Reads one; `name` is its path below `src`.
    pub(crate) fn read(name: &str, text: &str) -> Self {
        let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let mut source = Self {
            name: name.into(),
            module,
            references: Vec::new(),
            test_modules: Vec::new(),
            words: BTreeSet::new(),
            texts: Vec::new(),
            opens_with_contract: text.starts_with("//!"),
            lines: text.lines().count(),
        };
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        source.walk(tokens, &source.module.clone());
        source
    }

    fn walk(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if is_cfg_test(&tokens[at..]) {
                at = self.skip_item(&tokens, at + 2, module);
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    let inside_path = at >= 2 && punct(&tokens[at - 1], ':') && punct(&tokens[at - 2], ':');
                    if (word == "crate" || word == "super" || word == "self") && !inside_path {
                        expand(&tokens[at..], module, &mut self.references);
                    }
                    if let (true, Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (word == "mod", tokens.get(at + 1), tokens.get(at + 2))
                    {
                        let inner = [module, &[name.to_string()]].concat();
                        self.walk(body.stream(), &inner);
                        at += 3;
                        continue;
                    }
                    // a field or method of this name is something else than the crate of this name
                    if !(at >= 1 && punct(&tokens[at - 1], '.')) {
                        self.words.insert(word);
                    }
                }
                TokenTree::Group(group) => self.walk(group.stream(), module),
                TokenTree::Literal(literal) => self.texts.push(literal.to_string().trim_matches('"').to_owned()),
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    /// Skips the item after `#[cfg(test)]`: up to its body or semicolon. A module in a file of its own is noted.
    fn skip_item(&mut self, tokens: &[TokenTree], begin: usize, module: &[String]) -> usize {
        let ends =
            |token: &TokenTree| punct(token, ';') || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        let end = tokens[begin..].iter().position(ends).map_or(tokens.len(), |length| begin + length + 1);
        let item = &tokens[begin..end];
        if let Some(keyword) = item.iter().position(|token| matches!(token, TokenTree::Ident(word) if word == "mod")) {
            let name = item[keyword + 1].to_string();
            self.test_modules.push([module, &[name]].concat().join("::"));
        }
        end
    }
}

fn punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn is_cfg_test(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = tokens else { return false };
    let text: String = attribute.stream().into_iter().map(|token| token.to_string()).collect();
    punct(hash, '#') && text.replace(' ', "") == "cfg(test)"
}

/// The paths of `crate::a::{b, c::d}` from the root of the crate; nothing for a lone `self` or `pub(crate)`.
fn expand(tokens: &[TokenTree], module: &[String], paths: &mut Vec<Vec<String>>) {
    let mut prefix = match &tokens[0] {
        TokenTree::Ident(word) if word == "crate" => Vec::new(),
        TokenTree::Ident(word) if word == "super" => module[..module.len().saturating_sub(1)].to_vec(),
        _ => module.to_vec(),
    };
    let mut at = 1;
    while at + 2 < tokens.len() && punct(&tokens[at], ':') && punct(&tokens[at + 1], ':') {
        match &tokens[at + 2] {
            TokenTree::Ident(word) if word == "super" => drop(prefix.pop()),
            TokenTree::Ident(word) => prefix.push(word.to_string()),
            TokenTree::Group(group) => {
                branches(group.stream(), &prefix, paths);
                return;
            }
            _ => break,
        }
        at += 3;
    }
    if at > 1 {
        paths.push(prefix);
    }
}

/// The branches of a `{…}` in a use.
fn branches(stream: TokenStream, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for branch in tokens.split(|token| punct(token, ',')).filter(|branch| !branch.is_empty()) {
        let mut path = prefix.to_vec();
        let mut open = true;
        for token in branch {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) if word == "self" => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    branches(group.stream(), &path, paths);
                    open = false;
                }
                _ => {}
            }
        }
        if open {
            paths.push(path);
        }
    }
}
