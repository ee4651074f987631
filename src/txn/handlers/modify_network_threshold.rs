//! ModifyNetworkThresholdRequest (contract §6.3): limits of the network interface, at once; 0 lifts a limit (§14 E3).

use std::sync::Arc;

use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let limits = params.exact_uints::<2>(Key::Limit)?;
    let [receive_speed, send_speed] = limits;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, "pair of network limits", &[guest.config.receive_speed, guest.config.send_speed], &limits)?;
    let wanted = GuestConfig { receive_speed, send_speed, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::NetworkLimits, context.success()).await
}
