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
    /// Lines that can't be read, with others behind them that can.
    pub(super) damaged: usize,
    /// Bytes at the end that can't be read.
    pub(super) tail: usize,
}

pub(super) fn read(content: &[u8]) -> Found {
    let mut found = Found::default();
    let mut unread = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        match parse(line) {
            Some((number, entry)) => {
                found.damaged += std::mem::take(&mut unread);
                found.tail = 0;
                apply(&mut found.open, number, entry, false);
            }
            None => {
                unread += 1;
                found.tail += line.len();
            }
        }
    }
    found
}

fn parse(line: &[u8]) -> Option<(u64, Entry)> {
    let (sum, rest) = line.strip_suffix(b"\n")?.split_at_checked(8)?;
    let json = rest.strip_prefix(b" ")?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if sum != crc32fast::hash(json) {
        return None;
    }
    let line: Line<Entry> = serde_json::from_slice(json).ok()?;
    (line.v == VERSION).then_some((line.n, line.entry))
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
