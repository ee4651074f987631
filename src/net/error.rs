//! What can go wrong with the domain's sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// A socket or an interface that is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The system's list of interfaces cannot be read.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
    /// No such interface.
    #[error("there is no network interface {0}; create the bridge or set its name in config/cell.cfg")]
    NoInterface(String),
    /// The interface is down.
    #[error("network interface {0} is down; bring it up with: ip link set {0} up")]
    Down(String),
    /// The interface has no address, so nothing can be sent from it.
    #[error("network interface {0} has no IPv4 address")]
    NoAddress(String),
    /// The group cannot be joined.
    #[error("cannot join the multicast group {group} on {interface}")]
    Join {
        /// Group and port.
        group: SocketAddrV4,
        /// The interface.
        interface: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No socket towards a Core.
    #[error("cannot open a UDP socket towards {to}")]
    Open {
        /// The Core.
        to: SocketAddrV4,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A Core finds no port to listen on.
    #[error("cannot listen on {address}, ports {first}..{last}")]
    Listen {
        /// The address.
        address: Ipv4Addr,
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
        /// What the system says about the last one.
        #[source]
        source: io::Error,
    },
    /// What was sent to a group was not heard.
    #[error("a datagram to {group} through {interface} is not heard")]
    Silent {
        /// The group.
        group: Ipv4Addr,
        /// Interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More messages wait than the connection can carry away.
    #[error("the queue of outgoing messages is full")]
    Full,
    /// The driver has ended.
    #[error("the connection to the domain has ended")]
    Ended,
}
