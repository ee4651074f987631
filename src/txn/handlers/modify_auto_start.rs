//! ModifyAutoStartRequest (contract §6.3): started with the host or not.

use std::sync::Arc;

use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let auto_start = params.bool(Key::Enable)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, "setting of the automatic start", &guest.config.auto_start, &auto_start)?;
    let wanted = GuestConfig { auto_start, ..guest.config.as_ref().clone() };
    // libvirt never starts a guest of a shared pool with the host, the service does when the Core has spoken.
    let setting = if context.node.shared_directory(id).is_some() { Setting::SharedAutoStart } else { Setting::AutoStart };
    change(&context, &guest, wanted, setting, context.success()).await
}
