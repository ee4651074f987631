//! What a Core has to know from the start.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use cell::proto::peer::Timing;
use cell::proto::transport::TransportConfig;

use crate::sessions::MAX_SESSION;

/// Settings of a [`Core`](crate::Core).
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Address that it listens on; the interface that has it joins the multicast group.
    pub listen: Ipv4Addr,
    /// The domain: pings for another one get silence.
    pub domain: String,
    /// Multicast group of the discovery.
    pub group: Ipv4Addr,
    /// Port of the pings; echoes go to the one below.
    pub group_port: u16,
    /// The first free port of these takes the Cells' connections.
    pub ports: RangeInclusive<u16>,
    /// Answer pings. Off, Cells need this Core's address by configuration.
    pub discovery: bool,
    /// Own name in the domain.
    pub name: String,
    /// The pool that every Cell is taken into.
    pub pool: PoolConfig,
    /// Tell a Cell of its pool as soon as it connects. Off, a test does so itself.
    pub announce_pool: bool,
    /// Serve only the first of two connections under one name, as the real Core does (contract §2.5). Off, the newer one replaces the older.
    pub swallow_same_name: bool,
    /// How long a request may wait for its answer, the pool announcement included.
    pub timeout: Duration,
    /// Requests that may be under way at a time, 1024 in the real Core: its session numbers go up to this.
    pub sessions: u32,
    /// Intervals of the connections.
    pub timing: Timing,
    /// Windows and intervals below the connections.
    pub transport: TransportConfig,
}

impl CoreConfig {
    /// The contract's defaults on this address: domain `nano`, group 224.0.0.226, port 5599.
    pub fn new(listen: Ipv4Addr) -> Self {
        Self {
            listen,
            domain: "nano".into(),
            group: Ipv4Addr::new(224, 0, 0, 226),
            group_port: 5599,
            ports: 5600..=5799,
            discovery: true,
            name: default_name(listen),
            pool: PoolConfig::default(),
            announce_pool: true,
            swallow_same_name: true,
            timeout: Duration::from_secs(10),
            sessions: MAX_SESSION,
            timing: Timing::CORE,
            transport: TransportConfig::default(),
        }
    }
}

/// `Core_` and twelve hex digits like a real one, which takes them from its network card; ours come from the address.
fn default_name(listen: Ipv4Addr) -> String {
    format!("Core_0000{:08x}", u32::from(listen))
}

/// A compute pool as a Cell is told of it (contract §6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Name of the compute pool.
    pub name: String,
    /// Shared storage; without it the Cell uses its local disks.
    pub storage: Option<SharedStorage>,
    /// Addresses for guests; without them the guests look after themselves.
    pub network: Option<AddressPool>,
}

impl Default for PoolConfig {
    /// Pool `default` on local disks.
    fn default() -> Self {
        Self { name: "default".into(), storage: None, network: None }
    }
}

/// An NFS export that all Cells of a pool use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStorage {
    /// Name of the storage pool.
    pub name: String,
    /// NFS server.
    pub host: String,
    /// Exported path.
    pub target: String,
}

/// Where guests of a pool get their addresses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// Name of the address pool.
    pub name: String,
    /// Gateway, dotted IPv4.
    pub gateway: String,
    /// DNS servers, dotted IPv4.
    pub dns: Vec<String>,
    /// `dhcp`, `cloudinit` or empty.
    pub mode: String,
}
