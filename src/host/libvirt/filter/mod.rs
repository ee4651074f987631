//! The nwfilter of a guest (contract §11.2): its security policy as rules of libvirt.
//!
//! Contract: everything out, the policy's rules in their order for what comes in, then the default. Two defects of the reference are
//! mended: an ICMP rule has no port (contract §14 E4), a rule's target address is honoured (E5).

use crate::host::{ErrorKind, HostError, Result};
use crate::model::{GuestId, Protocol, Rule, SecurityPolicy};

use super::xml::{refuse_control, Node, Xml};

/// Priority of the default rule; libvirt's lowest rank and highest number.
const DEFAULT_PRIORITY: i32 = 1000;

/// Rules that fit between libvirt's priorities −1000 and 1000, beside the default and the one for outgoing traffic.
const MAX_RULES: usize = 1999;

/// libvirt's name of a guest's filter.
pub(super) fn name(id: GuestId) -> String {
    format!("nano-nwfilter-{id}")
}

/// Builds the filter XML; no policy means that everything is accepted.
pub(super) fn build(id: GuestId, policy: Option<&SecurityPolicy>) -> Result<String> {
    let accept_all = SecurityPolicy { accept: true, rules: Vec::new() };
    let policy = policy.unwrap_or(&accept_all);
    let count = i32::try_from(policy.rules.len()).ok().filter(|_| policy.rules.len() <= MAX_RULES).ok_or_else(|| {
        HostError::new(ErrorKind::Invalid, format!("guest {id} has {} security rules; libvirt takes up to {MAX_RULES}", policy.rules.len()))
    })?;
    for address in policy.rules.iter().flat_map(|rule| [&rule.source_address, &rule.target_address]) {
        refuse_control("the address of a security rule", address)?;
    }
    let first = DEFAULT_PRIORITY - count - 1;
    Xml::document("filter", &[("name", &name(id)), ("chain", "root")], |xml| {
        xml.text("uuid", &[], id)?;
        xml.leaf("rule", &[("action", "accept"), ("direction", "out"), ("priority", &first.to_string())])?;
        for (rule, priority) in policy.rules.iter().zip(first + 1..) {
            let attributes = [("action", action(rule.accept)), ("direction", "in"), ("priority", &priority.to_string())];
            xml.node("rule", &attributes, |xml| write_match(xml, rule))?;
        }
        let default = [("action", action(policy.accept)), ("direction", "in"), ("priority", &DEFAULT_PRIORITY.to_string())];
        xml.leaf("rule", &default)
    })
}

fn action(accept: bool) -> &'static str {
    if accept {
        "accept"
    } else {
        "drop"
    }
}

/// What a rule is about. Port 0 is any port, as an empty address is any address.
fn write_match(xml: &mut Xml, rule: &Rule) -> std::io::Result<()> {
    let port = rule.target_port.to_string();
    let (protocol, has_port) = match rule.protocol {
        Protocol::Tcp => ("tcp", rule.target_port > 0),
        Protocol::Udp => ("udp", rule.target_port > 0),
        Protocol::Icmp => ("icmp", false),
    };
    let mut attributes = Vec::new();
    if !rule.source_address.is_empty() {
        attributes.push(("srcipaddr", rule.source_address.as_str()));
    }
    if !rule.target_address.is_empty() {
        attributes.push(("dstipaddr", rule.target_address.as_str()));
    }
    attributes.push(("protocol", protocol));
    if has_port {
        attributes.push(("dstportstart", &port));
    }
    xml.leaf("ip", &attributes)
}

/// Whether two filter documents have the same rules; the order of attributes does not count.
pub(super) fn same(one: &str, other: &str) -> Result<bool> {
    Ok(Node::parse(one)?.sorted() == Node::parse(other)?.sorted())
}

#[cfg(test)]
mod tests;
