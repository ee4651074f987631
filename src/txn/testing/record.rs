//! What the tests ask of their nodes and what comes of it, for the table of transactions ([`super::table`]).
//!
//! Contract: nothing is recorded unless the environment names a file ([`RECORD`]). A run is one request of the Core; it lasts until the next one on
//! the same node, or the end of the test. It counts the operations of the host, and notes those that failed on demand.

use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::LINK;
use crate::host::sim::SimHost;
use crate::proto::message::{Message, MessageId};
use crate::txn::{Engine, Node};

/// Names the file that records are appended to.
pub(super) const RECORD: &str = "CELL_TEST_RECORD";

/// One request and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Path of the test.
    pub(super) test: String,
    /// Number of the request.
    pub(super) message: u32,
    /// It only prepared the node for the test.
    pub(super) setup: bool,
    /// It was answered by success, or, where there is no answer, did not fail.
    pub(super) success: bool,
    /// An event told that it failed after its answer.
    pub(super) failed_later: bool,
    /// Operations of the host up to the answer; to the end where there is no answer, or all of the work follows it.
    pub(super) steps: u64,
    /// Which of its operations failed on demand; 1 is its first.
    pub(super) faults: Vec<u64>,
}

#[derive(Default)]
struct State {
    run: Run,
    open: bool,
    setup: bool,
    session: u32,
    begun: u64,
    failures: u64,
    faults: usize,
    answered: bool,
}

/// Keeps the record of one node.
pub(super) struct Record {
    node: Mutex<Option<Arc<Node>>>,
    sim: SimHost,
    state: Mutex<State>,
    path: Option<std::ffi::OsString>,
}

impl Record {
    pub(super) fn new(sim: &SimHost) -> Self {
        Self { node: Mutex::new(None), sim: sim.clone(), state: Mutex::default(), path: std::env::var_os(RECORD) }
    }

    fn begin(&self, message: &Message) {
        if self.path.is_none() {
            return;
        }
        self.end();
        let mut state = self.state.lock();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        state.run = Run { test, message: message.id.0, setup: state.setup, ..Run::default() };
        (state.open, state.answered, state.session) = (true, false, message.from);
        state.begun = self.sim.operations();
        state.faults = self.sim.faults_met().len();
        state.failures = self.failures();
    }

    /// What follows prepares the node, or does so no more.
    pub(super) fn setup(&self, begins: bool) {
        self.state.lock().setup = begins;
    }

    /// Looks at what the node sends.
    pub(super) fn see(&self, link: Option<u64>, message: &Message) {
        let mut state = self.state.lock();
        if state.open && !state.answered && link == Some(LINK) && message.to == state.session && state.session != 0 {
            state.answered = true;
            state.run.success = message.success;
            state.run.steps = self.sim.operations() - state.begun;
        } else if !message.success && fails(message.id) == Some(MessageId(state.run.message)) {
            state.run.failed_later = true;
        }
    }

    fn failures(&self) -> u64 {
        self.node.lock().as_ref().map_or(0, |node| node.counters.failed.load(Ordering::Relaxed))
    }

    /// Ends the run that is open, and writes it down.
    fn end(&self) {
        let Some(path) = &self.path else { return };
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.open) {
            return;
        }
        let begun = state.begun;
        state.run.faults = self.sim.faults_met().into_iter().skip(state.faults).map(|number| number - begun).collect();
        if !state.answered {
            state.run.success = self.failures() == state.failures;
        }
        if state.run.steps == 0 {
            state.run.steps = self.sim.operations() - begun;
        }
        let line = serde_json::to_string(&state.run).unwrap() + "\n";
        // One write each: tests run side by side.
        std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The request whose late failure an event tells when it is no success (contract §5.2).
fn fails(event: MessageId) -> Option<MessageId> {
    match event {
        MessageId::GUEST_UPDATED_EVENT => Some(MessageId::CREATE_GUEST_REQUEST),
        MessageId::SYSTEM_RESET_EVENT => Some(MessageId::RESET_SYSTEM_REQUEST),
        MessageId::DISK_IMAGE_UPDATED_EVENT => Some(MessageId::CREATE_DISK_IMAGE_REQUEST),
        _ => None,
    }
}

/// An engine whose requests are recorded.
pub(in crate::txn) struct RecordedEngine {
    engine: Engine,
    record: Arc<Record>,
}

impl RecordedEngine {
    pub(super) fn new(engine: Engine, node: &Arc<Node>, record: Arc<Record>) -> Self {
        *record.node.lock() = Some(node.clone());
        Self { engine, record }
    }

    /// [`Engine::request`].
    pub(in crate::txn) fn request(&mut self, link: u64, message: Message) {
        self.record.begin(&message);
        self.engine.request(link, message);
    }
}

impl Deref for RecordedEngine {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl DerefMut for RecordedEngine {
    fn deref_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Drop for RecordedEngine {
    fn drop(&mut self) {
        self.record.end();
        // It and the node hold each other.
        *self.record.node.lock() = None;
    }
}
