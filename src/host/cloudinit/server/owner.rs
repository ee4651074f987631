//! Whether a connection comes from the guest that the document is about.

use std::net::Ipv4Addr;

use crate::host::{Instance, Neighbour};
use crate::model::address::parse_mac;

/// By its MAC, which the kernel has learned while the connection was made. An address that the kernel knows no MAC of is not on the segment (or the
/// kernel has just forgotten it): then it has to be the guest's assigned address, or the one that it was last seen to use.
pub(super) fn is_own(instance: &Instance, peer: Ipv4Addr, neighbours: &[Neighbour]) -> bool {
    let own = parse_mac(&instance.config.hardware_address);
    match neighbours.iter().find(|neighbour| neighbour.address == peer) {
        Some(neighbour) => Some(neighbour.mac) == own,
        None => {
            let assigned = instance.config.internal_address.split('/').next().and_then(|address| address.parse::<Ipv4Addr>().ok());
            [assigned, instance.address].contains(&Some(peer))
        }
    }
}
