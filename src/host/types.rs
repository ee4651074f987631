//! Values that the host traits take and give.

use serde::{Deserialize, Serialize};

use crate::model::{GuestConfig, GuestId, PowerState, Secret, VolumeGroup};

/// Directory of media images in a pool's own: hidden, so that they are no volumes.
pub const MEDIA_DIRECTORY: &str = ".media";

/// Whether an idempotent operation had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The host is different now.
    Changed,
    /// It was as wanted already.
    Unchanged,
}

/// A domain as libvirt lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainStatus {
    /// UUID.
    pub id: GuestId,
    /// libvirt's name of it.
    pub name: String,
    /// Runs or not.
    pub power: PowerState,
    /// libvirt's autostart flag.
    pub autostart: bool,
}

/// One change of a domain. Limits are bytes or operations per second, 0 lifts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainEdit {
    /// libvirt's name of it; only while it does not run.
    Name(String),
    /// Virtual CPUs, with a topology that fits; from the next start on.
    Cores(u32),
    /// Memory in bytes; from the next start on.
    Memory(u64),
    /// CPU priority: 0 high, 1 medium, 2 low.
    Priority(u32),
    /// Limits of each disk.
    DiskLimits {
        /// Bytes.
        read_speed: u64,
        /// Bytes.
        write_speed: u64,
        /// Operations.
        read_iops: u64,
        /// Operations.
        write_iops: u64,
    },
    /// Limits of the network interface.
    NetworkLimits {
        /// Bytes into the guest.
        receive_speed: u64,
        /// Bytes out of the guest.
        send_speed: u64,
    },
    /// Password of VNC or SPICE; who is connected stays so.
    MonitorSecret(Secret),
}

/// How the QEMU of a running guest takes an image out of the chain below a disk. All are paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveMerge {
    /// The image that the guest writes to takes in all that lies between it and `base`, or everything below; only it is written to.
    Up {
        /// Image that the guest writes to.
        disk: String,
        /// What it is based on afterwards.
        base: Option<String>,
    },
    /// All that `top` holds goes into `base`, on which it is based and on which the image above it is based afterwards.
    Down {
        /// Image that the guest writes to, above `top`.
        disk: String,
        /// Image that is not used any more afterwards; not written to.
        top: String,
        /// Image that shows afterwards what `top` showed.
        base: String,
    },
}

impl LiveMerge {
    /// Image that the guest writes to.
    pub fn disk(&self) -> &str {
        match self {
            Self::Up { disk, .. } | Self::Down { disk, .. } => disk,
        }
    }

    /// Whether the chain below the disk, of `length` images of which the uppermost has `position` 0, is as it is to become; none when it is neither
    /// that nor what the merge begins with.
    pub(in crate::host) fn is_done(&self, length: usize, position: impl Fn(&str) -> Option<usize>) -> Option<bool> {
        match self {
            Self::Up { base: None, .. } => Some(length == 0),
            Self::Up { base: Some(base), .. } => position(base).map(|place| place == 0),
            Self::Down { top, base, .. } => match (position(top), position(base)) {
                (None, Some(_)) => Some(true),
                (Some(top), Some(base)) if top + 1 == base => Some(false),
                _ => None,
            },
        }
    }
}

/// How far a job has come, in bytes. The total may change meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// Known so far.
    pub total: u64,
}

/// Since when a change of a domain counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Right now.
    Now,
    /// From the next start of the guest on: what runs stays as it is until then.
    AtNextStart,
}

/// Counters of a running domain since it was started, and its memory and disk figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainSample {
    /// CPU time used, nanoseconds.
    pub cpu_time_ns: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory free for use in the guest, bytes (usable, else unused, else maximum − rss: contract §14 B7).
    pub memory_available: u64,
    /// Bytes that the guest's disks may still grow on the host: capacity − allocation over all disks (contract §14 B8).
    pub disk_available: u64,
    /// Bytes read from disks.
    pub disk_read: u64,
    /// Bytes written to disks.
    pub disk_written: u64,
    /// Bytes received by the guest.
    pub net_received: u64,
    /// Bytes sent by the guest.
    pub net_sent: u64,
}

/// What libvirt tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The connection is up (again); everything is told anew.
    Connected(Vec<DomainStatus>),
    /// The connection broke; it is being re-made.
    Disconnected(String),
    /// A domain started or stopped.
    Power {
        /// Which.
        id: GuestId,
        /// Now.
        power: PowerState,
    },
    /// QEMU holds a running guest because one of its disks could not be written or read; [`super::Hypervisor::held`] tells more.
    Held(GuestId),
    /// A domain disappeared from libvirt.
    Undefined(GuestId),
    /// A domain appeared in libvirt or its definition changed.
    Defined(GuestId),
}

/// A volume after its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// File.
    pub path: String,
    /// libvirt's key.
    pub key: String,
    /// Virtual size, bytes.
    pub capacity: u64,
}

/// Space of some file systems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes free for unprivileged users.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Paths that could not be read, with the reason.
    pub unreadable: Vec<String>,
}

/// A disk image on an image server, as the Core names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLocation {
    /// Id on the image server.
    pub id: String,
    /// Name or address of the image server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Size of the image in bytes as announced; 0 where the image is yet to be made.
    pub size: u64,
}

/// An NFS export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfsSource {
    /// Name or address of the server.
    pub host: String,
    /// Exported path.
    pub path: String,
}

/// A guest as the files of a shared pool describe it (contract §8.3, §8.4).
#[derive(Clone, Debug, PartialEq)]
pub struct SharedGuest {
    /// `<id>.meta`.
    pub config: GuestConfig,
    /// `<id>.vols`.
    pub volumes: VolumeGroup,
}
