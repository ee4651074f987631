//! A guest's security policy (contract §6.8, §8.2).

use serde::{Deserialize, Serialize};

use super::{is_default, null_default};

/// Rules for traffic towards a guest, tried in order, and what happens to the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityPolicy {
    /// Default action: true lets traffic in that no rule names.
    pub accept: bool,
    /// Tried in this order.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// True accepts, false drops.
    pub accept: bool,
    /// What it is about.
    pub protocol: Protocol,
    /// IPv4 address, "" for any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_address: String,
    /// IPv4 address, "" for any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target_address: String,
    /// Port in the guest; meaningless for ICMP.
    #[serde(default)]
    pub target_port: u16,
    /// Not used; kept as it was found.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interface: u64,
}

/// Protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// 0 on the wire.
    Tcp,
    /// 1 on the wire.
    Udp,
    /// 2 on the wire.
    Icmp,
}

impl Protocol {
    /// From the number of the wire (contract §15).
    pub fn from_wire(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Tcp),
            1 => Some(Self::Udp),
            2 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// To the number of the wire.
    pub fn to_wire(self) -> u64 {
        match self {
            Self::Tcp => 0,
            Self::Udp => 1,
            Self::Icmp => 2,
        }
    }
}
