//! The interface that has the listen address.

use std::io;
use std::net::Ipv4Addr;

use cell::net::Interface;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

use crate::error::StartError;

/// Finds it, or tells which addresses there are.
pub(crate) fn with_address(address: Ipv4Addr) -> Result<Interface, StartError> {
    let failed = |errno| StartError::Interfaces(io::Error::from(errno));
    let present: Vec<(String, Ipv4Addr)> =
        getifaddrs().map_err(failed)?.filter_map(|entry| Some((entry.interface_name, entry.address?.as_sockaddr_in()?.ip()))).collect();
    match present.iter().find(|(_, own)| *own == address) {
        None => Err(StartError::NoSuchAddress { address, present }),
        Some((name, _)) => {
            let index = if_nametoindex(name.as_str()).map_err(failed)?;
            Ok(Interface { name: name.clone(), index, address })
        }
    }
}
