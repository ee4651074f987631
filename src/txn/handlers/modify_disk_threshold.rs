//! ModifyDiskThresholdRequest (contract §6.3): limits of the disks, at once; 0 lifts a limit.
//!
//! The reference does this for stopped guests only; libvirt can for running ones, too. Reading comes before writing everywhere (§14 B4).

use std::sync::Arc;

use super::setting::{begin, change, reconfigure, refuse_same, Field, Setting};
use crate::host::DomainEdit;
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

static SETTING: Setting = Setting {
    field: Field {
        name: "disk limits",
        copy: |from, to| {
            (to.read_speed, to.write_speed) = (from.read_speed, from.write_speed);
            (to.read_iops, to.write_iops) = (from.read_iops, from.write_iops);
        },
    },
    host: |hypervisor, config| {
        let GuestConfig { read_speed, write_speed, read_iops, write_iops, .. } = *config;
        reconfigure(hypervisor, config.id, DomainEdit::DiskLimits { read_speed, write_speed, read_iops, write_iops })
    },
};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let limits = params.exact_uints::<4>(Key::Limit)?;
    let [read_speed, write_speed, read_iops, write_iops] = limits;
    let (_job, guest) = begin(&context, id).await?;
    let config = &guest.config;
    refuse_same(&guest, "set of disk limits", &[config.read_speed, config.write_speed, config.read_iops, config.write_iops], &limits)?;
    let wanted = GuestConfig { read_speed, write_speed, read_iops, write_iops, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, &SETTING, context.success()).await
}
