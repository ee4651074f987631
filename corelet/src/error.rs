//! What can go wrong, for people.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use cell::proto::message::MessageId;

/// Why a Core could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No interface of this host has the address.
    #[error("no interface of this host has the address {address}; it has {}", list(.present))]
    NoSuchAddress {
        /// What was asked for.
        address: Ipv4Addr,
        /// What there is.
        present: Vec<(String, Ipv4Addr)>,
    },
    /// The interfaces could not be listed.
    #[error("cannot list the addresses of this host")]
    Interfaces(#[source] io::Error),
    /// No port to listen on, or the multicast group cannot be joined.
    #[error(transparent)]
    Net(#[from] cell::net::NetError),
}

fn list(present: &[(String, Ipv4Addr)]) -> String {
    let entries: Vec<String> = present.iter().map(|(name, address)| format!("{address} ({name})")).collect();
    if entries.is_empty() {
        "none".into()
    } else {
        entries.join(", ")
    }
}

/// Why a request has no successful answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// No such Cell is connected.
    #[error("no Cell named {0} is connected")]
    NoSuchCell(String),
    /// The Cell said no.
    #[error("{cell} refused {id}: {reason}")]
    Refused {
        /// Who.
        cell: String,
        /// What.
        id: MessageId,
        /// The reason that it gave.
        reason: String,
    },
    /// The Cell did not answer.
    #[error("{cell} did not answer {id} within {} s", .timeout.as_secs_f64())]
    Timeout {
        /// Who.
        cell: String,
        /// What.
        id: MessageId,
        /// How long was waited.
        timeout: Duration,
    },
    /// The Cell went away before it answered.
    #[error("{cell} went away before it answered {id}: {reason}")]
    Gone {
        /// Who.
        cell: String,
        /// What.
        id: MessageId,
        /// Why the connection ended.
        reason: String,
    },
    /// All session numbers are in use.
    #[error("all 1024 sessions are in use; wait for some answers first")]
    NoFreeSession,
    /// The connection does not take the message.
    #[error("{id} cannot be sent to {cell}: {reason}")]
    NotSent {
        /// To whom.
        cell: String,
        /// What.
        id: MessageId,
        /// Why.
        reason: String,
    },
    /// The answer lacks something.
    #[error("{cell} answered {id} with an answer that cannot be read")]
    Answer {
        /// Who.
        cell: String,
        /// The request.
        id: MessageId,
        /// What is wrong with the answer.
        #[source]
        source: crate::answers::AnswerError,
    },
}

/// Why something that was waited for did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    /// Not in time.
    #[error("not within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// No Cell joined in time.
    #[error("no Cell{} joined within {} s; is one running in domain '{domain}', and does multicast pass between it and {listen}?", .name.as_ref().map(|name| format!(" named {name}")).unwrap_or_default(), .timeout.as_secs_f64())]
    NoCell {
        /// The name that was asked for.
        name: Option<String>,
        /// How long was waited.
        timeout: Duration,
        /// Our domain.
        domain: String,
        /// Where we listen.
        listen: Ipv4Addr,
    },
    /// A Cell came but could not be taken into the pool.
    #[error("{cell} connected, but did not take its pool: {reason}")]
    PoolRefused {
        /// Who.
        cell: String,
        /// Why.
        reason: String,
    },
    /// The Core ended.
    #[error("this Core was closed")]
    Closed,
}
