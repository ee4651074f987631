//! GetGuestRuleRequest (contract §6.8): the security policy, from memory. Actions are 0 accept, 1 reject; the default's comes last.

use std::sync::Arc;

use crate::model::address::rule_address_to_wire;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let policy = context.node.books.guest(id)?.config.policy();
    let rules = &policy.rules;
    let actions = rules.iter().map(|rule| rule.accept).chain([policy.accept]).map(|accept| u64::from(!accept));
    let answer = context
        .success()
        .uints(Key::From, rules.iter().map(|rule| rule_address_to_wire(&rule.source_address)).collect::<Vec<_>>())
        .uints(Key::To, rules.iter().map(|rule| rule_address_to_wire(&rule.target_address)).collect::<Vec<_>>())
        .uints(Key::Port, rules.iter().map(|rule| u64::from(rule.target_port)).collect::<Vec<_>>())
        .uints(Key::Protocol, rules.iter().map(|rule| rule.protocol.to_wire()).collect::<Vec<_>>())
        .uints(Key::Action, actions.collect::<Vec<_>>());
    context.respond(answer)
}
