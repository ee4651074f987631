//! Plain data of the node: what a guest, a volume, a pool and a network assignment are.
//!
//! Contract: nothing in here does I/O or knows the time. The types that are written to disk have
//! exactly the reference's field names (wire contract §8), so a directory can be handed over in both
//! directions; `null` is accepted wherever a list or a map is expected.

pub mod address;
pub mod guest;
pub mod id;
pub mod network;
pub mod policy;
pub mod secret;
pub mod service;
pub mod volume;

pub use guest::{Guest, GuestConfig, PowerState, Template};
pub use id::{GuestId, SessionId};
pub use network::{AddressMode, NetworkBook, Resource};
pub use policy::{Protocol, Rule, SecurityPolicy};
pub use secret::Secret;
pub use service::ServiceStatus;
pub use volume::{Pool, PoolMode, Snapshot, StorageBook, Volume, VolumeGroup};

/// Reads `null` as the type's default: Go writes a nil slice or map as `null`.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// True for a value that the reference leaves out of its files.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
