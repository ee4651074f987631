//! What can be done with the image files of a guest's disks while nobody else writes to them.
//!
//! Contract: each operation is one step of a larger change (a snapshot of three disks has many) and has a way back that is named beside it.
//! A step is durable when it returns. At no moment is the only copy of something gone before its successor is durable, so a
//! step that breaks off leaves every disk with a content that is right. Images are qcow2; paths are absolute. What may take
//! long (`compact`, `merge`, and what holds a [`LongJob`]) runs a bounded number at a time for each directory; the rest never waits for it.

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use super::{Change, Result};

/// An image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// Bytes that the guest sees.
    pub capacity: u64,
    /// Bytes that it takes on the disk, without those of the images below.
    pub allocated: u64,
    /// Path of the image that it is based on.
    pub backing: Option<String>,
    /// A [`Disks::merge`] into it broke off: its own content has to come back by [`Disks::unmerge`] before it is used by itself.
    pub half_merged: bool,
}

/// A place among the long jobs of a directory, until it is dropped.
#[derive(Debug)]
pub struct LongJob {
    _place: Option<OwnedSemaphorePermit>,
}

impl LongJob {
    /// A place; none where there is no bound.
    pub fn new(place: Option<OwnedSemaphorePermit>) -> Self {
        Self { _place: place }
    }
}

/// Image files.
#[async_trait]
pub trait Disks: Send + Sync {
    /// What an image is; also while a guest uses it. [`super::ErrorKind::NotFound`] when there is none.
    async fn inspect(&self, path: &str) -> Result<DiskImage>;

    /// Names of the files in `directory` that begin with `prefix`; none when there is no such directory.
    async fn files(&self, directory: &str, prefix: &str) -> Result<Vec<String>>;

    /// Makes an empty image of `capacity` bytes based on `backing`, which need not be there yet. A file of this name is replaced: it is one
    /// that an earlier try left. Way back: [`Disks::remove`].
    async fn overlay(&self, path: &str, backing: &str, capacity: u64) -> Result<()>;

    /// Writes what `path` itself holds, without the space that it does not need, to `to`, based on the same image. Way back: [`Disks::remove`].
    async fn compact(&self, path: &str, to: &str) -> Result<()>;

    /// The image at `path` gets the name `aside`, and the one at `new` takes its place with its owner and mode; there is an image at
    /// `path` at every moment. [`super::ErrorKind::Exists`] when `aside` is taken. Way back: [`Disks::put_back`].
    async fn replace(&self, path: &str, new: &str, aside: &str) -> Result<()>;

    /// Gives an image another name; [`super::ErrorKind::Exists`] when that is taken. Way back: [`Disks::put_back`].
    async fn set_aside(&self, path: &str, aside: &str) -> Result<()>;

    /// The image at `aside` becomes `path` again; the one that was there meanwhile goes back to `new`, or is dropped. Unchanged when there
    /// is nothing at `aside`.
    async fn put_back(&self, path: &str, new: Option<&str>, aside: &str) -> Result<Change>;

    /// Removes a file; unchanged when there is none.
    async fn remove(&self, path: &str) -> Result<Change>;

    /// Gives an image another capacity, bytes. A smaller one cuts off what lies beyond: only for taking back a growth.
    async fn resize(&self, path: &str, capacity: u64) -> Result<Change>;

    /// Writes all that `top` holds into `base`, on which it is based; `top` shows the same as before at every moment. Until
    /// [`Disks::settle`], the content of `base` can come back. Way back: [`Disks::unmerge`].
    async fn merge(&self, top: &str, base: &str) -> Result<()>;

    /// Brings back what `base` held before it was merged into; unchanged when it was not.
    async fn unmerge(&self, base: &str) -> Result<Change>;

    /// Forgets what the image at `path`, which may have got another name since, held before it was merged into.
    async fn settle(&self, path: &str) -> Result<Change>;

    /// Names another image of the same content as the one that `path` is based on; nobody uses `path` meanwhile. Unchanged when it is so
    /// already. Way back: the same with the former one.
    async fn rebase(&self, path: &str, backing: &str) -> Result<Change>;

    /// Brings to the disk what others, such as a QEMU, have written to an image.
    async fn persist(&self, path: &str) -> Result<()>;

    /// Waits for a place among the long jobs of the path's directory, for work on its images that is done elsewhere.
    async fn long_job(&self, path: &str) -> Result<LongJob>;
}
