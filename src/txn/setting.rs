//! The settings of a guest: what each one is called, which part of the configuration it is, and how the host is made to follow it.

use serde::{Deserialize, Serialize};

use crate::host::{self, Applied, DomainEdit, Hypervisor};
use crate::model::GuestConfig;

/// A part of a guest's configuration that is changed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::txn) enum Setting {
    /// Full name.
    Name,
    /// Virtual CPUs.
    Cores,
    /// Memory.
    Memory,
    /// CPU priority.
    Priority,
    /// Limits of the disks.
    DiskLimits,
    /// Limits of the network interface.
    NetworkLimits,
    /// Password of VNC or SPICE.
    MonitorSecret,
    /// Started with the host by libvirt.
    AutoStart,
    /// Started with the host by the service, for a guest of a shared pool: libvirt knows nothing of it.
    SharedAutoStart,
    /// Security policy.
    Policy,
    /// Administrator's account and password; the guest's agent has to be told apart from this.
    Account,
    /// What is in the drive; the drive itself is told apart from this.
    Media,
}

impl Setting {
    /// For messages, as in "the new memory size".
    pub(in crate::txn) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cores => "number of cores",
            Self::Memory => "memory size",
            Self::Priority => "CPU priority",
            Self::DiskLimits => "disk limits",
            Self::NetworkLimits => "network limits",
            Self::MonitorSecret => "monitor password",
            Self::AutoStart | Self::SharedAutoStart => "automatic start",
            Self::Policy => "security policy",
            Self::Account => "account",
            Self::Media => "media",
        }
    }

    /// Takes it over into another configuration of the same guest.
    pub(in crate::txn) fn copy(self, from: &GuestConfig, to: &mut GuestConfig) {
        match self {
            Self::Name => to.name.clone_from(&from.name),
            Self::Cores => to.cores = from.cores,
            Self::Memory => to.memory = from.memory,
            Self::Priority => to.cpu_priority = from.cpu_priority,
            Self::DiskLimits => {
                (to.read_speed, to.write_speed) = (from.read_speed, from.write_speed);
                (to.read_iops, to.write_iops) = (from.read_iops, from.write_iops);
            }
            Self::NetworkLimits => (to.receive_speed, to.send_speed) = (from.receive_speed, from.send_speed),
            Self::MonitorSecret => to.monitor_secret.clone_from(&from.monitor_secret),
            Self::AutoStart | Self::SharedAutoStart => to.auto_start = from.auto_start,
            Self::Policy => to.security.clone_from(&from.security),
            Self::Account => {
                to.auth_user.clone_from(&from.auth_user);
                to.auth_secret.clone_from(&from.auth_secret);
            }
            Self::Media => to.media.clone_from(&from.media),
        }
    }

    /// Makes the host as this configuration says.
    pub(in crate::txn) async fn apply(self, hypervisor: &dyn Hypervisor, config: &GuestConfig) -> host::Result<Applied> {
        let GuestConfig { read_speed, write_speed, read_iops, write_iops, receive_speed, send_speed, .. } = *config;
        let edit = match self {
            Self::Name => DomainEdit::Name(config.name.clone()),
            Self::Cores => DomainEdit::Cores(config.cores),
            Self::Memory => DomainEdit::Memory(config.memory),
            Self::Priority => DomainEdit::Priority(config.cpu_priority),
            Self::DiskLimits => DomainEdit::DiskLimits { read_speed, write_speed, read_iops, write_iops },
            Self::NetworkLimits => DomainEdit::NetworkLimits { receive_speed, send_speed },
            Self::MonitorSecret => DomainEdit::MonitorSecret(config.monitor_secret.clone()),
            Self::AutoStart => return hypervisor.set_autostart(config.id, config.auto_start).await.map(|_| Applied::Now),
            Self::Policy => return hypervisor.update_filter(config).await.map(|_| Applied::Now),
            Self::SharedAutoStart | Self::Account | Self::Media => return Ok(Applied::Now),
        };
        hypervisor.reconfigure(config.id, &edit).await
    }
}
