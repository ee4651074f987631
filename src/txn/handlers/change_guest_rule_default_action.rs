//! ChangeGuestRuleDefaultActionRequest (contract §6.8): what happens to traffic that no rule is about.

use std::sync::Arc;

use super::rules::edit_policy;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let accept = params.bool(Key::Action)?;
    edit_policy(&context, id, |policy| {
        if policy.accept == accept {
            let action = if accept { "accept" } else { "reject" };
            return Err(Failure::refused(format!("the default action is {action} already")));
        }
        policy.accept = accept;
        Ok(())
    })
    .await
}
