//! The files about guests in the directory of a shared pool: `<id>.meta` and `<id>.vols` of the reference (contract §8.3, §8.4), and our `<id>.claim`.
//!
//! Contract: nothing is read or written below a directory that is not mounted. What is written replaces the former file at once or not at all; a
//! claim is changed in place under a lock that holds for all hosts of the server, because an NFS client may show a file that was renamed
//! away for some time. Every call ends within [`PATIENCE`]; a server that does not answer holds a few threads at most ([`super::doors`]).

mod claims;

use std::fs;
use std::io::{self, ErrorKind as IoKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{de::DeserializeOwned, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};

use super::doors::{doors, kind};
use super::is_mounted;
use crate::faults;
use crate::host::{Change, HostError, Result, Shared, SharedGuest};
use crate::model::{Claim, GuestConfig, GuestId};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

const META: &str = "meta";
const VOLS: &str = "vols";
const CLAIM: &str = "claim";

/// Keys that the reference adds to a guest which it has taken over (contract §8.3); they are about a moment that is long gone.
const PASSING: [&str; 9] = [
    "MediaAttached",
    "MediaSource",
    "CpuUsages",
    "AvailableMemory",
    "AvailableDisk",
    "BytesRead",
    "BytesWritten",
    "BytesReceived",
    "BytesSent",
];

/// The real files.
pub struct SharedFiles {
    boot: String,
    patience: Duration,
    /// Tests work in directories that are not mounted.
    anywhere: bool,
}

impl Default for SharedFiles {
    fn default() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: boot.trim().to_owned(), patience: PATIENCE, anywhere: false }
    }
}

impl SharedFiles {
    /// Runs `work` on a thread for blocking work.
    async fn run<T: Send + 'static>(
        &self,
        directory: &str,
        what: String,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (path, anywhere, what) = (PathBuf::from(directory), self.anywhere, format!("cannot {what}"));
        let call = move || {
            if !anywhere && !is_mounted(&path)? {
                return Err(io::Error::new(IoKind::NotConnected, format!("no file server is mounted at {}", path.display())));
            }
            work(&path)
        };
        let result = doors().ask(Path::new(directory), &what, self.patience, call).await?;
        result.map_err(|error| HostError::with_source(kind(&error), what, error))
    }
}

#[async_trait]
impl Shared for SharedFiles {
    async fn load(&self, directory: &str, id: GuestId) -> Result<SharedGuest> {
        let what = format!("read what {directory} says about guest {id}");
        self.run(directory, what, move |directory| {
            let mut config: GuestConfig = read(&file(directory, id, META))?;
            if config.id != id {
                return Err(io::Error::new(IoKind::InvalidData, format!("{id}.{META} is about guest {}", config.id)));
            }
            for key in PASSING {
                config.extra.remove(key);
            }
            Ok(SharedGuest { config, volumes: read(&file(directory, id, VOLS))? })
        })
        .await
    }

    async fn save(&self, directory: &str, guest: &SharedGuest) -> Result<()> {
        let (what, guest) = (format!("write down guest {} in {directory}", guest.config.id), guest.clone());
        self.run(directory, what, move |directory| {
            let id = guest.config.id;
            // Volumes first: a guest that is described has its volumes on record.
            replace(&file(directory, id, VOLS), &guest.volumes)?;
            replace(&file(directory, id, META), &guest.config)?;
            fs::File::open(directory)?.sync_all()
        })
        .await
    }

    async fn erase(&self, directory: &str, id: GuestId) -> Result<Change> {
        let what = format!("remove what {directory} says about guest {id}");
        self.run(directory, what, move |directory| {
            let mut change = Change::Unchanged;
            faults::host();
            for extension in [META, VOLS, CLAIM] {
                let path = file(directory, id, extension);
                remove(&beside(&path))?;
                if remove(&path)? == Change::Changed {
                    change = Change::Changed;
                }
            }
            Ok(change)
        })
        .await
    }

    async fn claim(&self, directory: &str, id: GuestId) -> Result<Option<Claim>> {
        let what = format!("read in {directory} who may run guest {id}");
        self.run(directory, what, move |directory| claims::read(&file(directory, id, CLAIM))).await
    }

    async fn set_claim(&self, directory: &str, id: GuestId, claim: &Claim) -> Result<()> {
        let (what, claim) = (format!("write in {directory} who may run guest {id}"), claim.clone());
        self.run(directory, what, move |directory| claims::replace(&file(directory, id, CLAIM), &claim)).await
    }

    fn boot(&self) -> String {
        self.boot.clone()
    }
}

fn file(directory: &Path, id: GuestId, extension: &str) -> PathBuf {
    directory.join(format!("{id}.{extension}"))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let name = path.display();
    let content = fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    // The library's reason may quote a password.
    serde_json::from_slice(&content).map_err(|error| {
        io::Error::new(IoKind::InvalidData, format!("{name} can't be read: line {}, column {}", error.line(), error.column()))
    })
}

/// In the reference's form (contract §8), mode 0600. What a crash leaves beside it has a fixed name: the next time replaces it.
fn replace<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut content = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut content, PrettyFormatter::with_indent(b" ")))?;
    let beside = beside(path);
    remove(&beside)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(&content).and_then(|()| file.sync_all());
    faults::host();
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    faults::host();
    Ok(())
}

/// Where a file is written before it takes its place.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn remove(path: &Path) -> io::Result<Change> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == IoKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
