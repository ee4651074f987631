//! cloud-init (contract §9.1): the seed image in a guest's second drive, the documents that its first boot asks for, and the HTTP server
//! that hands them to that guest alone.
//!
//! Contract: [`seed`], [`documents`] and [`iso`] are functions of the guest's configuration and the pool's addresses; they touch nothing. [`server`] serves
//! them. A password leaves the node as a SHA-512 hash only, and every text of a guest or a user is quoted, so none of them can
//! become a key or a command. Nothing depends on one distribution: disks and volume groups are found, not named.

pub mod documents;
pub mod iso;
mod password;
pub mod seed;
pub mod server;
mod user_data;
mod yaml;

use crate::model::GuestConfig;

pub use user_data::is_account;

/// Where the server listens, on the bridge's address (contract §9.1).
pub const PORT: u16 = 25469;
/// Where data disks are mounted unless the user says otherwise (contract §6.2).
pub const DATA_PATH: &str = "/opt/data";

/// A document can't be made for this guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// cloud-init's user data is for Linux (contract §14 C15).
    #[error("guest '{name}' runs {system}: user data for cloud-init is made for linux guests only")]
    NotLinux {
        /// The guest.
        name: String,
        /// Its template's system.
        system: String,
    },
    /// Static addressing without an address.
    #[error("guest '{name}' gets its address from cloud-init but its assigned address is '{address}', and an address such as 10.0.0.5/24 is needed")]
    NoAddress {
        /// The guest.
        name: String,
        /// What stands in its place.
        address: String,
    },
    /// The account's name can't be one.
    #[error("guest '{name}' has the administrator '{user}': an account's name has no spaces, colons or control characters and begins with a letter, a digit or '_'")]
    BadAdmin {
        /// The guest.
        name: String,
        /// The account.
        user: String,
    },
    /// The system's random generator failed.
    #[error("the password of guest '{name}' can't be hashed: {reason}")]
    Hash {
        /// The guest.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Host name of a guest: its name without the group in front of it (contract §9.1), with what a host name can't have replaced.
pub fn hostname(guest: &GuestConfig) -> String {
    let name = guest.name.split_once('.').map_or(guest.name.as_str(), |(_, name)| name);
    let label: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        return format!("guest-{}", guest.id.to_string().split('-').next().unwrap_or_default());
    }
    label.to_owned()
}

#[cfg(test)]
mod tests;
