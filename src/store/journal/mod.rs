//! `journal.data`: what running transactions are about to do, so that a crash can be cleaned up after.
//!
//! Contract:
//! - A record is **open** from [`Journal::begin`] until it ends. It says which steps there are and its [`Course`]: `Back` until the transaction
//!   has succeeded, `Forward` afterwards. What a step is, only the transactions know; here it is JSON with a text for people.
//! - `begin`, `add` and `turn` return when the record is durable, and calls that come while one write is under way share the next fsync. One that
//!   fails has not happened: nobody may begin what it announces, and what it left in the file is cut off before the caller is told. [`Journal::done`] and [`Journal::end`] are not waited for: a record that is carried out twice
//!   costs nothing, for all steps are idempotent.
//! - Each line is a checksum (CRC-32, eight hexadecimal digits), a blank, and a JSON object with the version of the format. The file only grows;
//!   when most of it is of ended records, and after a write that failed, it is written anew beside and renamed. Mode 0600: there are
//!   passwords in it.
//! - A torn end, the part of a line, is cut. Whole lines that can't be read, wherever they are, are passed over, and the file is kept aside; both are a
//!   [`Notice`]. Sound lines of another version are no damage: nothing is opened ([`StoreError::JournalVersion`]).
//! - Records that were open when the process ended are there at the next start, in their order, numbered anew. A transaction that can't take back what it did
//!   leaves its record open as well ([`OpenRecord::running`] is false then).

mod line;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{to_raw_value, RawValue};
use tokio::sync::{mpsc, oneshot};

use super::files::{Files, Former};
use super::{loss, Notice, StoreError};
use crate::model::GuestId;

pub(super) use writer::JournalWriter;

/// Its name in the data directory.
pub const NAME: &str = "journal.data";

/// Which way a record goes when it is found open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// The steps are taken back, last first.
    Back,
    /// The steps are carried out, first first.
    Forward,
}

/// A step of a transaction.
#[derive(Clone, Serialize, Deserialize)]
pub struct Step {
    /// What it is about, for people: "volume a.qcow2 in pool local0".
    pub about: String,
    /// As it was written: what is nested too deep for somebody else must not cost the line.
    data: Box<RawValue>,
}

impl Step {
    /// A step of which the transactions make `data`.
    ///
    /// # Errors
    /// It has no JSON form.
    pub fn new(about: String, data: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self { about, data: to_raw_value(data)? })
    }

    /// What the transactions make of it.
    ///
    /// # Errors
    /// It is something else.
    pub fn data<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.data.get())
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.about == other.about && self.data.get() == other.data.get()
    }
}

impl fmt::Debug for Step {
    /// Without what the transactions make of it: there may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Step").field(&self.about).finish()
    }
}

/// What a transaction is going to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Name of the transaction, for people.
    pub what: String,
    /// The guests that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestId>,
    /// Which way it goes now.
    pub course: Course,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
}

/// A record that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRecord {
    /// Its number, from this start to the next: later ones have higher ones.
    pub number: u64,
    /// When it began: `YYYY-MM-DD HH:MM:SS`, local time.
    pub since: String,
    /// What it says.
    pub intent: Intent,
    /// Somebody in this process works on it.
    pub running: bool,
}

/// The handle of whoever writes records. Clones share the file.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::UnboundedSender<Request>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<BTreeMap<u64, OpenRecord>>,
    last: AtomicU64,
}

/// Something to write.
struct Request {
    number: u64,
    entry: line::Entry,
    /// None: nobody waits.
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Journal {
    /// Reads what is there, and leaves a file behind that can be appended to. Refuses records of another version, and leaves them as they are.
    pub(super) fn open(files: &Files, time: &str) -> Result<(Self, JournalWriter, Vec<Notice>), StoreError> {
        let content = files.read(NAME)?;
        let found = read_lines(content.as_deref().unwrap_or_default(), &files.path(NAME))?;
        let mut notices = Vec::new();
        if found.damaged > 0 {
            loss::mark(files, NAME, time)?;
            let aside = files.set_aside(NAME, time)?;
            notices.push(Notice::JournalDamaged { lines: found.damaged, aside });
        }
        if found.tail > 0 {
            notices.push(Notice::JournalTail { bytes: found.tail });
        }
        // Numbered anew: whatever the file says, there is always a next number.
        let records = (1..).zip(found.open.into_values());
        let open: BTreeMap<u64, OpenRecord> = records.map(|(number, record)| (number, OpenRecord { number, ..record })).collect();
        let last = open.keys().next_back().copied().unwrap_or_default();
        let compact = line::write_all(&open)?;
        if content.as_ref() != Some(&compact) {
            files.replace(&[(NAME, &compact)], Former::Drop)?;
        }
        let shared = Arc::new(Shared { open: Mutex::new(open), last: AtomicU64::new(last) });
        let (queue, requests) = mpsc::unbounded_channel();
        let writer = JournalWriter::new(requests, files.clone(), shared.clone(), compact.len());
        Ok((Self { queue, shared }, writer, notices))
    }

    /// Announces what is going to be done; its number. Durable on return.
    ///
    /// # Errors
    /// The journal can't be written: nothing may be done.
    pub async fn begin(&self, intent: Intent) -> Result<u64, StoreError> {
        let number = self.shared.last.fetch_add(1, Ordering::Relaxed) + 1;
        let since = chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string();
        self.write(number, line::Entry::Begin { since, intent }).await?;
        Ok(number)
    }

    /// Announces further steps of a record. Durable on return.
    ///
    /// # Errors
    /// The journal can't be written: these steps may not be done.
    pub async fn add(&self, number: u64, steps: Vec<Step>) -> Result<(), StoreError> {
        self.write(number, line::Entry::Add { steps }).await
    }

    /// From now on the record has this course and these steps. Durable on return.
    ///
    /// # Errors
    /// The journal can't be written: the record is as it was.
    pub async fn turn(&self, number: u64, course: Course, steps: Vec<Step>) -> Result<(), StoreError> {
        self.write(number, line::Entry::Turn { course, steps }).await
    }

    /// Nothing is left to be done for a record that stays open all the same, for it is still to be told of. Written soon.
    pub fn done(&self, number: u64) {
        if let Some(record) = self.shared.open.lock().get_mut(&number) {
            record.intent.course = Course::Forward;
            record.intent.steps.clear();
        }
        let _ = self.queue.send(Request { number, entry: line::Entry::Turn { course: Course::Forward, steps: Vec::new() }, done: None });
    }

    /// A record is over. Written soon.
    pub fn end(&self, number: u64) {
        self.shared.open.lock().remove(&number);
        // A writer that has ended is missed by whoever waits for it.
        let _ = self.queue.send(Request { number, entry: line::Entry::End, done: None });
    }

    async fn write(&self, number: u64, entry: line::Entry) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        self.queue.send(Request { number, entry, done: Some(done) }).map_err(|_| StoreError::Closed)?;
        result.await.unwrap_or(Err(StoreError::Closed))
    }

    /// All open records, in their order.
    pub fn open_records(&self) -> Vec<OpenRecord> {
        self.shared.open.lock().values().cloned().collect()
    }

    /// One open record.
    pub fn record(&self, number: u64) -> Option<OpenRecord> {
        self.shared.open.lock().get(&number).cloned()
    }

    /// Open records of this kind on which nobody works, in their order.
    pub fn left(&self, which: impl Fn(&Intent) -> bool) -> Vec<u64> {
        let open = self.shared.open.lock();
        open.values().filter(|record| !record.running && which(&record.intent)).map(|record| record.number).collect()
    }

    /// Takes an open record on which nobody works; none when there is no such record.
    pub fn take(&self, number: u64) -> Option<OpenRecord> {
        let mut open = self.shared.open.lock();
        let record = open.get_mut(&number).filter(|record| !record.running)?;
        record.running = true;
        Some(record.clone())
    }

    /// Nobody works on a record any more, and it stays open.
    pub fn leave(&self, number: u64) {
        if let Some(record) = self.shared.open.lock().get_mut(&number) {
            record.running = false;
        }
    }
}

/// What a file says; refuses what another version has written, for nobody here knows what it would leave half done.
fn read_lines(content: &[u8], path: &Path) -> Result<line::Found, StoreError> {
    let found = line::read(content);
    match found.foreign {
        Some(version) => Err(StoreError::JournalVersion { path: path.to_owned(), version }),
        None => Ok(found),
    }
}

/// The open records of a data directory, for somebody who only looks: nothing is written, and a service may be at work on it. A record that is
/// being written right now may be missing.
///
/// # Errors
/// The file is there and can't be read, or is of another version.
pub fn read(directory: &Path) -> Result<Vec<OpenRecord>, StoreError> {
    let path = directory.join(NAME);
    match std::fs::read(&path) {
        Ok(content) => Ok(read_lines(&content, &path)?.open.into_values().collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io("read", &path, error)),
    }
}
