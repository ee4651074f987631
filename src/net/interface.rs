//! The interface on which a node meets its domain.

use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{if_nametoindex, InterfaceFlags};

use super::error::NetError;

/// A network interface that is up and has an address. A host has many; nothing here ever uses "the default".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `br0`.
    pub name: String,
    /// Its number in the kernel; another one after the interface was removed and created again.
    pub index: u32,
    /// Its first IPv4 address.
    pub address: Ipv4Addr,
}

impl Interface {
    /// Looks it up as it is now.
    pub fn find(name: &str) -> Result<Self, NetError> {
        let mut address = None;
        let mut flags = None;
        for entry in getifaddrs().map_err(|errno| NetError::Interfaces(io::Error::from(errno)))? {
            if entry.interface_name == name {
                flags = Some(entry.flags);
                address = address.or(entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(|v4| v4.ip()));
            }
        }
        let flags = flags.ok_or_else(|| NetError::NoInterface(name.into()))?;
        if !flags.contains(InterfaceFlags::IFF_UP) {
            return Err(NetError::Down(name.into()));
        }
        let index = if_nametoindex(name).map_err(|_| NetError::NoInterface(name.into()))?;
        Ok(Self { name: name.into(), index, address: address.ok_or_else(|| NetError::NoAddress(name.into()))? })
    }
}
