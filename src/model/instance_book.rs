//! All guests of the node and the settings that go with them: `data/instance.data` (contract §8.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{is_default, null_default, null_when_empty, GuestConfig, GuestId};

/// Pool of the volumes of a node without shared storage.
pub const LOCAL_POOL: &str = "local0";

/// Monitor ports of a node whose file names no number (contract §8.2).
pub const DEFAULT_MAX_GUEST: u32 = 100;

/// Content of `data/instance.data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceBook {
    /// All guests, in the order of the file.
    #[serde(deserialize_with = "null_default", serialize_with = "null_when_empty")]
    pub instances: Vec<Arc<GuestConfig>>,
    /// Pool whose directory takes the guests' metadata: "local0" (none are written) or an NFS pool.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_pool: String,
    /// Mount path of the NFS pool, "" without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_url: String,
    /// Number of monitor ports and therefore of guests.
    pub max_guest: u32,
    /// Guests that have come from another host and of which the Core has yet to be told. A key of ours; the reference passes it over.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arrivals: BTreeMap<GuestId, Origin>,
}

/// How a guest came here.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The Cell that had it; "" when that is not known.
    pub source: String,
    /// The Core's migration; "" for a failover, and for a move that the Core has not ordered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub migration: String,
    /// It ran there when it was let go of.
    #[serde(skip_serializing_if = "is_default")]
    pub ran: bool,
}

impl Default for InstanceBook {
    fn default() -> Self {
        Self {
            instances: Vec::new(),
            storage_pool: LOCAL_POOL.into(),
            storage_url: String::new(),
            max_guest: DEFAULT_MAX_GUEST,
            arrivals: BTreeMap::new(),
        }
    }
}
