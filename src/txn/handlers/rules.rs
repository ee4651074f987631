//! What the requests about a guest's security policy have in common (contract §6.8).
//!
//! A guest that never had a policy accepts everything, and that is what a request works on then (§14 D6). The filter is changed first; books and
//! disk follow, and a filter that could not be changed leaves them as they were (§14 D5). Answers and events aside, this is a setting as any other.

use std::sync::Arc;

use super::setting::{begin, change};
use crate::model::address::rule_address_from_wire;
use crate::model::{GuestConfig, GuestId, Protocol, Rule, SecurityPolicy};
use crate::proto::message::Key;
use crate::txn::params::Params;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

/// Changes the policy of a guest and answers. `edit` refuses what is not possible with the policy that is there.
pub(super) async fn edit_policy(
    context: &Arc<Context>,
    id: GuestId,
    edit: impl FnOnce(&mut SecurityPolicy) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (_job, guest) = begin(context, id).await?;
    let mut policy = guest.config.policy();
    edit(&mut policy)?;
    let wanted = GuestConfig { security: Some(policy), ..guest.config.as_ref().clone() };
    change(context, &guest, wanted, Setting::Policy, context.success()).await
}

/// A rule as it is added and modified. ICMP has no ports, so any number is taken there (§14 A3, E4).
pub(super) fn read_rule(params: Params<'_>) -> Result<Rule, Failure> {
    let accept = params.bool(Key::Action)?;
    let [source_address, target_address] = [read_address(params, Key::From)?, read_address(params, Key::To)?];
    let number = params.uint(Key::Protocol)?;
    let protocol = Protocol::from_wire(number)
        .ok_or_else(|| params.bad(Key::Protocol, format!("is {number}: 0 (tcp), 1 (udp) or 2 (icmp) is expected")))?;
    let port = params.uint(Key::Port)?;
    let target_port = u16::try_from(port).map_err(|_| params.bad(Key::Port, format!("is {port}: a port from 1 to 65535 is expected")))?;
    if target_port == 0 && protocol != Protocol::Icmp {
        return Err(params.bad(Key::Port, "is 0: a port from 1 to 65535 is expected; only a rule for ICMP has none"));
    }
    Ok(Rule { accept, protocol, source_address, target_address, target_port, interface: 0 })
}

fn read_address(params: Params<'_>, key: Key) -> Result<String, Failure> {
    let number = params.uint(key)?;
    rule_address_from_wire(number).ok_or_else(|| params.bad(key, format!("is {number}, which is no IPv4 address as a number")))
}

/// The place of a rule that is there. The Core passes negative numbers on as well (§14 C4).
pub(super) fn find(params: Params<'_>, index: i64, policy: &SecurityPolicy) -> Result<usize, Failure> {
    let count = policy.rules.len();
    usize::try_from(index).ok().filter(|place| *place < count).ok_or_else(|| {
        let there = match count.checked_sub(1) {
            None => "the guest has no rules".to_owned(),
            Some(last) => format!("the guest's rules are 0 to {last}"),
        };
        params.bad(Key::Index, format!("is {index}: {there}"))
    })
}

/// Refuses a rule about the same traffic as another; `except` is the place of the rule that it replaces.
pub(super) fn refuse_duplicate(policy: &SecurityPolicy, rule: &Rule, except: Option<usize>) -> Result<(), Failure> {
    let same = |other: &Rule| {
        let ports = rule.protocol == Protocol::Icmp || other.target_port == rule.target_port;
        other.protocol == rule.protocol
            && ports
            && other.source_address == rule.source_address
            && other.target_address == rule.target_address
    };
    match policy.rules.iter().enumerate().find(|(place, other)| Some(*place) != except && same(other)) {
        Some((place, _)) => Err(Failure::refused(format!("rule {place} is about the same traffic already; modify that one"))),
        None => Ok(()),
    }
}
