//! ModifyCoreRequest (contract §6.3): another number of virtual CPUs, from the next start on.

use std::sync::Arc;

use super::create_guest::plan::read_cores;
use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let cores = read_cores(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, Setting::Cores.name(), &guest.config.cores, &cores)?;
    let wanted = GuestConfig { cores, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::Cores, context.success()).await
}
