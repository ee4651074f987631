//! The audit trail: who had what changed on this node, and what became of it; one record a transaction.
//!
//! Contract: each transaction that changed something gives one record, and so does each one that would have destroyed something and was refused or
//! failed, or that left something half done. A request that concerns all guests names each of them with what was done to it. Secrets never get into a
//! record. Where records go is [`AuditLog`]'s business; it never holds up an answer.
//!
//! A change that is in the journal stays there until its record survives the end of the process, so a process that dies loses none: what it leaves is
//! completed or taken back, and that gives a record of its own, without the name of a Core. In the moment between the two there may be both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use chrono::{Local, SecondsFormat};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{timeout, Instant};

use super::failure::bounded;
use super::handlers::Entry;
use super::{Context, Failure, Node};
use crate::model::{GuestId, SessionId};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::journal::{Course, OpenRecord};

/// Takes the records.
pub trait AuditLog: Send + Sync {
    /// Notes one record; returns at once. What it gives tells when the record survives the end of the process.
    fn note(&self, record: &Record) -> oneshot::Receiver<()>;
}

/// How long a transaction's record in the journal is kept for an audit trail that can't be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Requests after which something is gone that cannot be had back.
const DESTRUCTIVE: &[MessageId] = &[
    MessageId::COMPUTE_CELL_REMOVED_EVENT,
    MessageId::DELETE_GUEST_REQUEST,
    MessageId::DELETE_SNAPSHOT_REQUEST,
    MessageId::DETACH_INSTANCE_REQUEST,
    MessageId::RESET_SYSTEM_REQUEST,
    MessageId::RESTORE_SNAPSHOT_REQUEST,
    MessageId::SHRINK_DISK_REQUEST,
];

/// What of a request is written down: everything that says what was wanted. A key that is not in here is not, passwords above all.
const TELLING: &[Key] = &[
    Key::Name,
    Key::Type,
    Key::Core,
    Key::Memory,
    Key::Disk,
    Key::Pool,
    Key::Cell,
    Key::Instance,
    Key::Enable,
    Key::Flag,
    Key::Option,
    Key::User,
    Key::Group,
    Key::Network,
    Key::Address,
    Key::Port,
    Key::Priority,
    Key::Limit,
    Key::Storage,
    Key::Source,
    Key::Target,
    Key::Mode,
    Key::Host,
    Key::Path,
    Key::Size,
    Key::Media,
    Key::Image,
    Key::Guest,
    Key::Immediate,
    Key::Admin,
    Key::Module,
    Key::Migration,
    Key::Template,
    Key::Gateway,
    Key::Server,
    Key::From,
    Key::To,
    Key::Index,
    Key::Protocol,
    Key::Action,
    Key::Policy,
];

/// A text of a request is written down up to this many characters, a list up to as many entries.
const LONGEST: usize = 256;

/// Who asks: the Core of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asker {
    /// The name that it gave.
    pub name: String,
    /// Where it takes connections.
    pub address: SocketAddrV4,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Carried out.
    Done,
    /// Not begun.
    Refused,
    /// Begun and not carried out.
    Failed,
}

/// A guest that a request about all of them concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Concerned {
    /// Its id.
    pub id: GuestId,
    /// Its name.
    pub name: String,
    /// "removed" when it is not on this node any more, else "kept".
    pub done: &'static str,
}

/// One line of the trail.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When it ended, local time with its offset (RFC 3339).
    pub time: String,
    /// Number of the transaction, as the log shows it; none when it never became one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Name of the message.
    pub message: String,
    /// The Core that asked; none when nobody said who it is.
    pub core: Option<Asker>,
    /// The Core's own session.
    pub core_session: u32,
    /// The guest that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// That guest's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_name: Option<String>,
    /// What was asked for, by the contract's names.
    pub parameters: Map<String, Value>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From its arrival to its end, milliseconds.
    pub duration_ms: u64,
    /// What became of each guest, where the request names none and concerns all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<Vec<Concerned>>,
}

/// The engine's end: to whom records go, and who asks at present.
#[derive(Clone, Default)]
pub(super) struct Audit {
    log: Option<Arc<dyn AuditLog>>,
    core: Option<Asker>,
}

impl Audit {
    pub(super) fn into(log: Arc<dyn AuditLog>) -> Self {
        Self { log: Some(log), core: None }
    }

    pub(super) fn joined(&mut self, core: Asker) {
        self.core = Some(core);
    }

    /// To be called before the work begins.
    pub(super) fn begin(&self, entry: Entry, context: &Context) -> Pending {
        let log = self.log.clone().filter(|_| entry.changes);
        let (node, request) = (&context.node, &context.request);
        let concerned = if log.is_some() && concerns_all(request) { all_guests(node) } else { BTreeMap::new() };
        let name = log.as_ref().and_then(|_| guest_name(node, subject(request)?.parse().ok()?));
        Pending { log, core: self.core.clone(), begun: Instant::now(), concerned, name }
    }

    /// A request that never became a transaction.
    pub(super) fn refused(&self, request: &Message, reason: &str) {
        let Some(log) = self.log.as_ref().filter(|_| DESTRUCTIVE.contains(&request.id)) else { return };
        drop(log.note(&record(request, self.core.clone(), None, (Outcome::Refused, Some(bounded(reason).into_owned())))));
    }
}

/// A transaction whose end is to be noted.
pub(super) struct Pending {
    log: Option<Arc<dyn AuditLog>>,
    core: Option<Asker>,
    begun: Instant,
    concerned: BTreeMap<GuestId, String>,
    name: Option<String>,
}

impl Pending {
    /// Returns when the record, if there is one, survives the end of the process.
    pub(super) async fn end(self, context: &Context, outcome: &Result<(), Failure>) {
        let Some(log) = self.log else { return };
        let request = &context.request;
        let ended = match outcome {
            Ok(()) => (Outcome::Done, None),
            Err(failure) if is_refusal(failure) => (Outcome::Refused, Some(bounded(&failure.to_string()).into_owned())),
            Err(failure) => (Outcome::Failed, Some(bounded(&failure.to_string()).into_owned())),
        };
        let is_half_done = outcome.as_ref().is_err_and(|failure| matches!(failure, Failure::NotUndone { .. }) || failure.outcome_unknown());
        if ended.0 != Outcome::Done && !is_half_done && !DESTRUCTIVE.contains(&request.id) {
            return;
        }
        let mut record = record(request, self.core, Some(context.session), ended);
        record.duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        record.guest_name = self.name.or_else(|| guest_name(&context.node, record.guest.as_ref()?.parse().ok()?));
        if concerns_all(request) {
            let left: BTreeSet<GuestId> = context.node.books.lock().guests.keys().copied().collect();
            let done = |id| if left.contains(&id) { "kept" } else { "removed" };
            record.guests = Some(self.concerned.into_iter().map(|(id, name)| Concerned { id, name, done: done(id) }).collect());
        }
        let _ = timeout(PATIENCE, log.note(&record)).await;
    }
}

/// What an earlier run, or an earlier request, had begun was completed or taken back; nobody has asked for that.
pub(super) fn cleaned_up(node: &Node, record: &OpenRecord, course: Course) {
    let Some(log) = node.trail.get() else { return };
    let OpenRecord { since, intent, .. } = record;
    let (outcome, what) = match course {
        Course::Forward => (Outcome::Done, "completed"),
        Course::Back => (Outcome::Failed, "taken back"),
    };
    let (guest, several) = match intent.guests.as_slice() {
        [guest] => (Some(*guest), None),
        [] => (None, None),
        guests => (None, Some(guests)),
    };
    let name = |id: GuestId| guest_name(node, id).unwrap_or_default();
    let concerned = |id: &GuestId| {
        let done = if node.books.guest(*id).is_ok() { "kept" } else { "removed" };
        Concerned { id: *id, name: name(*id), done }
    };
    drop(log.note(&Record {
        time: now(),
        transaction: None,
        // Without the number that the log shows behind the name.
        message: intent.what.split(" (").next().unwrap_or_default().to_owned(),
        core: None,
        core_session: 0,
        guest: guest.map(|id| id.to_string()),
        guest_name: guest.map(name).filter(|name| !name.is_empty()),
        parameters: Map::new(),
        outcome,
        reason: Some(format!("it was begun at {since} and had broken off; it is {what} now")),
        duration_ms: 0,
        guests: several.map(|guests| guests.iter().map(concerned).collect()),
    }));
}

fn now() -> String {
    Local::now().to_rfc3339_opts(SecondsFormat::Millis, false)
}

fn record(request: &Message, core: Option<Asker>, session: Option<SessionId>, (outcome, reason): (Outcome, Option<String>)) -> Record {
    Record {
        time: now(),
        transaction: session.map(|session| format!("{:08X}", session.0)),
        message: request.id.name().map_or_else(|| request.id.to_string(), str::to_owned),
        core,
        core_session: request.from,
        guest: subject(request).map(shortened),
        guest_name: None,
        parameters: parameters(request),
        outcome,
        reason,
        duration_ms: 0,
        guests: None,
    }
}

/// A purge, or the end of this node's membership in its pool.
fn concerns_all(request: &Message) -> bool {
    match request.id {
        MessageId::COMPUTE_CELL_REMOVED_EVENT => true,
        MessageId::DETACH_INSTANCE_REQUEST => request.string_array_params.get(&Key::Instance).is_some_and(Vec::is_empty),
        _ => false,
    }
}

fn all_guests(node: &Node) -> BTreeMap<GuestId, String> {
    let books = node.books.lock();
    books.guests.iter().map(|(id, guest)| (*id, guest.config.name.clone())).collect()
}

fn guest_name(node: &Node, id: GuestId) -> Option<String> {
    node.books.lock().guests.get(&id).map(|guest| guest.config.name.clone())
}

fn subject(request: &Message) -> Option<&str> {
    let texts = &request.string_params;
    texts.get(&Key::Instance).or_else(|| texts.get(&Key::Guest)).map(String::as_str)
}

/// Decided before anything was touched.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Parameter { .. } | Failure::NoSuchGuest(_) | Failure::Refused(_) | Failure::Unsupported(_))
}

fn parameters(request: &Message) -> Map<String, Value> {
    let mut told = Map::new();
    for key in TELLING {
        let number = |value: &u64| Value::from(*value);
        let text = |value: &String| Value::from(shortened(value));
        let list = |values: Vec<Value>| Value::Array(values);
        let found = request.string_params.get(key).map(text);
        let found = found.or_else(|| request.uint_params.get(key).map(number));
        let found = found.or_else(|| request.bool_params.get(key).map(|value| Value::from(*value)));
        let found = found.or_else(|| request.int_params.get(key).map(|value| Value::from(*value)));
        let found =
            found.or_else(|| request.uint_array_params.get(key).map(|values| list(values.iter().take(LONGEST).map(number).collect())));
        let found =
            found.or_else(|| request.string_array_params.get(key).map(|values| list(values.iter().take(LONGEST).map(text).collect())));
        if let (Some(name), Some(value)) = (key.name(), found) {
            told.insert(name.to_lowercase(), value);
        }
    }
    told
}

fn shortened(text: impl AsRef<str>) -> String {
    text.as_ref().chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests;
