//! Plain data of the node: what a guest, a volume, a pool and a network assignment are.
//!
//! Contract: nothing in here does I/O or knows the time. The types that are written to disk have
//! exactly the reference's field names (wire contract §8), so a directory can be handed over in both
//! directions; `null` is accepted wherever a list or a map is expected.

pub mod address;
mod chain;
pub mod claim;
pub mod extra;
pub mod guest;
pub mod id;
pub mod instance_book;
pub mod lifecycle;
pub mod network;
pub mod policy;
mod rate_limit;
pub mod secret;
pub mod service;
mod snapshots;
pub mod virtualization;
pub mod volume;

pub use chain::Chain;
pub use claim::Claim;
pub use extra::Extra;
pub use guest::{Guest, GuestConfig, Media, PowerState, Template};
pub use id::{GuestId, InvalidGuestId, SessionId};
pub use instance_book::{InstanceBook, Origin, DEFAULT_MAX_GUEST, LOCAL_POOL};
pub use network::{AddressMode, NetworkBook, Resource};
pub use policy::{Protocol, Rule, SecurityPolicy};
pub use rate_limit::{RateLimit, Suppressed};
pub use secret::Secret;
pub use service::ServiceStatus;
pub use virtualization::Virtualization;
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

/// Writes an empty list as `null`, as the reference does for the lists that it never leaves out.
pub(crate) fn null_when_empty<S, T>(list: &[T], serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
    T: serde::Serialize,
{
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_seq(list)
    }
}
