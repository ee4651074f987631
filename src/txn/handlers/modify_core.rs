//! ModifyCoreRequest (contract §6.3): another number of virtual CPUs, from the next start on.

use std::sync::Arc;

use super::create_guest::plan::read_cores;
use super::setting::{begin, change, reconfigure, refuse_same, Field, Setting};
use crate::host::DomainEdit;
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

static SETTING: Setting = Setting {
    field: Field { name: "number of cores", copy: |from, to| to.cores = from.cores },
    host: |hypervisor, config| reconfigure(hypervisor, config.id, DomainEdit::Cores(config.cores)),
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let cores = read_cores(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, SETTING.field.name, &guest.config.cores, &cores)?;
    let wanted = GuestConfig { cores, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, &SETTING, context.success()).await
}
