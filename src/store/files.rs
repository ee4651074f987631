//! Replacing files atomically, several in one go, with the version before kept as `<name>.bak`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::StoreError;

const TEMPORARY: &str = ".tmp";
const BACKUP: &str = ".bak";

/// The data directory.
#[derive(Clone)]
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

/// What a write does with the version before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It becomes `<name>.bak`.
    Keep,
    /// It goes; `<name>.bak` stays what it is.
    Drop,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        Self { disk, directory: directory.to_owned() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes the directory if need be and removes what an interrupted write of these files has left.
    pub(super) fn prepare(&self, names: &[&str]) -> Result<(), StoreError> {
        self.disk.make_directory(&self.directory).map_err(|e| StoreError::io("make the directory", &self.directory, e))?;
        for name in names {
            let temporary = self.temporary(name);
            self.disk.remove(&temporary).map_err(|e| StoreError::io("remove", &temporary, e))?;
        }
        Ok(())
    }

    /// `None` when there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        match self.disk.read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// Writes at the end of a file. What a failure leaves of it is cut off again; only a disk that refuses even that keeps some or all of it.
    pub(super) fn append(&self, name: &str, content: &[u8], sync: bool) -> Result<(), StoreError> {
        let path = self.path(name);
        let length = self.disk.length(&path).map_err(|e| StoreError::io("write", &path, e))?;
        self.disk.append(&path, content, sync).map_err(|error| {
            if let Err(second) = self.disk.cut(&path, length) {
                tracing::error!("what could not be written to {} completely can't be cut off again: {second}", path.display());
            }
            StoreError::io("write", &path, error)
        })
    }

    /// Where the last good copy of a file is.
    pub(super) fn backup_name(name: &str) -> String {
        format!("{name}{BACKUP}")
    }

    /// Replaces all of them or, when the disk fails before the first rename, none. Durable on return.
    pub(super) fn replace(&self, contents: &[(&str, &[u8])], former: Former) -> Result<(), StoreError> {
        let result = self.write_beside(contents).and_then(|()| self.put_in_place(contents, former));
        if result.is_err() {
            for (name, _) in contents {
                // Best effort on a disk that just failed; the next start removes what stays.
                let _ = self.disk.remove(&self.temporary(name));
            }
        }
        result
    }

    fn write_beside(&self, contents: &[(&str, &[u8])]) -> Result<(), StoreError> {
        for (name, content) in contents {
            let temporary = self.temporary(name);
            self.disk
                .remove(&temporary)
                .and_then(|()| self.disk.create(&temporary, content))
                .map_err(|e| StoreError::io("write", &self.path(name), e))?;
        }
        Ok(())
    }

    fn put_in_place(&self, contents: &[(&str, &[u8])], former: Former) -> Result<(), StoreError> {
        for (name, _) in contents {
            let path = self.path(name);
            if former == Former::Keep {
                self.back_up(name, &path);
            }
            self.disk.rename(&self.temporary(name), &path).map_err(|e| StoreError::io("replace", &path, e))?;
        }
        self.sync()
    }

    /// A second name for the present version. Only a safeguard, so that its failure does not stop the write.
    fn back_up(&self, name: &str, path: &Path) {
        let backup = self.path(&Self::backup_name(name));
        match self.disk.remove(&backup).and_then(|()| self.disk.link(path, &backup)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("can't keep a last good copy as {}: {error}", backup.display());
            }
            _ => {}
        }
    }

    /// Keeps a second name of a file as `<name>.damaged-<time>`; returns that name.
    pub(super) fn set_aside(&self, name: &str, time: &str) -> Result<String, StoreError> {
        let path = self.path(name);
        let wanted = format!("{name}.damaged-{time}");
        let mut aside = wanted.clone();
        for number in 2_u32.. {
            match self.disk.link(&path, &self.path(&aside)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => aside = format!("{wanted}-{number}"),
                Err(error) => return Err(StoreError::io("set aside the damaged file", &path, error)),
                Ok(()) => break,
            }
        }
        self.sync()?;
        Ok(aside)
    }

    /// Durable on return; unchanged when it is not there.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        self.disk.remove(&path).map_err(|e| StoreError::io("remove", &path, e))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.disk.sync_directory(&self.directory).map_err(|e| StoreError::io("sync the directory", &self.directory, e))
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}{TEMPORARY}"))
    }
}
