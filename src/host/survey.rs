//! What there is on the host as a whole, as whoever compares it with the books sees it.

use crate::model::{GuestId, Pool, PowerState};

/// What of a domain's permanent definition concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainDefinition {
    /// Virtual CPUs.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Its disks in the order of the definition, CD drives left out.
    pub disks: Vec<DiskSource>,
    /// MAC addresses of its interfaces.
    pub macs: Vec<String>,
    /// Names of the filters of its interfaces.
    pub filters: Vec<String>,
    /// TCP port of VNC or SPICE.
    pub monitor_port: Option<u16>,
    /// Every file that it names or that its QEMU has open, images below its disks included; of volumes only the name is known.
    pub files: Vec<String>,
}

/// Where a disk of a domain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// A volume of a pool.
    Volume {
        /// Pool.
        pool: String,
        /// Volume's name in it.
        volume: String,
    },
    /// A file by its path.
    File(String),
}

/// A domain with its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinedDomain {
    /// UUID.
    pub id: GuestId,
    /// libvirt's name of it.
    pub name: String,
    /// Runs or not.
    pub power: PowerState,
    /// libvirt's autostart flag.
    pub autostart: bool,
    /// The definition.
    pub definition: DomainDefinition,
}

/// A filter that bears the name of a guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFilter {
    /// Name.
    pub name: String,
    /// Guest that the name is about.
    pub guest: GuestId,
}

/// How a guest's filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterState {
    /// As the guest's configuration wants it.
    Right,
    /// With other rules.
    Different,
    /// There is none.
    Missing,
}

/// A storage pool of libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// What it is; its volumes are not listed.
    pub pool: Pool,
    /// libvirt uses it.
    pub active: bool,
    /// libvirt starts it with the host.
    pub autostart: bool,
}

/// A running guest that QEMU holds because one of its disks could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldGuest {
    /// Which.
    pub id: GuestId,
    /// The disks that failed, as far as libvirt tells; none where it does not.
    pub disks: Vec<FailedDisk>,
}

/// A disk that could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDisk {
    /// Its file; its name in the guest ("sda") where the file is not known.
    pub path: String,
    /// The file system or the quota was full; anything else is an error of the device.
    pub full: bool,
}
