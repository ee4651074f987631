//! Pools, volumes and snapshots: `data/storage.data` and `<id>.vols` (contract §8.4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_default, null_default, null_when_empty, GuestId};

/// Content of `data/storage.data`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageBook {
    /// "local" or "nfs"; absent = that of pool local0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Storage roots of system disks.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub system_paths: Vec<String>,
    /// Storage roots of data disks.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub data_paths: Vec<String>,
    /// By name; never empty in our files (the reference would start anew and lose the groups).
    #[serde(default, deserialize_with = "null_default")]
    pub pools: BTreeMap<String, Pool>,
    /// By guest.
    #[serde(default, deserialize_with = "null_default")]
    pub groups: BTreeMap<GuestId, VolumeGroup>,
    /// Pool of new volumes; absent = "local0".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current_pool: String,
}

/// Where a pool's files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// A directory of this host.
    #[default]
    Local,
    /// A mounted NFS export.
    Nfs,
}

impl From<PoolMode> for u32 {
    fn from(mode: PoolMode) -> Self {
        match mode {
            PoolMode::Local => 0,
            PoolMode::Nfs => 1,
        }
    }
}

impl TryFrom<u32> for PoolMode {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Local),
            1 => Ok(Self::Nfs),
            other => Err(format!("pool mode {other} is neither 0 (local) nor 1 (nfs)")),
        }
    }
}

/// A storage pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// libvirt's name of it.
    pub name: String,
    /// libvirt's UUID of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// 0 local, 1 nfs.
    #[serde(default, with = "pool_mode")]
    pub mode: PoolMode,
    /// Directory of the volumes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// NFS server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_host: String,
    /// NFS export.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_target: String,
    /// Not used; kept as it was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth_name: String,
    /// Not used; kept as it was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth_secret: String,
    /// Volume name -> true. An object even when empty (the reference panics on `null`).
    #[serde(default, deserialize_with = "null_default")]
    pub volumes: BTreeMap<String, bool>,
}

mod pool_mode {
    use super::PoolMode;
    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &PoolMode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(u32::from(*mode))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PoolMode, D::Error> {
        PoolMode::try_from(u32::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// All volumes of one guest; also the whole content of `<id>.vols`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGroup {
    /// System disk.
    pub system: Volume,
    /// Data disks in the order of their index.
    #[serde(default, deserialize_with = "null_default", serialize_with = "null_when_empty")]
    pub data: Vec<Volume>,
    /// Path of the cloud-init ISO.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_image: String,
    /// Snapshot that the current files are based on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub active_snapshot: String,
    /// First snapshot (the reference lists none while this is empty).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_snapshot: String,
    /// By name.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, Snapshot>,
}

impl VolumeGroup {
    /// System disk, then the data disks.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        std::iter::once(&self.system).chain(&self.data)
    }
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// File name in the pool.
    pub name: String,
    /// "qcow2".
    pub format: String,
    /// libvirt's key (the path).
    pub key: String,
    /// File.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Bytes at creation.
    #[serde(skip_serializing_if = "is_default")]
    pub capacity: u64,
    /// Pool's name.
    pub pool: String,
}

/// One snapshot of a volume group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Unique in the group.
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `YYYY-MM-DD HH:MM:SS`, local time.
    pub create_time: String,
    /// It has no parent.
    pub is_root: bool,
    /// The current files are based on it.
    pub is_current: bool,
    /// Parent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backing: String,
    /// Always false in the reference's files.
    pub running: bool,
    /// Volume name -> path of the frozen image.
    #[serde(deserialize_with = "null_default")]
    pub files: BTreeMap<String, String>,
}
