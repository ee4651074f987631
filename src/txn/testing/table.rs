//! `docs/transactions.md` says which test shows what of each transaction. It is made of what the tests did: this one runs the others once more, has their
//! nodes record it ([`super::record`]), and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::record::{Run, RECORD};
use crate::proto::message::MessageId;
use crate::txn::handlers;

/// With this in the environment the document is written anew.
const BLESS: &str = "CELL_BLESS";

/// Not run: itself, tests that draw by lot what they do, and those that do everything to everything, which say little of one transaction.
const SKIPPED: [&str; 4] =
    ["recovery::walk", "txn::testing::table", "txn::volumes::tests::any_life_of_a_guest", "txn::handlers::tests::hostile"];

/// There is no way back from these, and what the tests show instead.
const WITHOUT_UNDO: [(MessageId, &str); 4] = [
    (MessageId::DELETE_GUEST_REQUEST, "the guest stays in the books, and the next request deletes the rest"),
    (MessageId::STOP_INSTANCE_REQUEST, "the guest is told as it is"),
    (MessageId::COMPUTE_CELL_REMOVED_EVENT, "new guests are local at once; the pool stays on record and goes with the Core's next word"),
    (MessageId::MIGRATE_INSTANCE_REQUEST, "the guest is nowhere else: what fails is tried again"),
];

/// A test that fails so many messages is about all of them; it is named once.
const ALL: usize = 30;

/// What the tests show of one message.
#[derive(Default)]
struct Row {
    succeeds: BTreeSet<String>,
    fails: BTreeSet<String>,
    every_step: BTreeSet<String>,
    /// Most operations of the host that a success took.
    steps: u64,
}

fn record() -> Vec<Run> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["txn::", "--test-threads=2"]).args(SKIPPED.iter().flat_map(|name| ["--skip", name])).env(RECORD, &path);
    let output = tests.output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn rows(runs: &[Run]) -> BTreeMap<MessageId, Row> {
    let mut rows: BTreeMap<MessageId, Row> = BTreeMap::new();
    let mut by_test: BTreeMap<(MessageId, &str), Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.setup) {
        by_test.entry((MessageId(run.message), &run.test)).or_default().push(run);
    }
    for ((message, test), runs) in by_test {
        let row = rows.entry(message).or_default();
        let whole = |run: &&&Run| run.success && !run.failed_later && run.faults.is_empty();
        if let Some(steps) = runs.iter().filter(whole).map(|run| run.steps).max() {
            row.succeeds.insert(test.to_owned());
            row.steps = row.steps.max(steps);
        }
        if runs.iter().any(|run| !run.success || run.failed_later) {
            row.fails.insert(test.to_owned());
        }
        let failed: BTreeSet<u64> = runs.iter().flat_map(|run| run.faults.iter().copied()).collect();
        let steps = runs.iter().filter(whole).map(|run| run.steps).min().unwrap_or_default();
        if steps > 0 && (1..=steps).all(|step| failed.contains(&step)) {
            row.every_step.insert(test.to_owned());
        }
    }
    rows
}

/// The test that does least besides; one of the handlers' own in which the request does not fail as well is preferred.
fn plainest<'a>(row: &'a Row, rows: &BTreeMap<MessageId, Row>) -> Option<&'a String> {
    let others = |test: &str| rows.values().filter(|row| row.succeeds.contains(test) || row.fails.contains(test)).count();
    let elsewhere = |test: &str| !test.starts_with("txn::handlers") && !test.starts_with("txn::volumes");
    row.succeeds.iter().min_by_key(|test| (row.fails.contains(*test) || row.every_step.contains(*test), elsewhere(test), others(test)))
}

fn cell<'a>(tests: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<String> = tests.into_iter().map(|test| format!("`{}`", test.trim_start_matches("txn::"))).collect();
    if names.is_empty() {
        return "–".into();
    }
    names.join("<br>")
}

/// The handlers' files by message. The order to migrate is taken by the transaction that waits for it.
fn files() -> BTreeMap<MessageId, String> {
    let mut files: BTreeMap<MessageId, &str> = handlers::FILES.iter().copied().collect();
    files.insert(MessageId::MIGRATE_INSTANCE_REQUEST, "attach_instance");
    files.into_iter().map(|(id, file)| (id, format!("src/txn/handlers/{file}.rs"))).collect()
}

/// What is not shown of a message.
fn complaints(id: MessageId, row: &Row) -> Vec<String> {
    let changes = handlers::find(id).is_none_or(|entry| entry.changes);
    let mut complaints = Vec::new();
    if row.succeeds.is_empty() {
        complaints.push(format!("{id}: no test of its success"));
    }
    if row.fails.is_empty() {
        complaints.push(format!("{id}: no test of a failure"));
    }
    if changes && row.steps > 0 && row.every_step.is_empty() {
        complaints.push(format!("{id}: takes up to {} steps on the host, and no test lets each of them fail", row.steps));
    }
    complaints
}

fn line(id: MessageId, file: &str, rows: &BTreeMap<MessageId, Row>, common: &BTreeSet<&String>) -> String {
    let row = &rows[&id];
    let undo = match WITHOUT_UNDO.iter().find(|(message, _)| *message == id) {
        _ if handlers::find(id).is_some_and(|entry| !entry.changes) => "changes nothing".to_owned(),
        _ if row.steps == 0 => "changes the books only".to_owned(),
        Some((_, instead)) => format!("{}<br>({instead})", cell(&row.every_step)),
        None => cell(&row.every_step),
    };
    let failures = row.fails.iter().filter(|test| !row.every_step.contains(*test) && !common.contains(test));
    let (name, success) = (id.name().unwrap_or_default(), cell(plainest(row, rows)));
    format!("| {name} `0x{:08X}` | `{file}` | {success} | {} | {undo} |\n", id.0, cell(failures))
}

#[test]
fn the_document_says_what_the_tests_do() {
    let (rows, files) = (rows(&record()), files());
    assert_eq!(files.len(), 42, "messages that a Core sends (contract §4.1)");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let missing: Vec<&String> = files.values().filter(|file| !root.join(file).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let none = Row::default();
    let found: Vec<String> = files.keys().flat_map(|id| complaints(*id, rows.get(id).unwrap_or(&none))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));

    let failing: BTreeSet<&String> = rows.values().flat_map(|row| &row.fails).collect();
    let common: BTreeSet<&String> =
        failing.into_iter().filter(|test| rows.values().filter(|row| row.fails.contains(*test)).count() >= ALL).collect();
    let mut text = HEAD.replace("COMMON", &cell(common.iter().copied()).replace("<br>", ", "));
    text.extend(files.iter().map(|(id, file)| line(*id, file, &rows, &common)));
    let path = root.join("docs/transactions.md");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == text,
        "docs/transactions.md is not what the tests do any more; with {BLESS}=1 in the environment this test writes it anew"
    );
}

const HEAD: &str = "\
# Transactions

Every message that a Core sends to a Cell, and the tests that show what the Cell makes of it. They stand beside the code in `src/txn` and run against \
a simulated host (`cargo test --lib NAME` runs one); [testing.md](testing.md) lists the suites that do the same on a real one. The table is made of what those tests \
did when they ran last, all of them passing: each request, its answer, and the steps on the host that were made to fail meanwhile.

- *success*: of all tests in which the request succeeds, the one that does least besides.
- *failures*: the tests in which the request is refused or fails. Those of COMMON hold for all of them.
- *failure at every step*: the tests that let each operation of the host fail in turn, before and after it took effect. Unless something else is said, \
host, books and files are as they were before, and the request can be made again.

| message | handler | success | failures | failure at every step |
|---|---|---|---|---|
";
