//! Free and total space of file systems.
//!
//! Contract: each file system counts once, however many of the paths are on it. A path that can't be read, or does not answer (a dead NFS
//! server), is named and stops nothing; while it hangs it is not asked again, so it costs one thread at most.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::stat;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use crate::host::DiskSpace;

/// How long a file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks file systems for their space.
#[derive(Default)]
pub(in crate::host) struct Space {
    asked: Arc<Mutex<HashSet<String>>>,
}

/// One file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    device: u64,
    free: u64,
    total: u64,
}

impl Space {
    /// The space under these paths.
    pub(in crate::host) async fn of(&self, paths: &[String]) -> DiskSpace {
        let mut space = DiskSpace::default();
        let mut seen = HashSet::new();
        for path in paths {
            match self.ask(path).await {
                Ok(usage) if seen.insert(usage.device) => {
                    space.free = space.free.saturating_add(usage.free);
                    space.total = space.total.saturating_add(usage.total);
                }
                Ok(_) => {}
                Err(why) => space.unreadable.push(format!("{path}: {why}")),
            }
        }
        space
    }

    async fn ask(&self, path: &str) -> Result<Usage, String> {
        const SILENT: &str = "the file system does not answer";
        if !self.asked.lock().insert(path.to_owned()) {
            return Err(SILENT.into());
        }
        let (path, asked) = (path.to_owned(), self.asked.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let usage = usage(Path::new(&path));
            asked.lock().remove(&path);
            usage
        });
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(usage)) => usage.map_err(|error| error.desc().to_owned()),
            Ok(Err(ended)) => Err(ended.to_string()),
            Err(_) => Err(SILENT.into()),
        }
    }
}

fn usage(path: &Path) -> nix::Result<Usage> {
    let device = stat(path)?.st_dev;
    let figures = statvfs(path)?;
    let unit = figures.fragment_size();
    Ok(Usage { device, free: figures.blocks_available().saturating_mul(unit), total: figures.blocks().saturating_mul(unit) })
}

#[cfg(test)]
mod tests;
