//! The way into directories whose file system may never answer: each call to a dead file server on a hard mount stays in the kernel until the server is back.
//!
//! Contract: a directory holds [`AT_ONCE`] threads at most, and [`SYNCS`] more that bring data to the disk. A place is free when its call is back, not when
//! its caller gave up, so calls that hang are counted. Where all places are taken and none has come free for some time, the next call is refused at once.
//! What only asks, or may as well happen later, has a deadline; a change of names has none, for its way back could run beside it; bringing data to
//! the disk takes as long as there is data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout_at, Instant};

use crate::host::{ErrorKind, HostError, Result};

/// Calls at once for each directory.
const AT_ONCE: usize = 4;

/// Calls that bring data to the disk, at once for each directory.
const SYNCS: usize = 2;

/// How long a directory may keep all its calls before the next one is refused.
const PATIENCE: Duration = Duration::from_secs(8);

/// The directories of this process: its threads are what they could take away.
pub(in crate::host) fn doors() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| Doors::new(PATIENCE));
    &DOORS
}

/// Directories with the calls that are under way in them.
pub(in crate::host) struct Doors {
    doors: Mutex<HashMap<PathBuf, Arc<Door>>>,
    patience: Duration,
}

struct Door {
    places: Arc<Semaphore>,
    syncs: Arc<Semaphore>,
    /// When a call last went in or came back.
    moved: Mutex<Instant>,
}

/// A place in a directory, until the call is back.
struct Pass {
    door: Arc<Door>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Pass {
    fn drop(&mut self) {
        *self.door.moved.lock() = Instant::now();
    }
}

impl Doors {
    fn new(patience: Duration) -> Self {
        Self { doors: Mutex::default(), patience }
    }

    /// Runs what only asks, or may happen later than it is known to. `what` names the operation and its object in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it was not begun, [`ErrorKind::Unknown`] when it was and has not ended within `patience`.
    pub(in crate::host) async fn ask<T: Send + 'static>(
        &self,
        directory: &Path,
        what: &str,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let pass = self.enter(directory, what, patience, Some(deadline)).await?;
        match timeout_at(deadline, run(pass, what, work)).await {
            Ok(done) => done,
            Err(_) => Err(HostError::new(
                ErrorKind::Unknown,
                format!("{what}: {} has not answered in time; it may still happen", directory.display()),
            )),
        }
    }

    /// Runs a change, which is never cut off once it was begun.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it was not begun.
    pub(in crate::host) async fn change<T: Send + 'static>(
        &self,
        directory: &Path,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let pass = self.enter(directory, what, self.patience, None).await?;
        run(pass, what, work).await
    }

    /// Runs what takes as long as there is data, once the directory has answered.
    ///
    /// # Errors
    /// As [`Doors::ask`], and never after `work` has begun.
    pub(in crate::host) async fn sync<T: Send + 'static>(
        &self,
        directory: &Path,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let probed = directory.to_owned();
        // Whether it is there, the work itself finds out.
        self.ask(directory, what, self.patience, move || drop(std::fs::metadata(probed))).await?;
        let place = self.door(directory).syncs.clone().acquire_owned().await;
        let place = place.map_err(|error| HostError::with_source(ErrorKind::Failed, what, error))?;
        run(place, what, work).await
    }

    async fn enter(&self, directory: &Path, what: &str, patience: Duration, deadline: Option<Instant>) -> Result<Pass> {
        let door = self.door(directory);
        let place = door.places.clone().acquire_owned();
        tokio::pin!(place);
        loop {
            let hopeless = *door.moved.lock() + patience;
            let until = deadline.map_or(hopeless, |deadline| deadline.min(hopeless));
            match timeout_at(until, &mut place).await {
                Ok(Ok(place)) => {
                    *door.moved.lock() = Instant::now();
                    return Ok(Pass { door: door.clone(), _place: place });
                }
                // Meanwhile others went in or came back.
                Err(_) if *door.moved.lock() + patience > until && deadline.is_none_or(|deadline| deadline > until) => {}
                Ok(Err(_)) | Err(_) => {
                    let text = format!("{what}: {} does not answer; {AT_ONCE} earlier calls are still waiting for it", directory.display());
                    return Err(HostError::new(ErrorKind::Unavailable, text));
                }
            }
        }
    }

    fn door(&self, directory: &Path) -> Arc<Door> {
        let fresh = || Door {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            syncs: Arc::new(Semaphore::new(SYNCS)),
            moved: Mutex::new(Instant::now()),
        };
        self.doors.lock().entry(directory.to_owned()).or_insert_with(|| Arc::new(fresh())).clone()
    }
}

/// Runs `work` on a thread for blocking work, which keeps the place until it is back.
async fn run<P: Send + 'static, T: Send + 'static>(place: P, what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let call = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    call.await.map_err(|ended| HostError::with_source(ErrorKind::Unknown, format!("{what}: it ended early"), ended))
}

/// What an error of a file system means to whoever asked for the work.
pub(in crate::host) fn kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::Exists,
        Io::NotConnected => ErrorKind::Unavailable,
        Io::WouldBlock => ErrorKind::Busy,
        Io::InvalidData => ErrorKind::Invalid,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Failed,
    }
}

/// The directory that a file is in.
pub(in crate::host) fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests;
