//! RemoveGuestRuleRequest (contract §6.8): one rule less.

use std::sync::Arc;

use super::rules::{edit_policy, find};
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let index = params.int(Key::Index)?;
    edit_policy(&context, id, |policy| {
        let place = find(params, index, policy)?;
        policy.rules.remove(place);
        Ok(())
    })
    .await
}
