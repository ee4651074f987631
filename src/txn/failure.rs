//! Why a transaction failed, as the Core's user will read it.

use std::borrow::Cow;
use std::fmt;

use crate::host::{ErrorKind, HostError};
use crate::model::{Chain, GuestId};
use crate::proto::message::{Key, MessageId};
use crate::store::StoreError;

use super::node::transfers::StopReason;

/// No reason is longer, characters.
const LONGEST: usize = 1000;

/// The reason of a failure answer; its `Display` is the whole chain in one line, for it is printed once, at the edge.
#[derive(Debug)]
pub enum Failure {
    /// A parameter is missing, of the wrong type or out of range.
    Parameter {
        /// The request.
        message: MessageId,
        /// The parameter.
        key: Key,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// There is no such guest here.
    NoSuchGuest(GuestId),
    /// The request can't be carried out in the present state.
    Refused(String),
    /// It can't be known yet what is right: nothing is wrong, and it is looked at again.
    Undecided(String),
    /// This node does not do that.
    Unsupported(String),
    /// The host did not do it.
    Host(HostError),
    /// The change could not be written to `data/`.
    Store(StoreError),
    /// The deadline passed before the work was done.
    Expired,
    /// It failed, and taking it back failed too.
    NotUndone {
        /// Why it failed.
        cause: Box<Failure>,
        /// What is left behind and why.
        left: String,
    },
    /// A transfer was stopped before it was done.
    Stopped(StopReason),
    /// A defect of ours.
    Internal(String),
}

impl Failure {
    /// A refusal with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Why it was stopped; none when it failed by itself.
    pub fn stopped(&self) -> Option<StopReason> {
        match self {
            Self::Stopped(reason) => Some(*reason),
            Self::NotUndone { cause, .. } => cause.stopped(),
            _ => None,
        }
    }

    /// True when the host may still carry it out.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Host(error) if error.kind == ErrorKind::Unknown)
    }
}

/// A text for an answer or the log, of a length that is of use to anybody: it may quote what a request said.
pub(super) fn bounded(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter { message, key, problem } => write!(f, "{message}: parameter {key} {problem}"),
            Self::NoSuchGuest(id) => write!(f, "no guest {id} on this cell"),
            Self::Refused(reason) | Self::Undecided(reason) | Self::Unsupported(reason) => f.write_str(reason),
            Self::Host(error) => Chain(error).fmt(f),
            Self::Store(error) => Chain(error).fmt(f),
            Self::Expired => f.write_str("the deadline passed before the work was done; it is taken back"),
            Self::NotUndone { cause, left } => write!(f, "{cause}; taking it back failed as well: {left}"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
            Self::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}
