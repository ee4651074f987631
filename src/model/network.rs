//! Monitor ports, MACs and addresses given to guests: `data/network.data` (contract §8.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_default, null_default, GuestId};

/// Content of `data/network.data`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkBook {
    /// Bridge of new guests; never empty in our files (the reference hangs on an empty one).
    #[serde(default)]
    pub default_bridge: String,
    /// What each guest holds.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<GuestId, Resource>,
    /// DNS servers handed to guests.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Gateway handed to guests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// How guests get their addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allocation_mode: AddressMode,
}

/// What one guest holds; all four fields are always written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// TCP port of VNC or SPICE.
    pub monitor_port: u16,
    /// MAC, lower case with colons.
    pub hardware_address: String,
    /// CIDR, "" when none.
    pub internal_address: String,
    /// CIDR, "" when none.
    pub external_address: String,
}

/// Who gives a guest its address (contract §6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressMode {
    /// Nobody: the pool has no address pool.
    #[default]
    #[serde(rename = "")]
    None,
    /// Our DHCP service.
    #[serde(rename = "dhcp")]
    Dhcp,
    /// cloud-init's network configuration.
    #[serde(rename = "cloudinit")]
    CloudInit,
}

impl AddressMode {
    /// From the word on the wire; `None` for an unknown one.
    pub fn from_wire(word: &str) -> Option<Self> {
        match word {
            "" => Some(Self::None),
            "dhcp" => Some(Self::Dhcp),
            "cloudinit" => Some(Self::CloudInit),
            _ => None,
        }
    }
}
