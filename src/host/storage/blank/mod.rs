//! Blank disk images that are kept to be copied.
//!
//! Contract: a blank is the exact content of an image that `qemu-img` made, held in a file without a name in the same directory: it shares its
//! file system, nobody lists it, and it is gone with the process. A copy has the same holes as the original and is on the disk when
//! [`Blank::copy_to`] returns. Everything here blocks.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use parking_lot::Mutex;

use super::sparse::extents;

/// Sizes that are kept; the one that was not used for the longest time goes first.
const KEPT: usize = 8;

/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

/// The blanks at hand, last used last.
#[derive(Default)]
pub(in crate::host) struct Blanks(Mutex<VecDeque<Arc<Blank>>>);

/// One blank image.
pub(in crate::host) struct Blank {
    directory: PathBuf,
    capacity: u64,
    file: File,
    length: u64,
    extents: Vec<(u64, u64)>,
}

impl Blanks {
    /// The blank of this capacity for images in this directory.
    pub(in crate::host) fn get(&self, directory: &Path, capacity: u64) -> Option<Arc<Blank>> {
        let mut blanks = self.0.lock();
        let found = blanks.iter().position(|blank| blank.capacity == capacity && blank.directory == directory)?;
        let blank = blanks.remove(found)?;
        blanks.push_back(blank.clone());
        Some(blank)
    }

    /// Keeps the content of an image that was just made. A file system without unnamed files (NFS) has no blanks; that only costs time.
    pub(in crate::host) fn keep(&self, image: &Path, capacity: u64) {
        let Some(directory) = image.parent() else { return };
        match Blank::of(directory, image, capacity) {
            Ok(blank) => {
                let mut blanks = self.0.lock();
                blanks.retain(|other| other.capacity != capacity || other.directory != directory);
                blanks.push_back(Arc::new(blank));
                while blanks.len() > KEPT {
                    blanks.pop_front();
                }
            }
            Err(error) => tracing::debug!("no blank image of {capacity} bytes is kept in {}: {error}", directory.display()),
        }
    }

    /// Lets go of all files, so that a file system can be unmounted.
    pub(in crate::host) fn forget(&self) {
        self.0.lock().clear();
    }
}

impl Blank {
    fn of(directory: &Path, image: &Path, capacity: u64) -> io::Result<Self> {
        let image = File::open(image)?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_TMPFILE.bits()).mode(0o600).open(directory)?;
        let length = image.metadata()?.len();
        let extents = extents(&image, length)?;
        copy(&image, &file, &extents, length)?;
        Ok(Self { directory: directory.to_owned(), capacity, file, length, extents })
    }

    /// Gives an existing, empty file the blank's content.
    pub(in crate::host) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let target = OpenOptions::new().write(true).open(path)?;
        copy(&self.file, &target, &self.extents, self.length)?;
        target.sync_data()
    }
}

/// Copies by position, for several threads read one blank at the same time.
fn copy(from: &File, to: &File, extents: &[(u64, u64)], length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for (start, end) in extents {
        let mut offset = *start;
        while offset < *end {
            let wanted = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            from.read_exact_at(chunk, offset)?;
            to.write_all_at(chunk, offset)?;
            offset += u64::try_from(wanted).unwrap_or_default();
        }
    }
    to.set_len(length)
}

#[cfg(test)]
mod tests;
