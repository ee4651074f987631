//! Sessions, deadlines and the promise that every request is answered.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use crate::model::SessionId;
use crate::proto::message::{Key, Message, MessageId};

use super::audit::{Asker, Audit, AuditLog};
use super::failure::bounded;
use super::handlers::{self, Entry};
use super::session::{SessionTable, NO_SESSION, SESSIONS};
use super::{recovery, Context, Failure, Node};

/// Until when a request has its answer, in a domain of this timeout. One tenth of it is kept back, because the Core's own clock runs since before
/// the request arrived (contract §5.3).
pub fn answer_time(timeout: Duration) -> Duration {
    timeout - timeout / 10
}

/// Runs transactions.
pub struct Engine {
    node: Arc<Node>,
    sessions: SessionTable,
    tasks: JoinSet<SessionId>,
    answer_within: Duration,
    closed: bool,
    audit: Audit,
}

impl Engine {
    /// An engine whose answers are out within `timeout`, the domain's configured timeout; see [`answer_time`].
    pub fn new(node: Arc<Node>, timeout: Duration) -> Self {
        Self {
            node,
            sessions: SessionTable::new(),
            tasks: JoinSet::new(),
            answer_within: answer_time(timeout),
            closed: false,
            audit: Audit::default(),
        }
    }

    /// The same with an audit trail.
    #[must_use]
    pub fn audited(mut self, log: Arc<dyn AuditLog>) -> Self {
        self.audit = Audit::into(log);
        self
    }

    /// From now on this Core asks.
    pub fn joined(&mut self, core: Asker) {
        self.audit.joined(core);
        self.node.missed.joined(self.node.outbox.as_ref());
    }

    /// No Core has us any more.
    pub fn left(&self) {
        self.node.missed.left();
    }

    /// How many transactions run.
    pub fn active(&self) -> usize {
        self.sessions.active()
    }

    /// Takes a message of the Core that came over connection `link`.
    pub fn request(&mut self, link: u64, message: Message) {
        self.node.counters.received.fetch_add(1, Ordering::Relaxed);
        let message = match self.node.mailboxes.deliver(message) {
            Ok(()) => return,
            Err(message) => message,
        };
        let Some(entry) = handlers::find(message.id).filter(|_| message.to == 0) else {
            self.refuse_unknown(link, &message);
            return;
        };
        if self.closed {
            self.refuse(link, &message, "this cell is shutting down");
            return;
        }
        let Some(session) = self.sessions.allocate(entry.changes) else {
            self.refuse(link, &message, &format!("this cell is busy: all its {SESSIONS} sessions are in use; try again later"));
            return;
        };
        self.run(entry, session, link, message);
    }

    /// Answers a request that was JSON but no message of the contract.
    pub fn invalid(&mut self, link: u64, id: Option<MessageId>, from: u32, reason: &str) {
        self.node.counters.received.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = id {
            self.refuse(link, &Message::new(id).from_session(from), &format!("{id} can't be read: {reason}"));
        }
    }

    fn refuse_unknown(&mut self, link: u64, message: &Message) {
        let reason = if message.to == 0 {
            format!("{} is not supported by this cell", message.id)
        } else {
            format!("no transaction of this cell waits for {} in session {}", message.id, SessionId(message.to))
        };
        self.refuse(link, message, &reason);
    }

    /// Answers with a failure where somebody waits for an answer.
    fn refuse(&self, link: u64, request: &Message, reason: &str) {
        self.node.warnings.warn(format_args!("refused {}: {}", request.id, bounded(reason)));
        self.audit.refused(request, reason);
        let answer = match handlers::find(request.id) {
            Some(entry) => entry.answer,
            None => request.id.is_request().then(|| request.id.response()),
        };
        if let Some(id) = answer.filter(|_| request.from != 0) {
            self.node.counters.failed.fetch_add(1, Ordering::Relaxed);
            let answer = Message::new(id).failed(bounded(reason)).from_session(NO_SESSION).to_session(request.from);
            self.node.outbox.send(Some(link), answer);
        }
    }

    fn run(&mut self, entry: Entry, session: SessionId, link: u64, message: Message) {
        let span = tracing::info_span!("txn", session = %session);
        let deadline = Instant::now() + self.answer_within;
        let context = Arc::new(Context::new(self.node.clone(), session, link, message, entry.answer, deadline));
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(transact(entry, context, self.audit.clone()).instrument(span));
        // Most queries end in their first step: they are answered here, in the same batch of datagrams, without a task of their own.
        match work.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => self.sessions.release(session),
            Poll::Pending => {
                self.tasks.spawn(async move {
                    work.await;
                    session
                });
            }
        }
    }

    /// Waits for one transaction to end and frees its session; for ever when none runs. May be dropped at any time.
    pub async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(session)) => self.sessions.release(session),
            // The task only awaits a future that catches panics, and nobody aborts it before `drain`.
            Some(Err(error)) => tracing::error!("a transaction's task ended by itself: {error}"),
            None => std::future::pending().await,
        }
    }

    /// From now on new requests are refused; those under way go on, but for transfers of disks and
    /// those that wait for a further message of the Core, which are taken back.
    pub fn close(&mut self) {
        self.closed = true;
        self.node.transfers.close();
        self.node.mailboxes.close();
    }
}

/// Runs a handler to its end; answers for it when it fails, panics or is late.
async fn transact(entry: Entry, context: Arc<Context>, audit: Audit) {
    let audit = audit.begin(entry, &context);
    let name = context.request.id;
    let subject = subject(&context.request);
    let counters = &context.node.counters;
    if entry.changes {
        tracing::info!("{name} begins{subject}");
    }
    let mut work = AssertUnwindSafe((entry.run)(context.clone())).catch_unwind();
    let late = tokio::select! {
        biased;
        outcome = &mut work => Some(outcome),
        () = tokio::time::sleep_until(context.deadline()) => None,
    };
    let outcome = match late {
        Some(outcome) => outcome,
        None => {
            if context.fail("the cell did not get it done in time; what was begun is taken back or finished in the background") {
                counters.expired.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{name} answered at its deadline; still at work");
            }
            work.await
        }
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(panic) => {
            let failure = Failure::Internal(describe_panic(panic.as_ref()));
            tracing::error!("{name}: {failure}");
            recovery::after_panic(&context.node, &context.records()).await;
            Err(failure)
        }
    };
    audit.end(&context, &outcome).await;
    context.end_records();
    match outcome {
        Ok(()) if entry.answer.is_none() || context.is_answered() => {
            if entry.changes {
                tracing::info!("{name} done{subject}");
            }
        }
        Ok(()) => {
            context.fail("internal error: the request ended without an answer");
            tracing::error!("{name} ended without an answer");
        }
        Err(failure) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            let reason = failure.to_string();
            let reason = bounded(&reason);
            context.fail(&reason);
            tracing::warn!("{name} failed{subject}: {reason}");
        }
    }
}

/// What a request is about, for the log: its guest's id and the name that it carries.
fn subject(request: &Message) -> String {
    let texts = &request.string_params;
    let guest = texts.get(&Key::Instance).or_else(|| texts.get(&Key::Guest)).map(|guest| format!(", guest {}", bounded(guest)));
    let name = texts.get(&Key::Name).map(|name| format!(", name {}", bounded(name)));
    guest.unwrap_or_default() + &name.unwrap_or_default()
}

fn describe_panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests;
