//! Images that were fetched before, kept to be copied.
//!
//! Contract: an entry is the exact file that the server sent, named by image id and signature, in the hidden directory `.image_cache` of the pool: on the
//! pool's file system, so that a copy can share its blocks, and no volume of the pool. An entry is complete and on the disk before it has its name.
//! All entries of a pool together take at most the configured size; the one that was not used for the longest time goes first. The cache gives way to
//! guests: it leaves a tenth of the file system free, at most 8 GiB, and entries go when a clone needs their room. Caches do not
//! wait for each other, and nobody waits while one is copied into. Everything here blocks.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use parking_lot::{Mutex, MutexGuard};

use super::super::sparse;
use crate::host::MEDIA_DIRECTORY;

/// Name of the cache in the pool's directory.
const DIRECTORY: &str = ".image_cache";

/// Unfinished copies begin so; entries begin with an image id, which never does.
const UNFINISHED: &str = ".new-";

/// An unfinished copy that nobody has touched for so long was left by a crash. (A shared pool has other hosts' copies as well.)
const ABANDONED: Duration = Duration::from_secs(600);

/// How long a change of a cache may take: it changes names and lists files.
const PATIENCE: Duration = Duration::from_secs(10);

/// The part of the file system that is left to guests: one in so many bytes, but no more than [`LARGEST_RESERVE`].
const RESERVE: u64 = 10;
const LARGEST_RESERVE: u64 = 8 << 30;

/// The caches of all pools.
pub(super) struct Cache {
    /// Most bytes a pool; 0 switches the cache off.
    limit: u64,
    /// Changes of each, one at a time.
    pools: Mutex<HashMap<PathBuf, Arc<Mutex<Copies>>>>,
}

/// Copies into a cache that are not complete: they have taken their room already.
type Copies = Vec<Copy>;

struct Copy {
    /// Where it is written.
    unfinished: PathBuf,
    /// The name that it is going to have.
    path: PathBuf,
    bytes: u64,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, pools: Mutex::default() }
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

    /// Keeps the content of an image that was just fetched and checked; false when there is no room for it, or when somebody else is about to keep it.
    /// Nobody waits for the copy.
    pub(super) fn keep(&self, disk: &Path, id: &str, signature: &str, image: &File) -> io::Result<bool> {
        let Some(directory) = directory(disk).filter(|_| self.limit > 0) else { return Ok(false) };
        let pool = self.pool(&directory);
        let (metadata, path) = (image.metadata()?, directory.join(name(id, signature)));
        let copy = {
            let mut copies = patiently(&pool, &directory)?;
            if path.exists() {
                return Ok(true);
            }
            if copies.iter().any(|copy| copy.path == path) {
                return Ok(false);
            }
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let bytes = occupied(&metadata);
            if !self.make_room(&directory, id, bytes, &copies)? {
                return Ok(false);
            }
            let copy = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&directory)?;
            copies.push(Copy { unfinished: copy.path().to_owned(), path: path.clone(), bytes });
            copy
        };
        let unfinished = copy.path().to_owned();
        let written = sparse::copy(image, copy.as_file(), metadata.len(), |_| true).and_then(|()| copy.as_file().sync_all());
        let mut copies = pool.lock();
        copies.retain(|copy| copy.unfinished != unfinished);
        written?;
        copy.persist(&path).map_err(|error| error.error)?;
        drop(copies);
        File::open(&directory)?.sync_all()?;
        Ok(true)
    }

    /// Lets entries go until the pool has `bytes` free. It may not get there; whoever writes will see.
    pub(super) fn give_way(&self, disk: &Path, bytes: u64) {
        let Some(directory) = directory(disk).filter(|directory| directory.is_dir()) else { return };
        let pool = self.pool(&directory);
        let Ok(_copies) = patiently(&pool, &directory).inspect_err(|error| tracing::warn!("{error}")) else { return };
        let mut entries = entries(&directory).unwrap_or_default().into_iter();
        while free(&directory).is_ok_and(|(free, _)| free < bytes) {
            let Some(entry) = entries.next() else { return };
            remove(&entry);
        }
    }

    fn pool(&self, directory: &Path) -> Arc<Mutex<Copies>> {
        self.pools.lock().entry(directory.to_owned()).or_default().clone()
    }

    /// Removes what is superseded or abandoned, then the least recently used, until `bytes` more fit beside the copies under way.
    fn make_room(&self, directory: &Path, id: &str, bytes: u64, copies: &[Copy]) -> io::Result<bool> {
        let superseded = format!("{id}.");
        let (old, kept): (Vec<Entry>, Vec<Entry>) =
            entries(directory)?.into_iter().partition(|entry| file_name(&entry.path).starts_with(&superseded));
        old.iter().for_each(remove);
        remove_abandoned(directory, copies)?;
        let wanted = copies.iter().fold(bytes, |sum, copy| sum.saturating_add(copy.bytes));
        let mut taken: u64 = kept.iter().map(|entry| entry.bytes).sum();
        let mut kept = kept.into_iter();
        loop {
            let (free, whole) = free(directory)?;
            if taken.saturating_add(wanted) <= self.limit && free.saturating_sub(wanted) >= (whole / RESERVE).min(LARGEST_RESERVE) {
                return Ok(true);
            }
            let Some(oldest) = kept.next() else { return Ok(false) };
            taken = taken.saturating_sub(oldest.bytes);
            remove(&oldest);
        }
    }
}

/// The changes of a cache, unless somebody works on it for too long: its file system does not answer.
fn patiently<'a>(pool: &'a Mutex<Copies>, directory: &Path) -> io::Result<MutexGuard<'a, Copies>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("the image cache {} does not answer", directory.display()));
    pool.try_lock_for(PATIENCE).ok_or_else(late)
}

/// Removes the whole cache of a pool, and the media images beside it, because the pool goes.
pub(in crate::host) fn discard_cache(pool: &Path) {
    for directory in [DIRECTORY, MEDIA_DIRECTORY] {
        match std::fs::remove_dir_all(pool.join(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("the images kept in {}/{directory} can't be removed: {error}", pool.display());
            }
            _ => {}
        }
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

fn remove_abandoned(directory: &Path, copies: &[Copy]) -> io::Result<()> {
    for (path, metadata) in files(directory)? {
        if copies.iter().any(|copy| copy.unfinished == path) {
            continue;
        }
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
