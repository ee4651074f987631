//! Images that were fetched before, kept to be copied.
//!
//! Contract: an entry is the exact file that the server sent, named by image id and signature, in the hidden directory `.image_cache` of the pool: on the
//! pool's file system, so that a copy can share its blocks, and no volume of the pool. An entry is complete and on the disk before it has its name.
//! All entries of a pool together take at most the configured size; the one that was not used for the longest time goes first. The cache gives way to
//! guests: it leaves a tenth of the file system free, at most 8 GiB, and entries go when a clone needs their room. Everything here blocks.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use super::super::sparse;

/// Name of the cache in the pool's directory.
const DIRECTORY: &str = ".image_cache";

/// Unfinished copies begin so; entries begin with an image id, which never does.
const UNFINISHED: &str = ".new-";

/// An unfinished copy that nobody has touched for so long was left by a crash. (A shared pool has other hosts' copies as well.)
const ABANDONED: Duration = Duration::from_secs(600);

/// The part of the file system that is left to guests: one in so many bytes, but no more than [`LARGEST_RESERVE`].
const RESERVE: u64 = 10;
const LARGEST_RESERVE: u64 = 8 << 30;

/// The caches of all pools.
pub(super) struct Cache {
    /// Most bytes a pool; 0 switches the cache off.
    limit: u64,
    /// One change at a time.
    changing: Mutex<()>,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, changing: Mutex::new(()) }
    }

    /// Most bytes that are kept.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The content of this version of an image, if it is there; it counts as used then.
    pub(super) fn find(&self, disk: &Path, id: &str, signature: &str, size: u64) -> Option<File> {
        let file = (self.limit > 0).then(|| File::open(directory(disk)?.join(name(id, signature))).ok()).flatten()?;
        if file.metadata().ok()?.len() != size {
            return None;
        }
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!("the use of a cached image can't be noted: {error}");
        }
        Some(file)
    }

    /// Keeps the content of an image that was just fetched and checked; false when there is no room for it.
    pub(super) fn keep(&self, disk: &Path, id: &str, signature: &str, image: &File) -> io::Result<bool> {
        let Some(directory) = directory(disk).filter(|_| self.limit > 0) else { return Ok(false) };
        let _changing = self.changing.lock();
        let path = directory.join(name(id, signature));
        if path.exists() {
            return Ok(true);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let metadata = image.metadata()?;
        if !self.make_room(&directory, id, occupied(&metadata))? {
            return Ok(false);
        }
        let copy = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&directory)?;
        sparse::copy(image, copy.as_file(), metadata.len(), |_| true)?;
        copy.as_file().sync_all()?;
        copy.persist(&path).map_err(|error| error.error)?;
        File::open(&directory)?.sync_all()?;
        Ok(true)
    }

    /// Lets entries go until the pool has `bytes` free. It may not get there; whoever writes will see.
    pub(super) fn give_way(&self, disk: &Path, bytes: u64) {
        let Some(directory) = directory(disk).filter(|directory| directory.is_dir()) else { return };
        let _changing = self.changing.lock();
        let mut entries = entries(&directory).unwrap_or_default().into_iter();
        while free(&directory).is_ok_and(|(free, _)| free < bytes) {
            let Some(entry) = entries.next() else { return };
            remove(&entry);
        }
    }

    /// Removes what is superseded or abandoned, then the least recently used, until `bytes` more fit.
    fn make_room(&self, directory: &Path, id: &str, bytes: u64) -> io::Result<bool> {
        let superseded = format!("{id}.");
        let (old, kept): (Vec<Entry>, Vec<Entry>) =
            entries(directory)?.into_iter().partition(|entry| file_name(&entry.path).starts_with(&superseded));
        old.iter().for_each(remove);
        remove_abandoned(directory)?;
        let mut taken: u64 = kept.iter().map(|entry| entry.bytes).sum();
        let mut kept = kept.into_iter();
        loop {
            let (free, whole) = free(directory)?;
            if taken.saturating_add(bytes) <= self.limit && free.saturating_sub(bytes) >= (whole / RESERVE).min(LARGEST_RESERVE) {
                return Ok(true);
            }
            let Some(oldest) = kept.next() else { return Ok(false) };
            taken = taken.saturating_sub(oldest.bytes);
            remove(&oldest);
        }
    }
}

/// Removes the whole cache of a pool, because the pool goes.
pub(in crate::host) fn discard_cache(pool: &Path) {
    match std::fs::remove_dir_all(pool.join(DIRECTORY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("the cached images in {} can't be removed: {error}", pool.display());
        }
        _ => {}
    }
}

fn directory(disk: &Path) -> Option<PathBuf> {
    Some(disk.parent()?.join(DIRECTORY))
}

fn name(id: &str, signature: &str) -> String {
    format!("{id}.{signature}")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Finished entries, least recently used first.
fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (path, metadata) in files(directory)? {
        if !file_name(&path).starts_with(UNFINISHED) {
            entries.push(Entry { path, bytes: occupied(&metadata), used: metadata.modified()? });
        }
    }
    entries.sort_by_key(|entry| entry.used);
    Ok(entries)
}

fn files(directory: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let file = file?;
        match file.metadata() {
            Ok(metadata) => files.push((file.path(), metadata)),
            // On a shared pool another host may have removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn remove_abandoned(directory: &Path) -> io::Result<()> {
    for (path, metadata) in files(directory)? {
        let untouched = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
        if file_name(&path).starts_with(UNFINISHED) && untouched > ABANDONED {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn remove(entry: &Entry) {
    match std::fs::remove_file(&entry.path) {
        Ok(()) => tracing::info!("cached image {} makes room", file_name(&entry.path)),
        Err(error) => tracing::warn!("cached image {} can't be removed: {error}", entry.path.display()),
    }
}

fn occupied(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// Free and whole size of the file system, bytes.
fn free(directory: &Path) -> io::Result<(u64, u64)> {
    let space = statvfs(directory)?;
    Ok((space.blocks_available().saturating_mul(space.fragment_size()), space.blocks().saturating_mul(space.fragment_size())))
}

#[cfg(test)]
mod tests;
