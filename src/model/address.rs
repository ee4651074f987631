//! Addresses as the wire and the files carry them.

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

/// A hardware address.
pub type Mac = [u8; 6];

/// The six bytes of a MAC written as `00:16:3e:01:02:03`, in either case.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+'));
    let mut bytes = text.split(':').map(byte);
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_in_either_case_and_nothing_else_is_one() {
        assert_eq!(parse_mac("00:16:3E:01:02:03"), Some([0, 0x16, 0x3e, 1, 2, 3]));
        for bad in [
            "",
            "00:16:3e:01:02",
            "00:16:3e:01:02:03:04",
            "00-16-3e-01-02-03",
            "00:16:3e:01:02:+3",
            "00:16:3e:01:02:3",
            "0:016:3e:01:02:03",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
