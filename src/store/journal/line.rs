//! Records to lines and back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Course, Intent, OpenRecord, Step};
use crate::store::StoreError;

/// Version of the format. A line of a later one can't be read.
const VERSION: u32 = 1;

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry {
    /// It begins.
    Begin { since: String, intent: Intent },
    /// It has further steps.
    Add { steps: Vec<Step> },
    /// It has another course and other steps.
    Turn { course: Course, steps: Vec<Step> },
    /// It is over.
    End,
}

#[derive(Serialize, Deserialize)]
struct Line<E> {
    v: u32,
    n: u64,
    entry: E,
}

/// One line with its newline.
pub(super) fn write(number: u64, entry: &Entry) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec(&Line { v: VERSION, n: number, entry }).map_err(|source| StoreError::Record { source: source.into() })?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// A file with nothing but these records.
pub(super) fn write_all(open: &BTreeMap<u64, OpenRecord>) -> Result<Vec<u8>, StoreError> {
    let mut content = Vec::new();
    for record in open.values() {
        let entry = Entry::Begin { since: record.since.clone(), intent: record.intent.clone() };
        content.extend(write(record.number, &entry)?);
    }
    Ok(content)
}

/// What a file holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) open: BTreeMap<u64, OpenRecord>,
    /// Lines that can't be read.
    pub(super) damaged: usize,
    /// Bytes at the end that are no line yet.
    pub(super) tail: usize,
    /// The version of sound lines that are of another one.
    pub(super) foreign: Option<u64>,
}

pub(super) fn read(content: &[u8]) -> Found {
    let mut found = Found::default();
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            found.tail = line.len();
            break;
        };
        match parse(whole) {
            Content::Record(number, entry) => apply(&mut found.open, number, *entry, false),
            Content::Foreign(version) => found.foreign = Some(version),
            Content::Damaged => found.damaged += 1,
        }
    }
    found
}

/// What a line holds.
enum Content {
    Record(u64, Box<Entry>),
    /// Written as it is by another version.
    Foreign(u64),
    Damaged,
}

fn parse(line: &[u8]) -> Content {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    let Some(json) = checked(line) else { return Content::Damaged };
    match serde_json::from_slice::<Version>(json) {
        Ok(Version { v }) if v != u64::from(VERSION) => return Content::Foreign(v),
        _ => {}
    }
    serde_json::from_slice::<Line<Entry>>(json).map_or(Content::Damaged, |line| Content::Record(line.n, Box::new(line.entry)))
}

/// The JSON of a line whose checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = line.split_at_checked(8)?;
    let json = rest.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (sum == crc32fast::hash(json)).then_some(json)
}

/// Enters what became of a record. What is said of a record that is not open is passed over.
pub(super) fn apply(open: &mut BTreeMap<u64, OpenRecord>, number: u64, entry: Entry, running: bool) {
    match entry {
        Entry::Begin { since, intent } => {
            open.insert(number, OpenRecord { number, since, intent, running });
        }
        Entry::Add { steps } => {
            if let Some(record) = open.get_mut(&number) {
                record.intent.steps.extend(steps);
            }
        }
        Entry::Turn { course, steps } => {
            if let Some(record) = open.get_mut(&number) {
                (record.intent.course, record.intent.steps) = (course, steps);
            }
        }
        Entry::End => {
            open.remove(&number);
        }
    }
}
