//! Tells libvirt to re-read pools whose files were filled behind its back ([`super::volume`]).
//!
//! Contract: a pool that was marked is refreshed once it has been left alone for [`QUIET`], or when it is asked for; a burst of new volumes costs one
//! refresh. Nothing of ours depends on it, so a failure is only logged. Others do: who starts a guest without reading its pool again, as the reference
//! does, is told that a volume which libvirt has not seen yet does not exist.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use virt::storage_pool::StoragePool;

use super::error::failed;
use super::lanes::{Effect, Lanes};

/// How long no volume was created.
const QUIET: Duration = Duration::from_secs(2);

/// Marks that may wait; a mark that finds no room belongs to a burst that is not over.
const MARKS: usize = 64;

enum Mark {
    /// A file of this pool has changed.
    Pool(String),
    /// What is marked shall be refreshed now; told when it is.
    Settle(oneshot::Sender<()>),
}

/// The refreshing task.
pub(super) struct Refresher {
    marks: mpsc::Sender<Mark>,
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
        let _ = self.marks.try_send(Mark::Pool(pool.to_owned()));
    }

    /// Refreshes what is marked, and returns when that is done.
    pub(super) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        if self.marks.send(Mark::Settle(done)).await.is_ok() {
            // An error says that the task has ended.
            let _ = settled.await;
        }
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(lanes: Arc<Lanes>, mut marked: mpsc::Receiver<Mark>) {
    while let Some(first) = marked.recv().await {
        let (mut pools, mut next) = (HashSet::new(), Some(first));
        let mut asked = None;
        while let Some(mark) = next.take() {
            match mark {
                Mark::Pool(pool) => {
                    pools.insert(pool);
                    next = tokio::time::timeout(QUIET, marked.recv()).await.ok().flatten();
                }
                Mark::Settle(done) => asked = Some(done),
            }
        }
        for pool in pools {
            refresh(&lanes, pool).await;
        }
        if let Some(done) = asked {
            // Whoever asked may have given up.
            let _ = done.send(());
        }
    }
}

async fn refresh(lanes: &Lanes, pool: String) {
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
