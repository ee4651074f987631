//! What goes into a membership and what comes out.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::proto::discovery::QueryTiming;
use crate::proto::message::{Message, MessageId};
use crate::proto::peer::{self, Timing};
use crate::proto::transport::TransportConfig;

/// What a membership needs to know from the start.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Our name in the domain (transport §4.5).
    pub name: String,
    /// The domain that we look for.
    pub domain: String,
    /// A Core's fixed address, where multicast does not pass; without it the domain is searched.
    pub core_address: Option<SocketAddrV4>,
    /// The only Core that is joined, by the name that it gives in the handshake; any without it.
    pub core_name: Option<String>,
    /// The last run did not say "closed", so a Core may still hold its connection under our name (transport §4.4).
    pub unclean: bool,
    /// Seed of ping ids, conversation numbers and back-off: from the system's generator, fixed in tests.
    pub seed: u64,
    /// The intervals of the connection.
    pub connection: Timing,
    /// The intervals of the search.
    pub query: QueryTiming,
    /// The intervals of the recovery.
    pub recovery: Recovery,
    /// Template of every connection's transport; its `conv` is replaced by a new random one each time.
    pub transport: TransportConfig,
}

impl MembershipConfig {
    /// The contract's intervals.
    pub fn new(name: impl Into<String>, domain: impl Into<String>, seed: u64) -> Self {
        Self {
            name: name.into(),
            domain: domain.into(),
            core_address: None,
            core_name: None,
            unclean: false,
            seed,
            connection: Timing::CELL,
            query: QueryTiming::default(),
            recovery: Recovery::default(),
            transport: TransportConfig::default(),
        }
    }
}

/// How a membership recovers. The goal that they add up to: usable within 5 s of a Core's return and of our own restart.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// No message within this after the handshake: the Core does not serve this connection (transport §4.4: two intervals).
    pub deaf: Duration,
    /// No message within this while joined: ask around whether the Core is alive.
    pub silence: Duration,
    /// How long echoes must come before a connection is given up on which not even acknowledgements come.
    pub grace_dumb: Duration,
    /// How long echoes must come before a connection is given up that is acknowledged but silent.
    pub grace_silent: Duration,
    /// No datagram within this while joined: ask the other end at once for a sign, and again after each such time.
    pub probe: Duration,
    /// How long a restart of the other end must be evident before it is believed: datagrams may be old or replayed.
    pub restart: Duration,
    /// How long the address of a joined Core must refuse datagrams before the Core counts as gone.
    pub refusal: Duration,
    /// How long the farewell before a reconnect may take.
    pub farewell: Duration,
    /// Pause between the acknowledged farewell and the new connection, so that the Core handles them in this order.
    pub settle: Duration,
    /// Least pause after a failed attempt; doubled by each further one, with jitter.
    pub least_pause: Duration,
    /// Greatest pause after a failed attempt.
    pub greatest_pause: Duration,
    /// How long a failed address is distrusted when an echo names it.
    pub distrust: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            deaf: Duration::from_millis(6200),
            silence: Duration::from_millis(6500),
            grace_dumb: Duration::from_millis(1200),
            grace_silent: Duration::from_millis(3500),
            probe: Duration::from_secs(1),
            restart: Duration::from_millis(600),
            refusal: Duration::from_secs(1),
            farewell: Duration::from_millis(1500),
            settle: Duration::from_millis(150),
            least_pause: Duration::from_millis(200),
            greatest_pause: Duration::from_millis(1500),
            distrust: Duration::from_secs(10),
        }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Send this to the domain's multicast group.
    Ping(Vec<u8>),
    /// Open a fresh socket towards this address in place of any other, then call `socket_opened` or `socket_failed`.
    Open(SocketAddrV4),
    /// Send this on the open socket.
    Transmit(Vec<u8>),
    /// Close the open socket.
    CloseSocket,
    /// Tell the rest of the service.
    Event(MemberEvent),
}

/// What the rest of the service is told.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberEvent {
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
    /// A message from the Core.
    Message {
        /// The connection that it came on.
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
    /// The Core is silent; the connection is kept for now.
    Lost {
        /// The silent connection.
        link: u64,
    },
    /// The Core is heard again on the same connection.
    Recovered {
        /// The connection.
        link: u64,
    },
    /// The connection is gone.
    Left {
        /// The connection that ended.
        link: u64,
        /// Why.
        reason: String,
    },
    /// An attempt to join failed; others follow.
    AttemptFailed {
        /// The address that was tried.
        core_address: SocketAddrV4,
        /// Why it failed.
        reason: String,
        /// How many failed in a row.
        failures: u32,
    },
}

/// Where the membership stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LinkStatus {
    /// Looking for a Core.
    #[default]
    Searching,
    /// A Core was found; the handshake is under way.
    Connecting {
        /// Where.
        core_address: SocketAddrV4,
    },
    /// A Core took us.
    Joined {
        /// The Core's name.
        core_name: String,
        /// Where it takes connections.
        core_address: SocketAddrV4,
        /// Our own address towards it.
        local_address: SocketAddrV4,
        /// True while the Core is silent.
        lost: bool,
    },
    /// The connection is being closed.
    Closing,
    /// We left on purpose.
    Left,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No Core has us at present.
    #[error("not joined to a Core")]
    NotJoined,
    /// The connection that the message answers on is gone; session numbers are reused, so it must not go to the next.
    #[error("the connection {link} that the message belongs to is gone")]
    Stale {
        /// The connection that the message belongs to.
        link: u64,
    },
    /// The connection refused it.
    #[error("the connection does not take the message")]
    Connection(#[source] peer::SendError),
}
