//! ModifyNetworkThresholdRequest (contract §6.3): limits of the network interface, at once; 0 lifts a limit (§14 E3).

use std::sync::Arc;

use super::setting::{begin, change, reconfigure, refuse_same, Field, Setting};
use crate::host::DomainEdit;
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

static SETTING: Setting = Setting {
    field: Field { name: "network limits", copy: |from, to| (to.receive_speed, to.send_speed) = (from.receive_speed, from.send_speed) },
    host: |hypervisor, config| {
        let GuestConfig { receive_speed, send_speed, .. } = *config;
        reconfigure(hypervisor, config.id, DomainEdit::NetworkLimits { receive_speed, send_speed })
    },
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let limits = params.exact_uints::<2>(Key::Limit)?;
    let [receive_speed, send_speed] = limits;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, "pair of network limits", &[guest.config.receive_speed, guest.config.send_speed], &limits)?;
    let wanted = GuestConfig { receive_speed, send_speed, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, &SETTING, context.success()).await
}
