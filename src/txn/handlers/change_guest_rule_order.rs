//! ChangeGuestRuleOrderRequest (contract §6.8): a rule changes places with the one before it (Mode ≥ 0) or after it.

use std::sync::Arc;

use super::rules::{edit_policy, find};
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let index = params.int(Key::Index)?;
    let up = params.int(Key::Mode)? >= 0;
    edit_policy(&context, id, |policy| {
        let place = find(params, index, policy)?;
        let other = if up { place.checked_sub(1) } else { Some(place + 1).filter(|next| *next < policy.rules.len()) };
        let end = if up { "first" } else { "last" };
        let other = other.ok_or_else(|| Failure::refused(format!("rule {index} is the {end} one already")))?;
        policy.rules.swap(place, other);
        Ok(())
    })
    .await
}
