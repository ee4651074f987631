//! The rules of a filter.
//!
//! Rules about `mac`, `arp`, `ip` and `ipv6` become rules of ebtables, which knows no connections; rules about `tcp`, `udp`, `icmp`, `all` and their
//! IPv6 forms become rules of iptables, which follows them: accepting "in" also accepts the answers that go out, and the other way round. A packet
//! has to pass both.

use std::io;
use std::net::Ipv4Addr;

use super::{loose_rule, rule};
use crate::host::libvirt::xml::Xml;
use crate::model::{Protocol, Rule, SecurityPolicy};

/// What every filter has comes first, from libvirt's lowest priority on.
const IDENTITY: i32 = -1000;
/// Then what passes whatever the policy says.
const ALWAYS: i32 = -900;
/// Then the policy's rules.
const POLICY: i32 = -800;
/// libvirt's highest priority: the default.
const DEFAULT: i32 = 1000;

/// ICMPv6 without which IPv6 does not work: multicast listeners, routers, neighbours, redirects.
const DISCOVERY: [&str; 9] = ["130", "131", "132", "133", "134", "135", "136", "137", "143"];

/// The guest sends as itself: with its MAC, and with the addresses that it was given, if any. Before it knows its address it may ask for it.
pub(super) fn identity(xml: &mut Xml, mac: &str, addresses: &[Ipv4Addr]) -> io::Result<()> {
    rule(xml, "drop", "out", IDENTITY, ("mac", &[("match", "no"), ("srcmacaddr", mac)]))?;
    rule(xml, "drop", "out", IDENTITY + 1, ("arp", &[("match", "no"), ("arpsrcmacaddr", mac)]))?;
    if addresses.is_empty() {
        return Ok(());
    }
    rule(xml, "accept", "out", IDENTITY + 2, ("arp", &[("arpsrcipaddr", "0.0.0.0")]))?;
    rule(xml, "accept", "out", IDENTITY + 2, ("ip", &[("srcipaddr", "0.0.0.0"), ("protocol", "udp")]))?;
    for address in addresses {
        let address = address.to_string();
        rule(xml, "accept", "out", IDENTITY + 3, ("arp", &[("arpsrcipaddr", &address)]))?;
        rule(xml, "accept", "out", IDENTITY + 3, ("ip", &[("srcipaddr", &address)]))?;
    }
    rule(xml, "drop", "out", IDENTITY + 4, ("arp", &[]))?;
    rule(xml, "drop", "out", IDENTITY + 4, ("ip", &[]))
}

/// A policy that follows connections.
pub(super) fn tracked(xml: &mut Xml, policy: &SecurityPolicy) -> io::Result<()> {
    for all in ["all", "all-ipv6"] {
        rule(xml, "accept", "out", ALWAYS, (all, &[]))?;
        rule(xml, "accept", "inout", ALWAYS + 1, (all, &[("state", "RELATED")]))?;
    }
    loose_rule(xml, "in", ALWAYS + 2, ("udp", &[("srcportstart", "67"), ("dstportstart", "68")]))?;
    loose_rule(xml, "in", ALWAYS + 2, ("udp-ipv6", &[("srcportstart", "547"), ("dstportstart", "546")]))?;
    for kind in DISCOVERY {
        // libvirt makes no rule at all of one for a type of ICMP in both directions (seen with 9.0).
        for direction in ["in", "out"] {
            loose_rule(xml, direction, ALWAYS + 3, ("icmpv6", &[("type", kind)]))?;
        }
    }
    for (item, priority) in policy.rules.iter().zip(POLICY..) {
        let port = item.target_port.to_string();
        let (ipv4, ipv6) = match item.protocol {
            Protocol::Tcp => ("tcp", "tcp-ipv6"),
            Protocol::Udp => ("udp", "udp-ipv6"),
            Protocol::Icmp => ("icmp", "icmpv6"),
        };
        let attributes = matches(item, &port);
        rule(xml, action(item.accept), "in", priority, (ipv4, &attributes))?;
        if is_for_any_address(item) {
            rule(xml, action(item.accept), "in", priority, (ipv6, &attributes))?;
        }
    }
    if policy.accept {
        return Ok(());
    }
    rule(xml, "drop", "in", DEFAULT, ("all", &[]))?;
    rule(xml, "drop", "in", DEFAULT, ("all-ipv6", &[]))?;
    // What iptables does not see: neither IP nor ARP.
    for passes in ["arp", "ip", "ipv6"] {
        rule(xml, "accept", "in", DEFAULT - 1, (passes, &[]))?;
    }
    rule(xml, "drop", "in", DEFAULT, ("mac", &[]))
}

/// A policy for a kernel that does not follow connections across a bridge, as the reference has it.
pub(super) fn untracked(xml: &mut Xml, policy: &SecurityPolicy) -> io::Result<()> {
    rule(xml, "accept", "in", ALWAYS, ("arp", &[]))?;
    rule(xml, "accept", "in", ALWAYS, ("ip", &[("protocol", "udp"), ("srcportstart", "67"), ("dstportstart", "68")]))?;
    rule(xml, "accept", "in", ALWAYS, ("ipv6", &[("protocol", "udp"), ("srcportstart", "547"), ("dstportstart", "546")]))?;
    for kind in DISCOVERY {
        rule(xml, "accept", "in", ALWAYS, ("ipv6", &[("protocol", "icmpv6"), ("type", kind)]))?;
    }
    for (item, priority) in policy.rules.iter().zip(POLICY..) {
        let port = item.target_port.to_string();
        let (ipv4, ipv6) = match item.protocol {
            Protocol::Tcp => ("tcp", "tcp"),
            Protocol::Udp => ("udp", "udp"),
            Protocol::Icmp => ("icmp", "icmpv6"),
        };
        let mut attributes = matches(item, &port);
        attributes.push(("protocol", ipv4));
        rule(xml, action(item.accept), "in", priority, ("ip", &attributes))?;
        if is_for_any_address(item) {
            attributes.pop();
            attributes.push(("protocol", ipv6));
            rule(xml, action(item.accept), "in", priority, ("ipv6", &attributes))?;
        }
    }
    if policy.accept {
        return Ok(());
    }
    rule(xml, "drop", "in", DEFAULT, ("mac", &[]))
}

fn action(accept: bool) -> &'static str {
    if accept {
        "accept"
    } else {
        "drop"
    }
}

fn is_for_any_address(rule: &Rule) -> bool {
    rule.source_address.is_empty() && rule.target_address.is_empty()
}

/// What a rule is about, but for its protocol. Port 0 is any port, as an empty address is any address; ICMP has no ports.
fn matches<'a>(rule: &'a Rule, port: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut attributes = Vec::new();
    if !rule.source_address.is_empty() {
        attributes.push(("srcipaddr", rule.source_address.as_str()));
    }
    if !rule.target_address.is_empty() {
        attributes.push(("dstipaddr", rule.target_address.as_str()));
    }
    if rule.target_port > 0 && rule.protocol != Protocol::Icmp {
        attributes.push(("dstportstart", port));
    }
    attributes
}
