//! Files that change their names, durably. Everything here blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{chown, MetadataExt};
use std::path::Path;

use crate::host::Change;

/// Brings a file and its name to the disk.
pub(super) fn persist(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    persist_names(path)
}

/// Brings the names in the path's directory to the disk.
fn persist_names(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Gives a file the mode of another one, if that is there.
pub(super) fn adopt_mode(path: &Path, like: &Path) -> io::Result<()> {
    match fs::metadata(like) {
        Ok(data) => fs::set_permissions(path, data.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Names of the files in a directory that begin with `prefix`, sorted; none when there is no such directory.
pub(super) fn list(directory: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `path`'s file gets the name `aside`, `new`'s takes its place: by a second name, so that there is a file at `path` all the time.
pub(super) fn replace(path: &Path, new: &Path, aside: &Path) -> io::Result<()> {
    let present = fs::metadata(path)?;
    fs::set_permissions(new, present.permissions())?;
    let owner = fs::metadata(new)?;
    if (owner.uid(), owner.gid()) != (present.uid(), present.gid()) {
        // A server that maps root to nobody refuses this; the mode has to do then.
        chown(new, Some(present.uid()), Some(present.gid())).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        })?;
    }
    fs::hard_link(path, aside)?;
    persist_names(aside)?;
    fs::rename(new, path)?;
    persist_names(path)
}

/// Renames a file to a name that is free.
pub(super) fn set_aside(path: &Path, aside: &Path) -> io::Result<()> {
    // Unlike a rename, a link refuses a name that is taken.
    fs::hard_link(path, aside)?;
    fs::remove_file(path)?;
    persist_names(aside)
}

/// The way back of [`replace`] and [`set_aside`], also when they got only half-way.
pub(super) fn put_back(path: &Path, new: Option<&Path>, aside: &Path) -> io::Result<Change> {
    let Some(kept) = identity(aside)? else {
        return Ok(Change::Unchanged);
    };
    let present = identity(path)?;
    if present == Some(kept) {
        fs::remove_file(aside)?;
    } else {
        if let (Some(new), Some(present)) = (new, present) {
            if identity(new)? != Some(present) {
                fs::hard_link(path, new)?;
            }
        }
        fs::rename(aside, path)?;
    }
    persist_names(path)?;
    Ok(Change::Changed)
}

/// Removes a file; unchanged when there is none.
pub(super) fn remove(path: &Path) -> io::Result<Change> {
    match fs::remove_file(path) {
        Ok(()) => {
            persist_names(path)?;
            Ok(Change::Changed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Which file a name leads to; two names may lead to one.
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(data) => Ok(Some((data.dev(), data.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
