//! What can go wrong with the data files, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DataFile;

/// A data file or its directory could not be used. Cheap to clone: all who wait for one write get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("can't {action} {}{}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb: "write".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A book can't be put as JSON.
    #[error("can't put the content of {} as JSON; the former file stays", file.name())]
    Encode {
        /// Which.
        file: DataFile,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// A record of the journal can't be put as JSON.
    #[error("can't put a record of the journal as JSON")]
    Record {
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// The journal has records of another version of this program.
    #[error(
        "{} has records of another version of the program (format {version}), and what they are about may be half done: start that version, which finishes \
         them, or move the file away",
        path.display()
    )]
    JournalVersion {
        /// The journal.
        path: PathBuf,
        /// The version of its format.
        version: u64,
    },
    /// The writer has ended: the service is shutting down, or the writing task died and took it along.
    #[error("the writer of the data files has ended; nothing is saved any more until the service is started again")]
    Closed,
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    /// True when the file system or the quota is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if full(source))
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What whoever runs the node can do about it.
fn advice(error: &io::Error) -> &'static str {
    use nix::errno::Errno;
    if full(error) {
        return " (free space on this file system; the former file is unchanged)";
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO) => " (the disk reports an error: see the kernel's log; the former file is unchanged)",
        Some(Errno::EROFS) => " (the file system is read-only: see the kernel's log, then mount it read-write)",
        Some(Errno::EACCES | Errno::EPERM) => " (the service needs read and write access to this directory)",
        _ => "",
    }
}
