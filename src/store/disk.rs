//! The few operations on files that the store is made of, as a trait, so that tests can let each of them fail or "lose power".

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::faults;

/// File operations; each one is a system call or a fixed, short sequence of them.
pub(super) trait Disk: Send + Sync + 'static {
    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// A new file of mode 0600 with this content, synced; refuses to overwrite.
    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Writes at the end of a file that is there, and has it on the disk before it returns where `sync` says so.
    fn append(&self, path: &Path, content: &[u8], sync: bool) -> io::Result<()>;
    /// Bytes of a file.
    fn length(&self, path: &Path) -> io::Result<u64>;
    /// A file has no more than `length` bytes, on the disk too. Takes no space.
    fn cut(&self, path: &Path, length: u64) -> io::Result<()>;
    /// A second name for a file.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unchanged when it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory with mode 0740 (contract §8) when it is missing.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The real thing.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        faults::data()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        faults::data()
    }

    fn append(&self, path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
        faults::data()?;
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(content)?;
        if sync {
            file.sync_data()?;
        }
        faults::data()
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        file.sync_data()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)?;
        faults::data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        faults::data()?;
        fs::rename(from, to)?;
        faults::data()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o740).create(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}
