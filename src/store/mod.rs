//! The data files: `data/instance.data`, `storage.data` and `network.data` in the reference's formats (contract §8), kept so that no
//! crash, full disk or damaged file loses a guest.
//!
//! Contract:
//! - **Reading** ([`Store::open`]) is tolerant. A missing file gives the defaults. One guest, volume group, pool or network entry that
//!   can't be read does not stop the others: it is kept as it stands and written back. A damaged file is set aside as
//!   `<name>.damaged-<time>` and the last good copy (`<name>.bak`) takes its place. Everything that was not as it should be comes back as
//!   a [`Notice`]; only a directory that can't be used at all is an error.
//! - **Writing** is atomic per file: written beside, synced, renamed, directory synced; mode 0600, one blank of indent a level, no newline
//!   at the end. The version before stays as `<name>.bak`. When it fails the former file stays, and the file counts as unwritten until a
//!   later write succeeds.
//! - [`Store::flush`] returns when the state at the time of the call is durable. Calls that come while a write is under way share the
//!   next one, so parallel transactions do not queue up behind each other's fsync. [`Writer::run`] is the one task that writes.
//! - In one write all files are prepared and synced first and renamed last, in the order storage, network, instance: a guest that is
//!   listed has its volumes and its network resource on record.
//! - One process uses the directory at a time; the locked pidfile sees to that.
//!
//! Beside them lie `identity.json` (the name of this node, [`Identity`]), `running` ([`RunMarker`], tells an unclean end) and, from a loss until all guests
//! are entered again, `rebuild` ([`Loaded::lost`]).
//!
//! The **journal** ([`journal`]) is a fourth file of this directory, `journal.data`: a transaction changes the host in several steps and then the
//! books, and a crash in between would leave volumes or domains that no file knows. What it lists at start is finished or taken back
//! before the first request is taken.

mod batch;
mod disk;
mod error;
mod files;
mod format;
mod identity;
pub mod journal;
mod load;
mod look;
mod loss;
mod marker;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use format::encode;
pub use identity::Identity;
pub use journal::Journal;
pub use load::{Loaded, Notice};
pub use marker::RunMarker;
pub use writer::{Opened, Store, Writer};

/// One of the three books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataFile {
    /// `storage.data`: pools and volume groups.
    Storage,
    /// `network.data`: ports, MACs and addresses.
    Network,
    /// `instance.data`: guests.
    Instance,
}

impl DataFile {
    /// All of them, in the order in which they are replaced.
    pub const ALL: [Self; 3] = [Self::Storage, Self::Network, Self::Instance];

    /// Name in the data directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage.data",
            Self::Network => "network.data",
            Self::Instance => "instance.data",
        }
    }
}

/// Where the writer gets the current content from.
pub trait Source: Send + Sync + 'static {
    /// The book as it is now, through [`encode`]. Called on a blocking thread; a lock held meanwhile holds up whoever changes the book.
    ///
    /// # Errors
    /// [`StoreError::Encode`]: the file is left as it is.
    fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError>;
}
