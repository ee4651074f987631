//! ModifyMemoryRequest (contract §6.3): another size of memory, from the next start on.

use std::sync::Arc;

use super::create_guest::plan::read_memory;
use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let memory = read_memory(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, Setting::Memory.name(), &guest.config.memory, &memory)?;
    let wanted = GuestConfig { memory, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::Memory, context.success()).await
}
