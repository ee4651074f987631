//! A journal with damaged, torn and forged lines: what is read is what its whole lines say; what is written of it is read back as it was, also after
//! more was written; whatever the steps say, cleaning up after them neither panics nor leaves a record that somebody seems to work on.
//!
//! Most lines are made here, with their checksums, so that the fuzzer gets past them.
#![no_main]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::{Arbitrary, Unstructured};
use cell::host::sim::SimHost;
use cell::model::{GuestId, LOCAL_POOL};
use cell::proto::message::Message;
use cell::store::journal::{self, Course, Intent, Journal, OpenRecord, Step, NAME};
use cell::store::{Notice, Opened, Store};
use cell::txn::node::{Books, NodeSettings};
use cell::txn::{recovery, Node, Outbox};
use libfuzzer_sys::fuzz_target;
use serde_json::{json, Value};
use tokio_util::sync::CancellationToken;

/// One of each step, as the transactions write them.
static STEPS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let lines = include_str!("../../tests/vectors/journal/steps.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("a step")).collect()
});

const TEXTS: [&str; 10] =
    ["", "local0", "a_sys.qcow2", "/images/local0/a_sys.qcow2", "../../etc", "x\0y", "line\nbreak", "é\u{202e}", "nas", "begin"];

#[derive(Debug)]
struct Text(String);

impl<'a> Arbitrary<'a> for Text {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        cell_fuzz::text(u, &TEXTS).map(Self)
    }
}

#[derive(Arbitrary, Debug)]
enum Leaf {
    Null,
    Bool(bool),
    Number(u64),
    Negative(i64),
    Float(f64),
    Text(Text),
    List,
    Object,
}

impl Leaf {
    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Number(value) => json!(value),
            Self::Negative(value) => json!(value),
            Self::Float(value) => json!(value),
            Self::Text(Text(text)) => json!(text),
            Self::List => json!([]),
            Self::Object => json!({}),
        }
    }
}

/// What a step consists of.
#[derive(Arbitrary, Debug)]
enum Data<'a> {
    /// A real one, with some of its values replaced.
    Known(u8, Vec<(u8, Leaf)>),
    Raw(&'a str),
    Leaf(Leaf),
    Deep(u8),
}

impl Data<'_> {
    fn json(&self) -> Value {
        match self {
            Self::Known(which, changes) => {
                let mut data = STEPS[usize::from(*which) % STEPS.len()].clone();
                for (place, leaf) in changes {
                    replace(&mut data, &mut usize::from(*place), &leaf.json());
                }
                data
            }
            Self::Raw(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            Self::Leaf(leaf) => leaf.json(),
            Self::Deep(depth) => (0..*depth).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
        }
    }
}

/// Puts `leaf` in the place of the `nth` value that holds no others.
fn replace(value: &mut Value, nth: &mut usize, leaf: &Value) {
    match value {
        Value::Array(list) if !list.is_empty() => list.iter_mut().for_each(|item| replace(item, nth, leaf)),
        Value::Object(map) if !map.is_empty() => map.values_mut().for_each(|item| replace(item, nth, leaf)),
        found => {
            if *nth == 0 {
                found.clone_from(leaf);
            }
            *nth = nth.wrapping_sub(1);
        }
    }
}

fn steps(steps: &[(Text, Data)]) -> Vec<Step> {
    steps.iter().map(|(Text(about), data)| Step::new(about.clone(), &data.json()).expect("JSON")).collect()
}

fn course(forward: bool) -> Course {
    if forward {
        Course::Forward
    } else {
        Course::Back
    }
}

fn guest(number: u8) -> GuestId {
    GuestId::from_bytes([number % 3 + 1; 16])
}

#[derive(Arbitrary, Debug)]
struct Beginning<'a> {
    since: Text,
    what: Text,
    guests: Vec<u8>,
    forward: bool,
    steps: Vec<(Text, Data<'a>)>,
}

impl Beginning<'_> {
    fn intent(&self) -> Intent {
        let guests = self.guests.iter().map(|number| guest(*number)).collect();
        Intent { what: self.what.0.clone(), guests, course: course(self.forward), steps: steps(&self.steps) }
    }
}

/// What a line says of its record.
#[derive(Arbitrary, Debug)]
enum Entry<'a> {
    Begin(Beginning<'a>),
    Add(Vec<(Text, Data<'a>)>),
    Turn(bool, Vec<(Text, Data<'a>)>),
    End,
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("JSON")
}

impl Entry<'_> {
    fn json(&self) -> String {
        match self {
            Self::Begin(beginning) => {
                format!(r#"{{"begin":{{"since":{},"intent":{}}}}}"#, text(&beginning.since.0), text(&beginning.intent()))
            }
            Self::Add(added) => format!(r#"{{"add":{{"steps":{}}}}}"#, text(&steps(added))),
            Self::Turn(forward, left) => format!(r#"{{"turn":{{"course":{},"steps":{}}}}}"#, text(&course(*forward)), text(&steps(left))),
            Self::End => r#""end""#.to_owned(),
        }
    }

    /// What it does to the records, said a second time.
    fn apply(&self, number: u64, open: &mut BTreeMap<u64, OpenRecord>) {
        match (self, open.get_mut(&number)) {
            (Self::Begin(beginning), _) => {
                let record = OpenRecord { number, since: beginning.since.0.clone(), intent: beginning.intent(), running: false };
                open.insert(number, record);
            }
            (Self::Add(added), Some(record)) => record.intent.steps.extend(steps(added)),
            (Self::Turn(forward, left), Some(record)) => (record.intent.course, record.intent.steps) = (course(*forward), steps(left)),
            (Self::End, _) => drop(open.remove(&number)),
            (Self::Add(_) | Self::Turn(..), None) => {}
        }
    }
}

/// A piece of the file.
#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Line(u8, Entry<'a>),
    /// A record with any number, of any version.
    Strange(u64, u8, Entry<'a>),
    /// A line with bytes of its JSON replaced, and the checksum of that.
    Forged(u8, Entry<'a>, Vec<(u16, u8)>),
    /// Any text with its checksum.
    Signed(&'a [u8]),
    Raw(&'a [u8]),
}

/// With its checksum and its end.
fn signed(json: &[u8]) -> Vec<u8> {
    let mut line = format!("{:08x} ", crc32fast::hash(json)).into_bytes();
    line.extend_from_slice(json);
    line.push(b'\n');
    line
}

fn plain(number: u64, version: u32, entry: &Entry) -> Vec<u8> {
    format!(r#"{{"v":{version},"n":{number},"entry":{}}}"#, entry.json()).into_bytes()
}

fn damage(bytes: &mut [u8], changes: &[(u16, u8)]) {
    for (place, byte) in changes {
        let count = bytes.len().max(1);
        if let Some(at) = bytes.get_mut(usize::from(*place) % count) {
            *at = *byte;
        }
    }
}

impl Piece<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Line(number, entry) => signed(&plain(u64::from(*number), 1, entry)),
            Self::Strange(number, version, entry) => signed(&plain(*number, u32::from(*version), entry)),
            Self::Forged(number, entry, changes) => {
                let mut json = plain(u64::from(*number), 1, entry);
                damage(&mut json, changes);
                signed(&json)
            }
            Self::Signed(text) => signed(text),
            Self::Raw(bytes) => bytes.to_vec(),
        }
    }
}

/// What the service goes on to write.
#[derive(Arbitrary, Debug)]
enum Operation<'a> {
    Begin(Beginning<'a>),
    Add(u8, Vec<(Text, Data<'a>)>),
    Turn(u8, bool, Vec<(Text, Data<'a>)>),
    End(u8),
    Take(u8),
    Leave(u8),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    pieces: Vec<Piece<'a>>,
    damage: Vec<(u16, u8)>,
    cut: u16,
    operations: Vec<Operation<'a>>,
}

/// Its checksum is right and it has its end.
fn is_whole(line: &[u8]) -> bool {
    let sum_and_json = line.strip_suffix(b"\n").and_then(|line| line.split_at_checked(9));
    sum_and_json.is_some_and(|(sum, json)| {
        let sum = std::str::from_utf8(sum).ok().and_then(|sum| u32::from_str_radix(sum.strip_suffix(' ')?, 16).ok());
        sum == Some(crc32fast::hash(json))
    })
}

/// What the lines made here say, of those that came through whole; `None` when there are others with a good checksum.
fn expected(content: &[u8], pieces: &[Piece]) -> Option<BTreeMap<u64, OpenRecord>> {
    let known: HashMap<Vec<u8>, (u64, &Entry)> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Line(number, entry) => Some((piece.bytes(), (u64::from(*number), entry))),
            _ => None,
        })
        .collect();
    let mut open = BTreeMap::new();
    for line in content.split_inclusive(|byte| *byte == b'\n').filter(|line| is_whole(line)) {
        let (number, entry) = known.get(line)?;
        entry.apply(*number, &mut open);
    }
    Some(open)
}

fn content(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join(NAME)).expect("the journal")
}

fn read(directory: &Path) -> Vec<OpenRecord> {
    journal::read(directory).expect("readable")
}

/// As a start numbers them, and with nobody at work on them.
fn at_start(mut records: Vec<OpenRecord>) -> Vec<OpenRecord> {
    records.iter_mut().zip(1..).for_each(|(record, number)| (record.number, record.running) = (number, false));
    records
}

/// A start; it puts the journal in order.
fn open(directory: &Path) -> (Opened, Vec<Notice>) {
    let opened = Store::open(directory, "br0").expect("a readable directory");
    let notices = opened.loaded.notices.clone();
    (opened, notices)
}

/// The first start of a damaged directory, and a second one.
fn start(directory: &Path, given: &[u8]) -> Opened {
    let (opened, notices) = open(directory);
    let records = opened.store.journal().open_records();
    for notice in &notices {
        match notice {
            Notice::JournalDamaged { aside, .. } => {
                assert_eq!(std::fs::read(directory.join(aside)).expect("kept aside"), given);
            }
            Notice::JournalTail { bytes } => assert_eq!(*bytes, given.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len)),
            _ => {}
        }
    }
    let compact = content(directory);
    assert!(compact.split_inclusive(|byte| *byte == b'\n').all(is_whole));
    drop(opened);
    let (again, notices) = open(directory);
    assert!(notices.is_empty(), "what we wrote ourselves is not in order: {notices:?}");
    assert_eq!(again.store.journal().open_records(), records);
    assert_eq!(content(directory), compact);
    again
}

async fn operate(journal: &Journal, operation: &Operation<'_>) {
    let numbers: Vec<u64> = journal.open_records().iter().map(|record| record.number).collect();
    let nth = |number: &u8| numbers.get(usize::from(*number) % numbers.len().max(1)).copied().unwrap_or(u64::from(*number));
    match operation {
        Operation::Begin(beginning) => {
            let number = journal.begin(beginning.intent()).await.expect("written");
            assert!(numbers.iter().all(|other| *other < number), "{number} is not behind {numbers:?}");
            assert!(journal.record(number).is_some_and(|record| record.running && record.intent == beginning.intent()));
        }
        Operation::Add(number, added) => journal.add(nth(number), steps(added)).await.expect("written"),
        Operation::Turn(number, forward, left) => journal.turn(nth(number), course(*forward), steps(left)).await.expect("written"),
        Operation::End(number) => journal.end(nth(number)),
        Operation::Take(number) => drop(journal.take(nth(number))),
        Operation::Leave(number) => journal.leave(nth(number)),
    }
}

struct Nobody;

impl Outbox for Nobody {
    fn send(&self, _: Option<u64>, _: Message) {}
}

/// Goes on writing, then cleans up as a start does.
async fn go_on(opened: Opened, operations: &[Operation<'_>]) -> Vec<OpenRecord> {
    let sim = SimHost::new();
    let host = sim.host();
    let mut loaded = opened.loaded;
    let pool = host.storage.ensure_local_pool(LOCAL_POOL, "/images/local0").await.expect("a pool");
    host.storage.create_volume(LOCAL_POOL, "a_sys.qcow2", 1 << 20).await.expect("a volume");
    loaded.storage.pools.insert(pool.name.clone(), pool);
    let books = Arc::new(Books::new(loaded));
    let stop = CancellationToken::new();
    let writer = tokio::spawn(opened.writer.run(books.clone(), stop.clone()));
    let settings = NodeSettings { bridge: "br0".into(), name: "Cell_a".into(), pools_dir: "/pools".into() };
    let node = Arc::new(Node::new(host, books, opened.store, Arc::new(Nobody), settings));
    let journal = node.store.journal().clone();
    for operation in operations {
        operate(&journal, operation).await;
    }
    let running =
        |journal: &Journal| journal.open_records().iter().filter(|record| record.running).map(|record| record.number).collect::<Vec<_>>();
    let before = running(&journal);
    recovery::clean_up(&node).await;
    assert_eq!(running(&journal), before, "whoever cleans up leaves what stays");
    stop.cancel();
    writer.await.expect("the writer ends").expect("in order");
    journal.open_records()
}

fuzz_target!(|input: Input| {
    let mut given: Vec<u8> = input.pieces.iter().flat_map(Piece::bytes).collect();
    damage(&mut given, &input.damage);
    given.truncate(given.len().saturating_sub(usize::from(input.cut)));
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let directory = directory.path();
    std::fs::write(directory.join(NAME), &given).expect("written");
    let Ok(records) = journal::read(directory) else {
        // Lines of another version: nothing is begun, and nothing touched.
        assert!(Store::open(directory, "br0").is_err());
        return assert_eq!(content(directory), given);
    };
    let known = expected(&given, &input.pieces);
    if let Some(known) = &known {
        assert!(known.values().eq(&records), "{known:?} were read as {records:?}");
    }
    let opened = start(directory, &given);
    assert_eq!(opened.store.journal().open_records(), at_start(records.clone()));
    // Lines that are not whole change nothing.
    let whole: Vec<u8> = given.split_inclusive(|byte| *byte == b'\n').filter(|line| is_whole(line)).flatten().copied().collect();
    let other = directory.join("whole");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join(NAME), whole).expect("written");
    assert_eq!(read(&other), records);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let left = runtime.block_on(go_on(opened, &input.operations));
    assert_eq!(at_start(read(directory)), at_start(left));
});
