//! What a handler gets: its request, the node, its deadline, and the one answer it may give.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{timeout_at, Instant};

use crate::model::{GuestId, SessionId};
use crate::proto::message::{Key, Message, MessageId};

use super::failure::bounded;
use super::node::jobs::{Job, JobGuard};
use super::node::mailboxes::Mailbox;
use super::undo::settle;
use super::{params::Params, Failure, Node};

/// Where answers and events go; the domain's driver in the service, a list in tests.
pub trait Outbox: Send + Sync {
    /// Sends a message. `Some(link)` is an answer and belongs to the connection with that number: it is dropped when that one is
    /// gone, for the Core uses its session numbers again. `None` is an event for whichever Core is joined.
    fn send(&self, link: Option<u64>, message: Message);
}

/// One running transaction.
pub struct Context {
    /// State shared by all transactions.
    pub node: Arc<Node>,
    /// Number of this transaction.
    pub session: SessionId,
    /// What was asked.
    pub request: Message,
    link: u64,
    answer: Option<MessageId>,
    deadline: Instant,
    answered: AtomicBool,
    records: Mutex<Vec<u64>>,
    ended: Mutex<Vec<u64>>,
}

impl Context {
    /// A transaction for `request` that came over connection `link`; `answer` is the id of its answer, if it has one.
    pub fn new(node: Arc<Node>, session: SessionId, link: u64, request: Message, answer: Option<MessageId>, deadline: Instant) -> Self {
        Self {
            node,
            session,
            request,
            link,
            answer,
            deadline,
            answered: AtomicBool::new(false),
            records: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Typed access to the request's parameters.
    pub fn params(&self) -> Params<'_> {
        Params(&self.request)
    }

    /// When the answer has to be out.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// An empty success answer, to be filled and given to [`Context::respond`].
    pub fn success(&self) -> Message {
        Message::new(self.answer.unwrap_or(self.request.id.response())).succeeded()
    }

    /// Sends the answer. [`Failure::Expired`] when the deadline's answer went out before: the caller takes its work back, for
    /// the Core has given up on it.
    pub fn respond(&self, message: Message) -> Result<(), Failure> {
        self.claim()?;
        self.send(message);
        Ok(())
    }

    /// From now on nobody else answers: the caller does so by [`Context::send`], or gives that back by [`Context::unclaim`].
    /// [`Failure::Expired`] when the deadline's answer went out before.
    pub(in crate::txn) fn claim(&self) -> Result<(), Failure> {
        if self.answered.swap(true, Ordering::AcqRel) {
            return Err(Failure::Expired);
        }
        Ok(())
    }

    /// Gives a claim back.
    pub(in crate::txn) fn unclaim(&self) {
        self.answered.store(false, Ordering::Release);
    }

    /// Sends the answer that was claimed.
    pub(in crate::txn) fn send(&self, message: Message) {
        // Session 0 is nobody: a failover comes with it (contract §13.8).
        if self.answer.is_some() && self.request.from != 0 {
            self.node.outbox.send(Some(self.link), message.from_session(self.session.0).to_session(self.request.from));
        }
    }

    /// A record of the journal is this transaction's.
    pub(in crate::txn) fn note_record(&self, number: u64) {
        self.records.lock().push(number);
    }

    /// All records that were.
    pub(in crate::txn) fn records(&self) -> Vec<u64> {
        self.records.lock().clone()
    }

    /// Nothing is left to be done for one of them.
    pub(in crate::txn) fn ended(&self, number: u64) {
        self.ended.lock().push(number);
    }

    /// The transaction is over, and where that is noted it is: records for which nothing is left to be done end.
    pub(in crate::txn) fn end_records(&self) {
        for number in self.ended.lock().drain(..) {
            self.node.store.journal().end(number);
        }
    }

    /// Answers with a failure unless something was answered already; true when this was the answer.
    pub fn fail(&self, reason: &str) -> bool {
        let message = Message::new(self.answer.unwrap_or(self.request.id.response())).failed(bounded(reason));
        self.respond(message).is_ok()
    }

    /// [`Node::layout`] for reading, at most until the deadline.
    pub(in crate::txn) async fn read_layout(&self) -> Result<RwLockReadGuard<'_, ()>, Failure> {
        let held = timeout_at(self.deadline, self.node.layout.read()).await;
        held.map_err(|_| Failure::refused("no volume can be made now: the storage pools are being changed, and that has not ended in time"))
    }

    /// [`Node::layout`] for writing, at most until the deadline: behind whoever waits for it, everybody waits who makes a volume.
    pub(in crate::txn) async fn write_layout(&self) -> Result<RwLockWriteGuard<'_, ()>, Failure> {
        let held = timeout_at(self.deadline, self.node.layout.write()).await;
        held.map_err(|_| {
            Failure::refused(
                "the storage pools can't be changed now: volumes are being made, perhaps on a file server that does not answer; nothing was changed",
            )
        })
    }

    /// True once an answer is out.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// [`Failure::Expired`] once the deadline's answer is out: asked between the steps of a long change.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_answered() {
            return Err(Failure::Expired);
        }
        Ok(())
    }

    /// Opens the transaction's mailbox for one further message of the Core, which names our session. To be opened before the answer, which tells
    /// the Core that number. `about` are the guests that the transaction holds while it waits.
    pub fn mailbox(&self, expected: MessageId, about: &[GuestId]) -> Mailbox {
        self.node.mailboxes.open(self.session, expected, about)
    }

    /// Sends an event of this transaction.
    pub fn event(&self, message: Message) {
        self.node.outbox.send(None, message.from_session(self.session.0));
    }

    /// Sends an event that carries nothing but a guest's id.
    pub fn guest_event(&self, id: MessageId, guest: GuestId) {
        self.event(Message::new(id).string(Key::Instance, guest.to_string()));
    }

    /// Sends the event that a guest is gone; see [`Node::announce_end`](super::Node).
    pub(in crate::txn) fn announce_end(&self, event: Message) {
        self.node.announce_end(event.from_session(self.session.0));
    }

    /// Sends a message to the Core's own transaction that asked; dropped when its connection is gone.
    pub fn notify(&self, message: Message) {
        self.node.outbox.send(Some(self.link), message.from_session(self.session.0).to_session(self.request.from));
    }

    /// Waits for the guest to be free of other transactions, at most until the deadline, and not at all for one that takes long. What an earlier one
    /// could not take back or finish is cleaned up.
    pub async fn job(&self, guest: GuestId, job: Job) -> Result<JobGuard, Failure> {
        let held = self.node.jobs.acquire(guest, job, self.deadline).await?;
        // Whatever they left, a guest can be stopped and deleted.
        if !matches!(job, Job::Stop | Job::Delete) {
            settle(&self.node, &[guest]).await?;
        }
        Ok(held)
    }
}
