//! Who we are on a connection and how patient.

use std::time::Duration;

/// What a node of the domain is (contract §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Manages the domain.
    Core,
    /// Runs guests.
    Cell,
    /// Stores disk and media images.
    ImageServer,
    /// Reserved by the contract.
    Router,
}

impl ServiceKind {
    /// Its number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::Core => 0,
            Self::Cell => 1,
            Self::ImageServer => 2,
            Self::Router => 3,
        }
    }

    /// The kind with this number on the wire.
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Core,
            1 => Self::Cell,
            2 => Self::ImageServer,
            3 => Self::Router,
            _ => return None,
        })
    }
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dials, speaks first and wants a Core at the other end.
    Cell,
    /// Answers whoever dials.
    Core,
}

impl Role {
    /// What we tell the other end that we are.
    pub const fn kind(self) -> ServiceKind {
        match self {
            Self::Cell => ServiceKind::Cell,
            Self::Core => ServiceKind::Core,
        }
    }
}

/// The intervals of a connection's life (transport §4).
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long the handshake may take; the reference waits for ever.
    pub handshake: Duration,
    /// Between two keep-alives.
    pub keep_alive: Duration,
    /// Silence after which the other end counts as lost.
    pub lost: Duration,
    /// Silence after which the connection is closed.
    pub disconnect: Duration,
    /// Lost and disconnected are decided at multiples of this after the start.
    pub check: Duration,
    /// How long an end that was told "closed" still acknowledges, so that the other end need not repeat itself.
    pub linger: Duration,
}

impl Timing {
    /// The longest that a graceful close may wait for its acknowledgement (contract §12).
    pub const FLUSH: Duration = Duration::from_secs(3);

    /// A Cell's: the contract's intervals, decided without delay.
    pub const CELL: Self = Self {
        handshake: Duration::from_secs(3),
        keep_alive: Duration::from_secs(3),
        lost: Duration::from_secs(9),
        disconnect: Duration::from_secs(15),
        check: Duration::from_millis(1),
        linger: Duration::from_millis(500),
    };

    /// A Core's: as a Cell's, but decided every 5 s as the real one does.
    pub const CORE: Self = Self { handshake: Duration::from_secs(10), check: Duration::from_secs(5), ..Self::CELL };
}

/// What a connection needs to know from the start.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Which end we are.
    pub role: Role,
    /// Our name: `Cell_…` or `Core_…`.
    pub name: String,
    /// The intervals.
    pub timing: Timing,
}
