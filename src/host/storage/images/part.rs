//! The file that an image is written to, beside the disk that it is going to replace.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{fchown, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::faults;

/// Where the image for a disk is written: in the same directory, so that a rename puts it in place, and hidden, so that it is no volume.
pub(super) fn path_beside(disk: &Path) -> io::Result<PathBuf> {
    let name = disk.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".part");
    Ok(disk.with_file_name(hidden))
}

/// An unfinished file; removed when it is dropped before [`Part::keep`].
pub(super) struct Part {
    path: PathBuf,
    kept: bool,
}

impl Part {
    /// An empty file with the owner and the mode of the disk. What an earlier fetch left there is gone.
    pub(super) fn create(disk: &Path) -> io::Result<(Self, File)> {
        let path = path_beside(disk)?;
        let like = std::fs::metadata(disk)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let part = Self { path, kept: false };
        // The owner first: changing it may take mode bits away.
        if nix::unistd::geteuid().is_root() {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(like.permissions())?;
        Ok((part, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It is complete and stays: content and name are on the disk when this returns. Whoever puts it in place after a crash has to find it.
    pub(super) fn keep(mut self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // Gone already, or there is nothing that could be done about it here: the next start looks for it again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Puts the finished file in the disk's place; on the disk when this returns.
pub(super) fn install(disk: &Path) -> io::Result<()> {
    faults::host();
    std::fs::rename(path_beside(disk)?, disk)?;
    disk.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
    faults::host();
    Ok(())
}

/// Removes an unfinished file; false when there is none.
pub(super) fn discard(disk: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path_beside(disk)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_part_looks_like_its_disk_and_goes_unless_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("a_sys.qcow2");
        std::fs::write(&disk, "old").unwrap();
        std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o666)).unwrap();
        let (part, file) = Part::create(&disk).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o666);
        let path = part.path().to_owned();
        assert_eq!(path, directory.path().join(".a_sys.qcow2.part"));
        drop(part);
        assert!(!path.exists());
        std::fs::write(&path, "left by a crash").unwrap();
        let (part, file) = Part::create(&disk).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        part.keep(&file).unwrap();
        install(&disk).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap(), b"");
        assert!(!discard(&disk).unwrap());
        std::fs::write(&path, "x").unwrap();
        assert!(discard(&disk).unwrap());
    }

    #[test]
    fn a_part_whose_name_cannot_be_brought_to_the_disk_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        let pool = directory.path().join("pool");
        std::fs::create_dir(&pool).unwrap();
        let disk = pool.join("a_sys.qcow2");
        std::fs::write(&disk, "old").unwrap();
        let (part, file) = Part::create(&disk).unwrap();
        std::fs::rename(&pool, directory.path().join("elsewhere")).unwrap();
        assert_eq!(part.keep(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn there_is_no_part_without_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Part::create(&directory.path().join("absent")).is_err());
        assert!(install(&directory.path().join("absent")).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
