//! Being alone with what a record is about, while transactions run.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{MutexGuard, RwLockWriteGuard};
use tokio::time::{sleep, timeout, Instant};

use crate::store::journal::OpenRecord;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::undo::{common, Common};
use crate::txn::{Failure, Node};

/// How long whoever works on it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks whether the pools are free.
const PACE: Duration = Duration::from_millis(100);

/// Held while a record is ended.
#[allow(dead_code)] // held, not read
pub(super) enum Turn<'a> {
    /// Nobody else works on its guests.
    Guests(Vec<JobGuard>),
    /// Nobody makes volumes or moves pools.
    Pools(RwLockWriteGuard<'a, ()>),
    /// Nobody changes the address pool.
    Addresses(MutexGuard<'a, ()>),
}

impl<'a> Turn<'a> {
    /// Waits for it, so long as that makes sense.
    pub(super) async fn of(node: &'a Arc<Node>, record: &OpenRecord) -> Result<Self, Failure> {
        match common(&record.intent) {
            None => guests(node, record).await,
            Some(Common::Pools) => pools(node).await,
            Some(Common::Addresses) => {
                let turn = timeout(PATIENCE, node.addressing.lock()).await;
                turn.map(Turn::Addresses).map_err(|_| Failure::refused("the address pool is being changed"))
            }
        }
    }
}

async fn guests<'a>(node: &Node, record: &OpenRecord) -> Result<Turn<'a>, Failure> {
    // In one order, so that two records about the same guests do not wait for each other.
    let mut guests = record.intent.guests.clone();
    guests.sort_unstable();
    guests.dedup();
    let mut jobs = Vec::new();
    for guest in guests {
        jobs.push(node.jobs.outlast(guest, Job::Configure, Instant::now() + PATIENCE).await?);
    }
    Ok(Turn::Guests(jobs))
}

/// Does not stand in line: behind whoever waits for the pools everybody waits who makes a volume, also while one volume takes long on a silent server.
async fn pools(node: &Node) -> Result<Turn<'_>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(turn) = node.layout.try_write() {
            return Ok(Turn::Pools(turn));
        }
        if Instant::now() >= deadline {
            return Err(Failure::refused("volumes are being made, or pools are being changed, all the time"));
        }
        sleep(PACE).await;
    }
}
