//! What a running service tells about itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// A snapshot of the service, as `cell status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Process id.
    pub pid: u32,
    /// Version of the running program, which may be older than the one that asks.
    pub version: String,
    /// The node's name in the domain, `Cell_` and a MAC (transport §4).
    pub name: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The domain's name.
    pub domain: String,
    /// Multicast group and port.
    pub group: SocketAddrV4,
    /// The node's address towards the Core; none while the bridge has none.
    pub local_address: Option<Ipv4Addr>,
    /// The joined Core; none while it is being looked for.
    pub core: Option<String>,
    /// Where the joined Core takes connections.
    #[serde(default)]
    pub core_address: Option<SocketAddrV4>,
    /// Guests of this node.
    pub guests: u64,
    /// Those of them that run.
    pub running_guests: u64,
    /// Those of them that libvirt does not know any more.
    #[serde(default)]
    pub lost_guests: u64,
    /// Requests and events that the Core sent since the start.
    #[serde(default)]
    pub requests: u64,
    /// Those of them that were answered with a failure.
    #[serde(default)]
    pub failed_requests: u64,
    /// Those of them that were answered by their deadline.
    #[serde(default)]
    pub late_requests: u64,
    /// Guests that QEMU holds because a disk can't be written, with the reason, a line each. They count as running.
    #[serde(default)]
    pub held_guests: Vec<String>,
}
