//! What the rest of the service holds of its connection to the domain.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::error::SendError;
use crate::proto::member::LinkStatus;
use crate::proto::message::{Message, MessageId};

/// Messages that may wait for the driver.
pub(super) const OUTBOUND_QUEUE: usize = 4096;

/// How long [`DomainHandle::leave`] waits: the farewell's own limit and some time for the rest.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(4);

/// What a Cell needs to know to join its domain.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// The domain's multicast group.
    pub group: Ipv4Addr,
    /// The group's port; echoes come to the one below.
    pub port: u16,
    /// The domain's name.
    pub domain: String,
    /// Name of the bridge on which the domain is met. It may be missing or without an address for now.
    pub interface: String,
    /// Our name: `Cell_…`.
    pub name: String,
    /// A Core's fixed address, where multicast does not pass.
    pub core_address: Option<SocketAddrV4>,
    /// The only Core that is joined, by its name; any without it.
    pub core_name: Option<String>,
    /// The last run did not say "closed".
    pub unclean: bool,
}

/// What the domain has for us.
#[derive(Clone, Debug, PartialEq)]
pub enum DomainEvent {
    /// A Core took us.
    Joined {
        /// Number of this connection; grows with each.
        link: u64,
        /// The Core's name.
        core_name: String,
        /// Where it takes connections.
        core_address: SocketAddrV4,
        /// Our own address towards it.
        local_address: SocketAddrV4,
    },
    /// A message from the Core: a request or an event.
    Request {
        /// The connection that it came on; its answer goes back on this one or nowhere.
        link: u64,
        /// The message.
        message: Message,
    },
    /// A complete JSON object from the Core that is no valid message; its sender waits for an answer all the same.
    Invalid {
        /// The connection that it came on.
        link: u64,
        /// Its id, where that could be read.
        id: Option<MessageId>,
        /// The sender's session, 0 where it could not be read.
        from: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection is gone; recovery is under way unless we left.
    Left {
        /// The connection that ended.
        link: u64,
        /// Why.
        reason: String,
    },
}

/// Where the node stands in its domain, for people.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DomainStatus {
    /// The connection to a Core.
    pub link: LinkStatus,
    /// What keeps us from looking for one, such as a bridge without an address.
    pub trouble: Option<String>,
}

/// What the driver is handed.
#[expect(clippy::large_enum_variant, reason = "a question is rare, and the queue's slots are there anyway")]
pub(super) enum Outgoing {
    /// A message, and the connection that it belongs to.
    Message { link: Option<u64>, message: Message },
    /// Whether the driver gets on; answered as it is taken.
    Probe(oneshot::Sender<()>),
}

/// The way out for messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbound {
    queue: mpsc::Sender<Outgoing>,
}

impl Outbound {
    /// An outlet without a driver, for whoever wants to see what goes out.
    pub(super) fn new(queue: mpsc::Sender<Outgoing>) -> Self {
        Self { queue }
    }

    /// Queues a message: an answer with the link of its request, dropped when that is gone; an event with `None`, dropped
    /// while no Core has us. Never waits: a full queue is an error.
    pub fn send(&self, link: Option<u64>, message: Message) -> Result<(), SendError> {
        self.queue.try_send(Outgoing::Message { link, message }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Ended,
        })
    }
}

impl Outbound {
    /// True once the driver has taken this question, behind all that was sent before: it gets on.
    pub async fn probe(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Outgoing::Probe(answer)).await.is_ok() && answered.await.is_ok()
    }
}

/// Control over the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DomainHandle {
    outbound: Outbound,
    status: watch::Receiver<DomainStatus>,
    stop: CancellationToken,
}

impl DomainHandle {
    pub(super) fn new(outbound: Outbound, status: watch::Receiver<DomainStatus>, stop: CancellationToken) -> Self {
        Self { outbound, status, stop }
    }

    /// The way out for messages.
    pub fn outbound(&self) -> Outbound {
        self.outbound.clone()
    }

    /// Where the node stands; changes can be waited for.
    pub fn status(&self) -> watch::Receiver<DomainStatus> {
        self.status.clone()
    }

    /// Leaves the domain gracefully: what was sent before goes out, then the farewell. Returns when the driver has ended, false when it had not
    /// after some seconds.
    pub async fn leave(&self) -> bool {
        self.stop.cancel();
        let mut status = self.status.clone();
        let ended = async { while status.changed().await.is_ok() {} };
        tokio::time::timeout(LEAVE_TIMEOUT, ended).await.is_ok()
    }
}
