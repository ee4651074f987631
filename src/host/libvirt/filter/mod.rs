//! The nwfilter of a guest (contract §11.2): who it may pretend to be, and its security policy, as rules of libvirt.
//!
//! Contract: a guest sends with its own MAC only, and, where it was assigned addresses, with those only. Everything else may leave it. What comes in
//! goes through the policy's rules in their order, then the default. Better than the reference: an ICMP rule has no port (contract §14 E4), a
//! rule's target address is honoured (E5), a rule without addresses is one for IPv6 too, and a policy that turns something away follows
//! connections: answers to what the guest asked for, ARP, the neighbour discovery of IPv6 and DHCP pass whatever it says (E6). Following
//! connections takes a host whose kernel shows bridged packets to iptables ([`kernel`]); on another the rules are as strict as the reference's, and
//! only ARP, neighbour discovery and DHCP pass them.

pub(super) mod kernel;
mod rules;

use std::io;

use crate::host::{ErrorKind, HostError, Result};
use crate::model::{GuestConfig, GuestId, SecurityPolicy};

use super::xml::{refuse_control, Node, Xml};

/// Rules that fit between libvirt's priorities −1000 and 1000, beside those that every filter has.
const MAX_RULES: usize = 1700;

/// Whether the kernel can tell an answer from a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    /// iptables sees what crosses the bridge.
    Connections,
    /// Only ebtables does.
    None,
}

/// What the names of guests' filters begin with (contract §11.2).
const PREFIX: &str = "nano-nwfilter-";

/// libvirt's name of a guest's filter.
pub(super) fn name(id: GuestId) -> String {
    format!("{PREFIX}{id}")
}

/// The guest that a filter's name is about.
pub(super) fn guest_of(name: &str) -> Option<GuestId> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// True when the policy turns something away; every other policy is the same as none.
pub(super) fn guards(policy: Option<&SecurityPolicy>) -> bool {
    policy.is_some_and(|policy| !policy.accept || policy.rules.iter().any(|rule| !rule.accept))
}

/// Builds the filter XML of a guest.
pub(super) fn build(guest: &GuestConfig, tracking: Tracking) -> Result<String> {
    let policy = guest.security.as_ref().filter(|policy| guards(Some(policy)));
    if let Some(policy) = policy {
        check(guest.id, policy)?;
    }
    refuse_control("the MAC address", &guest.hardware_address)?;
    Xml::document("filter", &[("name", &name(guest.id)), ("chain", "root")], |xml| {
        xml.text("uuid", &[], guest.id)?;
        rules::identity(xml, &guest.hardware_address, &assigned(guest))?;
        match (policy, tracking) {
            (None, _) => Ok(()),
            (Some(policy), Tracking::Connections) => rules::tracked(xml, policy),
            (Some(policy), Tracking::None) => rules::untracked(xml, policy),
        }
    })
}

/// Addresses that the guest was given, without their prefix length.
fn assigned(guest: &GuestConfig) -> Vec<std::net::Ipv4Addr> {
    let addresses = [&guest.internal_address, &guest.external_address].into_iter();
    addresses.filter_map(|address| address.split('/').next().unwrap_or_default().parse().ok()).collect()
}

fn check(id: GuestId, policy: &SecurityPolicy) -> Result<()> {
    let count = policy.rules.len();
    if count > MAX_RULES {
        return Err(HostError::new(ErrorKind::Invalid, format!("guest {id} has {count} security rules; {MAX_RULES} are possible")));
    }
    let mut addresses = policy.rules.iter().flat_map(|rule| [&rule.source_address, &rule.target_address]);
    addresses.try_for_each(|address| refuse_control("the address of a security rule", address))
}

/// Whether two filter documents have the same rules; the order of attributes does not count.
pub(super) fn same(one: &str, other: &str) -> Result<bool> {
    Ok(Node::parse(one)?.sorted() == Node::parse(other)?.sorted())
}

/// A rule with what it matches.
fn rule(xml: &mut Xml, action: &str, direction: &str, priority: i32, matches: (&str, &[(&str, &str)])) -> io::Result<()> {
    let attributes = [("action", action), ("direction", direction), ("priority", &priority.to_string())];
    xml.node("rule", &attributes, |xml| xml.leaf(matches.0, matches.1))
}

/// [`rule`] for packets that belong to no connection, or whichever they belong to.
fn loose_rule(xml: &mut Xml, direction: &str, priority: i32, matches: (&str, &[(&str, &str)])) -> io::Result<()> {
    let attributes = [("action", "accept"), ("direction", direction), ("priority", &priority.to_string()), ("statematch", "false")];
    xml.node("rule", &attributes, |xml| xml.leaf(matches.0, matches.1))
}

#[cfg(test)]
mod tests;
