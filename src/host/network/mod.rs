//! The bridge that guests are joined to, as the kernel has it now.
//!
//! Contract: read anew on each call, because addresses change (contract §14 D26). Asks the kernel for the interfaces of our network
//! namespace; sysfs is only looked at to tell a bridge from another interface, and only where it shows this namespace.

pub mod dhcp;
pub mod ports;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use procfs::net::{ARPFlags, ArpEntries};
use procfs::FromRead;

use super::{Bridge, ErrorKind, HostError, Neighbour, Network, Result};

/// Reads one bridge by name.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    bridge: String,
}

impl HostNetwork {
    /// Of the bridge with this name.
    pub fn new(bridge: impl Into<String>) -> Self {
        Self { bridge: bridge.into() }
    }
}

impl Network for HostNetwork {
    fn bridge(&self) -> Result<Bridge> {
        let name = &self.bridge;
        let interfaces = getifaddrs().map_err(|error| {
            HostError::with_source(ErrorKind::Failed, format!("cannot list the network interfaces to find the bridge {name}"), error)
        })?;
        let mut link = None;
        let mut address = None;
        for interface in interfaces.filter(|interface| interface.interface_name == *name) {
            let Some(found) = interface.address else { continue };
            if let Some(found) = found.as_link_addr() {
                link = u32::try_from(found.ifindex()).ok().zip(found.addr());
            } else if let (None, Some(found)) = (address, found.as_sockaddr_in()) {
                address = Some(found.ip());
            }
        }
        let (index, mac) = link.ok_or_else(|| missing(name))?;
        if other_kind(Path::new("/sys/class/net"), name, index) {
            return Err(HostError::new(
                ErrorKind::Invalid,
                format!(
                    "the network interface {name} is not a bridge; make one that has it as a port, or name another bridge in the settings"
                ),
            ));
        }
        Ok(Bridge { name: name.clone(), index, mac, address })
    }

    fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let ArpEntries(entries) = ArpEntries::from_file(NEIGHBOURS).map_err(|error| {
            HostError::with_source(ErrorKind::Failed, format!("cannot read the neighbours on {} from {NEIGHBOURS}", self.bridge), error)
        })?;
        let known = entries.into_iter().filter(|entry| entry.device == self.bridge && entry.flags.contains(ARPFlags::COM));
        Ok(known.filter_map(|entry| Some(Neighbour { address: entry.ip_address, mac: entry.hw_address? })).collect())
    }

    fn solicit(&self, address: Ipv4Addr) -> Result<()> {
        let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(&[], (address, DISCARD))
        });
        asked
            .map(drop)
            .map_err(|error| HostError::with_source(ErrorKind::Failed, format!("cannot look for {address} on {}", self.bridge), error))
    }
}

/// The neighbour table of the calling thread's network namespace.
const NEIGHBOURS: &str = "/proc/thread-self/net/arp";
/// The port whose datagrams are thrown away (RFC 863).
const DISCARD: u16 = 9;

fn missing(name: &str) -> HostError {
    HostError::new(
        ErrorKind::NotFound,
        format!("there is no bridge {name}; create it (ip link add {name} type bridge) and give it this host's address, or name another in the settings"),
    )
}

/// True when sysfs shows this very interface and no bridge in it. Under nsenter it may show another namespace: the index tells.
fn other_kind(sysfs: &Path, name: &str, index: u32) -> bool {
    let directory = sysfs.join(name);
    let shown = std::fs::read_to_string(directory.join("ifindex")).ok().and_then(|text| text.trim().parse::<u32>().ok());
    shown == Some(index) && !directory.join("bridge").exists()
}

#[cfg(test)]
mod tests;
