//! IPv4 addresses as the wire carries them.

use std::net::Ipv4Addr;

/// A rule's address from the wire: big-endian number, 0 = any (contract §15).
/// `None` when the number does not fit 32 bits.
pub fn rule_address_from_wire(number: u64) -> Option<String> {
    let number = u32::try_from(number).ok()?;
    Some(if number == 0 { String::new() } else { Ipv4Addr::from(number).to_string() })
}

/// The reverse; "" and anything that is not an address become 0 (any).
pub fn rule_address_to_wire(text: &str) -> u64 {
    text.parse::<Ipv4Addr>().map_or(0, |address| u64::from(u32::from(address)))
}
