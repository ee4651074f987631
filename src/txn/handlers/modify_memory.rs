//! ModifyMemoryRequest (contract §6.3): another size of memory, from the next start on.

use std::sync::Arc;

use super::create_guest::plan::read_memory;
use super::setting::{begin, change, reconfigure, refuse_same, Field, Setting};
use crate::host::DomainEdit;
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

static SETTING: Setting = Setting {
    field: Field { name: "memory size", copy: |from, to| to.memory = from.memory },
    host: |hypervisor, config| reconfigure(hypervisor, config.id, DomainEdit::Memory(config.memory)),
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let memory = read_memory(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, SETTING.field.name, &guest.config.memory, &memory)?;
    let wanted = GuestConfig { memory, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, &SETTING, context.success()).await
}
