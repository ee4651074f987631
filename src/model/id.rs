//! Identifiers as newtypes, so that a guest id is never passed where a session is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A guest's id: the UUID that the Core chose. It is also the libvirt UUID and the name of the
/// guest's volume group (contract §8.2).
///
/// Being a parsed UUID it can't carry a path, XML or a blank: whatever is built from it is safe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestId(Uuid);

impl GuestId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// A fresh random id (tests and corelet; in a cluster the Core chooses).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for GuestId {
    type Err = InvalidGuestId;

    /// Accepts the hyphenated form only, as the Core writes it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Uuid::parse_str(text) {
            Ok(id) if text.len() == 36 => Ok(Self(id)),
            _ => Err(InvalidGuestId(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a UUID stood where a guest id belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a guest id (a UUID such as 0b5a7c7e-6f5d-4d6a-9f43-0c6a5c1d2e3f)")]
pub struct InvalidGuestId(String);

/// The number of a transaction, 1..=1024 (contract §2.7). Shown as the log shows it: `[0000002A]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u32);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:08X}]", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
