//! Where a guest's address can be read off: its agent's list of interfaces, the bridge's neighbours.

use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::host::Neighbour;
use crate::model::address::{parse_mac, Mac};

/// The agent's command for its interfaces.
pub(super) const LIST_INTERFACES: &str = r#"{"execute":"guest-network-get-interfaces"}"#;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Interface {
    #[serde(default)]
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
}

/// The IPv4 addresses of the interface with this MAC in the agent's answer; an answer of another form is the guest's lie and gives none.
pub(super) fn from_agent(answer: &str, mac: Mac) -> Vec<Ipv4Addr> {
    let Ok(answer) = serde_json::from_str::<Answer>(answer) else { return Vec::new() };
    let own = |interface: &Interface| interface.hardware_address.as_deref().and_then(parse_mac) == Some(mac);
    let interfaces = answer.interfaces.into_iter().filter(own);
    interfaces.flat_map(|interface| interface.ip_addresses).filter_map(|address| address.ip_address.parse().ok()).filter(usable).collect()
}

/// The addresses that this MAC answers for.
pub(super) fn from_neighbours(neighbours: &[Neighbour], mac: Mac) -> Vec<Ipv4Addr> {
    neighbours.iter().filter(|neighbour| neighbour.mac == mac).map(|neighbour| neighbour.address).filter(usable).collect()
}

fn usable(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_link_local() || address.is_broadcast() || address.is_multicast())
}

/// One of several: the assigned one, else the one that is known already, else the first.
pub(super) fn choose(found: &[Ipv4Addr], assigned: Option<Ipv4Addr>, known: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let preferred = [assigned, known].into_iter().flatten().find(|address| found.contains(address));
    preferred.or_else(|| found.first().copied())
}
