//! ModifyDiskThresholdRequest (contract §6.3): limits of the disks, at once; 0 lifts a limit.
//!
//! The reference does this for stopped guests only; libvirt can for running ones, too. Reading comes before writing everywhere (§14 B4).

use std::sync::Arc;

use super::setting::{begin, change, refuse_same};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let limits = params.exact_uints::<4>(Key::Limit)?;
    let [read_speed, write_speed, read_iops, write_iops] = limits;
    let (_job, guest) = begin(&context, id).await?;
    let config = &guest.config;
    refuse_same(&guest, "set of disk limits", &[config.read_speed, config.write_speed, config.read_iops, config.write_iops], &limits)?;
    let wanted = GuestConfig { read_speed, write_speed, read_iops, write_iops, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::DiskLimits, context.success()).await
}
