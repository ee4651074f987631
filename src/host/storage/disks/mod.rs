//! [`Disks`] on real files, with `qemu-img`.
//!
//! Contract: an image changes its name by links and renames, which the directory survives a crash with; a new image is on the disk before
//! it gets a name that matters. What a merge overwrites is kept inside of the image itself, as a qcow2 snapshot: that costs no copy,
//! and the mark survives a crash together with the content that it belongs to. A directory whose server is gone costs a few threads ([`super::doors`]).

mod names;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::doors::{directory_of, doors, kind};
use super::qemu_img::{self, Info, Inside};
use crate::faults;
use crate::host::{Change, DiskImage, Disks, ErrorKind, HostError, LongJob, Result};

/// Jobs that copy data, at once in one directory. More would only make each of them slower.
const LONG_JOBS: usize = 2;

/// How long a directory may take to be listed.
const LISTING: Duration = Duration::from_secs(4);

/// The inner snapshot that a merge can be taken back with; the name of the file that it belongs to follows. Under another file
/// name the merge was completed, and the mark is a left-over.
const MARK: &str = "before-merge-";

/// Image files of this host.
#[derive(Default)]
pub struct LocalDisks {
    long: Mutex<HashMap<PathBuf, Arc<Semaphore>>>,
}

impl LocalDisks {
    /// Waits for a place among the long jobs of the path's directory.
    async fn place(&self, path: &Path) -> Result<OwnedSemaphorePermit> {
        let directory = directory_of(path).to_owned();
        let places = self.long.lock().entry(directory).or_insert_with(|| Arc::new(Semaphore::new(LONG_JOBS))).clone();
        let closed = |error| HostError::with_source(ErrorKind::Failed, format!("cannot work on {}", path.display()), error);
        places.acquire_owned().await.map_err(closed)
    }
}

/// Work with the places in it at which tests end the process.
fn passing<T>(work: impl FnOnce() -> T) -> T {
    faults::host();
    let done = work();
    faults::host();
    done
}

fn told<T>(what: String, done: std::io::Result<T>) -> Result<T> {
    done.map_err(|error| HostError::with_source(kind(&error), what, error))
}

/// Changes names or modes in the path's directory.
async fn change<T: Send + 'static>(path: &Path, what: String, work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = doors().change(directory_of(path), &what, move || passing(work)).await?;
    told(what, done)
}

/// A path that is safe to hand on: absolute, so that no program takes it for an option or a protocol.
fn checked(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(HostError::new(ErrorKind::Invalid, format!("'{}' is no absolute path of an image", path.display())));
    }
    Ok(path)
}

fn mark(path: &Path) -> String {
    format!("{MARK}{}", path.file_name().unwrap_or_default().to_string_lossy())
}

fn is_marked(info: &Info, path: &Path) -> bool {
    let own = mark(path);
    info.snapshots.iter().any(|inner| inner.name == own)
}

async fn persist(path: &Path) -> Result<()> {
    let (path, what) = (path.to_owned(), format!("cannot write {} to the disk", path.display()));
    let done = doors().sync(directory_of(&path.clone()), &what, move || passing(|| names::persist(&path))).await?;
    told(what, done)
}

/// Removes all marks that an image has.
async fn settle(path: &Path, info: &Info) -> Result<Change> {
    let mut change = Change::Unchanged;
    for inner in info.snapshots.iter().filter(|inner| inner.name.starts_with(MARK)) {
        qemu_img::snapshot(path, Inside::Forget, &inner.name).await?;
        change = Change::Changed;
    }
    Ok(change)
}

async fn unmerge(path: &Path, info: &Info) -> Result<Change> {
    if !is_marked(info, path) {
        return Ok(Change::Unchanged);
    }
    let mark = mark(path);
    qemu_img::snapshot(path, Inside::Return, &mark).await?;
    qemu_img::snapshot(path, Inside::Forget, &mark).await?;
    persist(path).await?;
    Ok(Change::Changed)
}

#[async_trait]
impl Disks for LocalDisks {
    async fn inspect(&self, path: &str) -> Result<DiskImage> {
        let path = checked(path)?;
        let info = qemu_img::info(&path).await?;
        let half_merged = is_marked(&info, &path);
        Ok(DiskImage { capacity: info.virtual_size, allocated: info.actual_size, backing: info.backing_filename, half_merged })
    }

    async fn files(&self, directory: &str, prefix: &str) -> Result<Vec<String>> {
        let (directory, prefix) = (PathBuf::from(directory), prefix.to_owned());
        let (what, listed) = (format!("cannot list {}", directory.display()), directory.clone());
        let names = doors().ask(&directory, &what, LISTING, move || names::list(&listed, &prefix)).await?;
        told(what, names)
    }

    async fn overlay(&self, path: &str, backing: &str, capacity: u64) -> Result<()> {
        let (path, backing) = (checked(path)?, checked(backing)?);
        self.remove(&path.to_string_lossy()).await?;
        qemu_img::create_overlay(&path, &backing, capacity).await?;
        let (new, like) = (path.clone(), backing);
        change(&path, format!("cannot set the mode of {}", path.display()), move || names::adopt_mode(&new, &like)).await?;
        persist(&path).await
    }

    async fn compact(&self, path: &str, to: &str) -> Result<()> {
        let (path, to) = (checked(path)?, checked(to)?);
        let _place = self.place(&path).await?;
        let info = qemu_img::info(&path).await?;
        self.remove(&to.to_string_lossy()).await?;
        qemu_img::copy_layer(&path, &to, info.backing_filename.as_deref()).await?;
        persist(&to).await
    }

    async fn replace(&self, path: &str, new: &str, aside: &str) -> Result<()> {
        let (path, new, aside) = (checked(path)?, checked(new)?, checked(aside)?);
        let what = format!("cannot put {} in the place of {}", new.display(), path.display());
        change(&path.clone(), what, move || names::replace(&path, &new, &aside)).await
    }

    async fn set_aside(&self, path: &str, aside: &str) -> Result<()> {
        let (path, aside) = (checked(path)?, checked(aside)?);
        let what = format!("cannot rename {} to {}", path.display(), aside.display());
        change(&path.clone(), what, move || names::set_aside(&path, &aside)).await
    }

    async fn put_back(&self, path: &str, new: Option<&str>, aside: &str) -> Result<Change> {
        let (path, aside) = (checked(path)?, checked(aside)?);
        let new = new.map(checked).transpose()?;
        let what = format!("cannot put {} back in the place of {}", aside.display(), path.display());
        change(&path.clone(), what, move || names::put_back(&path, new.as_deref(), &aside)).await
    }

    async fn remove(&self, path: &str) -> Result<Change> {
        let path = checked(path)?;
        change(&path.clone(), format!("cannot remove {}", path.display()), move || names::remove(&path)).await
    }

    async fn resize(&self, path: &str, capacity: u64) -> Result<Change> {
        let path = checked(path)?;
        let present = qemu_img::info(&path).await?.virtual_size;
        if present == capacity {
            return Ok(Change::Unchanged);
        }
        if present < capacity {
            qemu_img::resize(&path, capacity).await?;
        } else {
            qemu_img::cut(&path, capacity).await?;
        }
        persist(&path).await?;
        Ok(Change::Changed)
    }

    async fn merge(&self, top: &str, base: &str) -> Result<()> {
        let (top, base) = (checked(top)?, checked(base)?);
        let _place = self.place(&base).await?;
        let (above, below) = (qemu_img::info(&top).await?, qemu_img::info(&base).await?);
        if above.backing_filename.as_deref().map(Path::new) != Some(&base) {
            let (top, base) = (top.display(), base.display());
            let real = above.backing_filename.unwrap_or_else(|| "nothing".into());
            return Err(HostError::new(ErrorKind::Invalid, format!("{top} can't be merged into {base}: it is based on {real}")));
        }
        // An earlier try that broke off comes back first: its content is the one to keep.
        unmerge(&base, &below).await?;
        settle(&base, &qemu_img::info(&base).await?).await?;
        qemu_img::snapshot(&base, Inside::Keep, &mark(&base)).await?;
        qemu_img::commit(&top, &base).await?;
        persist(&base).await
    }

    async fn unmerge(&self, base: &str) -> Result<Change> {
        let base = checked(base)?;
        unmerge(&base, &qemu_img::info(&base).await?).await
    }

    async fn settle(&self, path: &str) -> Result<Change> {
        let path = checked(path)?;
        settle(&path, &qemu_img::info(&path).await?).await
    }

    async fn rebase(&self, path: &str, backing: &str) -> Result<Change> {
        let (path, backing) = (checked(path)?, checked(backing)?);
        if qemu_img::info(&path).await?.backing_filename.as_deref().map(Path::new) == Some(&backing) {
            return Ok(Change::Unchanged);
        }
        qemu_img::rename_backing(&path, &backing).await?;
        persist(&path).await?;
        Ok(Change::Changed)
    }

    async fn persist(&self, path: &str) -> Result<()> {
        persist(&checked(path)?).await
    }

    async fn long_job(&self, path: &str) -> Result<LongJob> {
        Ok(LongJob::new(Some(self.place(&checked(path)?).await?)))
    }
}

#[cfg(test)]
mod tests;
