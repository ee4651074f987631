//! Disk images from and to the domain's image servers (contract §9.2), over HTTPS.
//!
//! ```text
//! server ▸ connection (TLS, HTTP) ▸ download (judge, resume) ▸ writer (hash, holes) ▸ part (beside the disk) ▸ qcow2 ▸ qemu-img ▸ rename
//!                                        cache (same image, copied) ▸──────────────────┘
//! ```
//!
//! Contract: an image replaces a disk only when it is complete, has the hash that the server promised, and is a qcow2 file that stands for
//! itself and fits; until then it lies hidden beside the disk, and whatever goes wrong leaves the disk as it was and nothing else. Transfers run on
//! threads of their own, so that the service's messages never wait for them, and hold less than half a megabyte each. A transfer that is stopped ends
//! at once; one that stalls ends by itself.

mod answer;
mod cache;
mod connection;
mod download;
mod fetch;
mod media;
mod part;
mod qcow2;
mod tls;
mod trouble;
mod upload;
mod writer;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::doors::{directory_of, doors};
use crate::host::{Change, ErrorKind, HostError, ImageLocation, Images, Result, Transfer};
pub use answer::assess as assess_answer;
pub(in crate::host) use cache::discard_cache;
use cache::Cache;
pub use qcow2::inspect as inspect_qcow2;
use trouble::on_file;

/// Threads for the network's side of all transfers. One has them take turns; with two, the one with fewer transfers would give each of them more.
const THREADS: usize = 1;

/// Threads for the disks' side: each transfer has one.
const DISK_THREADS: usize = 64;

/// How long a pool may take to let go of what a transfer left.
const PATIENCE: Duration = Duration::from_secs(4);

/// How image servers prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageTls {
    /// They don't; as the reference has it.
    #[default]
    Insecure,
    /// Their certificate is checked.
    Verify,
}

/// Settings of the image transfers.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// How certificates are judged.
    pub tls: ImageTls,
    /// File with the certificate authority of the image servers; the system's store otherwise.
    pub ca: Option<PathBuf>,
    /// Most bytes of cached images a pool; 0 keeps none.
    pub cache_bytes: u64,
    /// A transfer over which nothing moves for so long is broken off.
    pub stall: Duration,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self { tls: ImageTls::default(), ca: None, cache_bytes: 0, stall: Duration::from_secs(30) }
    }
}

/// The client of the image servers.
pub struct ImageClient {
    shared: Arc<Shared>,
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
}

/// What all transfers use.
struct Shared {
    tls: Arc<ClientConfig>,
    cache: Cache,
    stall: Duration,
}

impl ImageClient {
    /// A client with these settings; fails when a certificate authority was named that can't be read.
    pub fn new(settings: &ImageSettings) -> Result<Self> {
        let tls = Arc::new(tls::client_config(settings.tls, settings.ca.as_deref())?);
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(DISK_THREADS)
            .thread_name("cell-images")
            .enable_all()
            .build()
            .map_err(|error| HostError::with_source(ErrorKind::Failed, "the threads of the image transfers can't be started", error))?;
        let shared = Shared { tls, cache: Cache::new(settings.cache_bytes), stall: settings.stall };
        Ok(Self { shared: Arc::new(shared), runtime: Some(runtime) })
    }

    /// Runs work on the threads of the transfers; dropping this ends it.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let Some(runtime) = &self.runtime else {
            return Err(HostError::new(ErrorKind::Unavailable, "image transfers have ended"));
        };
        let ended = AbortOnDropHandle::new(runtime.spawn(work)).await;
        ended.unwrap_or_else(|error| Err(HostError::with_source(ErrorKind::Failed, "an image transfer ended by itself", error)))
    }
}

impl Drop for ImageClient {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A thread that waits for a dead disk must not hold up the end.
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl Images for ImageClient {
    async fn fetch(&self, image: &ImageLocation, disk: &str, capacity: u64, transfer: &Transfer) -> Result<()> {
        let (shared, image, disk, transfer) = (self.shared.clone(), image.clone(), PathBuf::from(disk), transfer.clone());
        self.run(async move {
            let what = format!("image {} could not be fetched", image.id);
            unless_stopped(&transfer, &what, fetch::fetch(&shared, &image, &disk, capacity, &transfer)).await
        })
        .await
    }

    async fn install(&self, disk: &str) -> Result<()> {
        let what = format!("the new content can't be put in place of {disk}");
        let (disk, directory) = (PathBuf::from(disk), directory_of(Path::new(disk)));
        let installed = doors().change(directory, &what, move || part::install(&disk)).await?;
        installed.map_err(|error| on_file(what, error))
    }

    async fn discard(&self, disk: &str) -> Result<Change> {
        let (disk, directory) = (PathBuf::from(disk), directory_of(Path::new(disk)));
        let what = format!("what a transfer left can't be removed from beside {}", disk.display());
        // Beside it pools may be waited for. One that goes later than this is known to is as well gone.
        let removed = doors().ask(directory, &what, PATIENCE, move || part::discard(&disk)).await?;
        let removed = removed.map_err(|error| on_file(what, error))?;
        Ok(if removed { Change::Changed } else { Change::Unchanged })
    }

    async fn fetch_media(&self, media: &ImageLocation, directory: &str, transfer: &Transfer) -> Result<String> {
        let (shared, media, directory, transfer) = (self.shared.clone(), media.clone(), PathBuf::from(directory), transfer.clone());
        self.run(async move {
            let what = format!("media image {} could not be fetched", media.id);
            let file = unless_stopped(&transfer, &what, media::fetch(&shared, &media, &directory, &transfer)).await?;
            Ok(file.to_string_lossy().into_owned())
        })
        .await
    }

    async fn discard_media(&self, directory: &str, keep: &[String]) -> Result<Change> {
        let (directory, keep, limit) = (PathBuf::from(directory), keep.to_vec(), self.shared.cache.limit());
        let what = format!("media images that nobody uses can't be removed from {}", directory.display());
        let discarded = doors().change(&directory.clone(), &what, move || media::discard(&directory, &keep, limit)).await?;
        discarded.map_err(|error| on_file(what, error))
    }

    async fn upload(&self, disk: &str, image: &ImageLocation, transfer: &Transfer) -> Result<u64> {
        let (shared, image, disk, transfer) = (self.shared.clone(), image.clone(), PathBuf::from(disk), transfer.clone());
        self.run(async move {
            let what = format!("image {} could not be sent", image.id);
            unless_stopped(&transfer, &what, upload::send(&shared, &disk, &image, &transfer)).await
        })
        .await
    }
}

/// The work's result, or that it was stopped.
async fn unless_stopped<T>(transfer: &Transfer, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = transfer.stop().cancelled() => Err(HostError::new(ErrorKind::Failed, format!("{what}: it was stopped"))),
        result = work => result,
    }
}

#[cfg(test)]
mod tests;
