//! ModifyAutoStartRequest (contract §6.3): started with the host or not.

use std::sync::Arc;

use super::setting::{begin, change, refuse_same, Field, Setting};
use crate::host::Applied;
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

static SETTING: Setting = Setting {
    field: Field { name: "automatic start", copy: |from, to| to.auto_start = from.auto_start },
    host: |hypervisor, config| Box::pin(async move { hypervisor.set_autostart(config.id, config.auto_start).await.map(|_| Applied::Now) }),
};

/// A guest of a shared pool: libvirt never starts it with the host, the service does when the Core has spoken.
static SHARED: Setting = Setting {
    field: Field { name: "automatic start", copy: |from, to| to.auto_start = from.auto_start },
    host: |_, _| Box::pin(async { Ok(Applied::Now) }),
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let auto_start = params.bool(Key::Enable)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, "setting of the automatic start", &guest.config.auto_start, &auto_start)?;
    let wanted = GuestConfig { auto_start, ..guest.config.as_ref().clone() };
    let setting = if context.node.shared_directory(id).is_some() { &SHARED } else { &SETTING };
    change(&context, &guest, wanted, setting, context.success()).await
}
