//! `running`: a file that is there while the service runs. Finding it at start means that the run before ended in a crash, a SIGKILL or
//! a power cut, so that the host may hold half of a transaction.

use super::files::{Files, Former};
use super::StoreError;

pub(super) const NAME: &str = "running";

/// The mark of this run. Dropping it leaves the file: only [`RunMarker::clear`] is a clean end.
pub struct RunMarker {
    files: Files,
    unclean: bool,
}

impl RunMarker {
    pub(super) fn set(files: &Files) -> Result<Self, StoreError> {
        let unclean = files.read(NAME)?.is_some();
        let content = format!("{}\n", std::process::id());
        files.replace(&[(NAME, content.as_bytes())], Former::Drop)?;
        Ok(Self { files: files.clone(), unclean })
    }

    /// The run before this one did not end in order.
    pub fn unclean(&self) -> bool {
        self.unclean
    }

    /// True when a service runs in this directory or one did not end in order.
    pub fn is_set(directory: &std::path::Path) -> bool {
        directory.join(NAME).exists()
    }

    /// The service ends in order. Blocks on the disk.
    ///
    /// # Errors
    /// The mark can't be removed; the next start will take this run for crashed.
    pub fn clear(self) -> Result<(), StoreError> {
        self.files.remove(NAME)
    }
}
