//! Tells libvirt to re-read pools whose files were filled behind its back ([`super::volume`]).
//!
//! Contract: a pool that was marked is refreshed once it has been left alone for [`QUIET`]; a burst of new volumes costs one refresh. Nothing
//! depends on it but what libvirt shows about a volume, so a failure is only logged.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use virt::storage_pool::StoragePool;

use super::error::failed;
use super::lanes::{Effect, Lanes};

/// How long no volume was created.
const QUIET: Duration = Duration::from_secs(2);

/// Marks that may wait; a mark that finds no room belongs to a burst that is not over.
const MARKS: usize = 64;

/// The refreshing task.
pub(super) struct Refresher {
    marks: mpsc::Sender<String>,
    task: JoinHandle<()>,
}

impl Refresher {
    /// Starts the task.
    pub(super) fn start(lanes: Arc<Lanes>) -> Self {
        let (marks, marked) = mpsc::channel(MARKS);
        Self { marks, task: tokio::spawn(run(lanes, marked)) }
    }

    /// A file of this pool has changed.
    pub(super) fn mark(&self, pool: &str) {
        let _ = self.marks.try_send(pool.to_owned());
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(lanes: Arc<Lanes>, mut marked: mpsc::Receiver<String>) {
    while let Some(first) = marked.recv().await {
        let mut pools = HashSet::from([first]);
        while let Ok(Some(pool)) = tokio::time::timeout(QUIET, marked.recv()).await {
            pools.insert(pool);
        }
        for pool in pools {
            let what = format!("refresh the storage pool {pool}");
            let name = pool.clone();
            let work = move |connection: &super::Connection| {
                let what = format!("cannot refresh the storage pool {pool}");
                let pool = StoragePool::lookup_by_name(connection, &pool).map_err(|error| failed(&what, &error))?;
                pool.refresh(0).map(drop).map_err(|error| failed(&what, &error))
            };
            if let Err(error) = lanes.run_in_pool(&name, Effect::Reads, what, work).await {
                tracing::debug!("{error}; libvirt shows the format of its newest volumes as raw until it reads them again");
            }
        }
    }
}
