//! ModifyGuestRuleRequest (contract §6.8): another rule in the place of one.

use std::sync::Arc;

use super::rules::{edit_policy, find, read_rule, refuse_duplicate};
use crate::model::Rule;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let index = params.int(Key::Index)?;
    let rule = read_rule(params)?;
    edit_policy(&context, id, |policy| {
        let place = find(params, index, policy)?;
        refuse_duplicate(policy, &rule, Some(place))?;
        for present in policy.rules.iter_mut().skip(place).take(1) {
            let rule = Rule { interface: present.interface, ..rule.clone() };
            if *present == rule {
                return Err(Failure::refused(format!("rule {index} is like that already")));
            }
            *present = rule;
        }
        Ok(())
    })
    .await
}
