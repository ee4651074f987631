//! AddGuestRuleRequest (contract §6.8): one more rule, after the others.

use std::sync::Arc;

use super::rules::{edit_policy, read_rule, refuse_duplicate};
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let rule = read_rule(params)?;
    edit_policy(&context, id, |policy| {
        refuse_duplicate(policy, &rule, None)?;
        policy.rules.push(rule);
        Ok(())
    })
    .await
}
