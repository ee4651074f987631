//! ModifyPriorityRequest (contract §6.3): another CPU priority, at once.

use std::sync::Arc;

use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::params::Params;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let cpu_priority = read_priority(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, Setting::Priority.name(), &guest.config.cpu_priority, &cpu_priority)?;
    let wanted = GuestConfig { cpu_priority, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::Priority, context.success()).await
}

fn read_priority(params: Params<'_>) -> Result<u32, Failure> {
    match params.uint(Key::Priority)? {
        0 => Ok(0),
        1 => Ok(1),
        2 => Ok(2),
        other => Err(params.bad(Key::Priority, format!("is {other}: 0 (high), 1 (medium) or 2 (low) is expected"))),
    }
}
