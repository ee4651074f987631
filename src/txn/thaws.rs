//! Guests whose file systems a snapshot has frozen, or may have: thawed, however long that takes.
//!
//! Contract: a guest that can't write is as good as lost to its users, so a thaw is owed from before the freeze on. It is asked for until the guest's
//! agent has said that it is done, or the guest does not run any more. An agent that hangs takes the freeze up when it wakes, long after everybody
//! has given up on it: only its answer to a thaw says that there is nothing left to come. After a crash the journal knows
//! (`undo::Step::Thaw`). While nothing is owed nothing is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Failure, Node};
use crate::host::{agent, ErrorKind};
use crate::model::GuestId;

/// Between two tries.
const PACE: Duration = Duration::from_secs(5);

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is owed.
#[derive(Default)]
pub struct Thaws {
    /// The last failure, for people; none before the first try.
    owed: Mutex<BTreeMap<GuestId, Option<String>>>,
    news: Notify,
}

impl Thaws {
    /// The guest's file systems may be frozen.
    pub(in crate::txn) fn owe(&self, id: GuestId) {
        self.owed.lock().entry(id).or_default();
        self.news.notify_one();
    }

    /// Guests that could not be thawed so far, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.owed.lock().values().flatten().cloned().collect()
    }
}

/// Whether the guest has an agent that listens; why not, for the log.
pub(in crate::txn) async fn listens(node: &Node, id: GuestId) -> Result<(), String> {
    match timeout(PATIENCE, node.host.hypervisor.agent(id, agent::PING, PATIENCE)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::Host(error).to_string()),
        Err(_) => Err(format!("its agent has not answered in {} s", PATIENCE.as_secs())),
    }
}

/// One try.
///
/// # Errors
/// The guest runs, and its agent has not said that its file systems are thawed.
pub(in crate::txn) async fn thaw(node: &Node, id: GuestId) -> Result<(), Failure> {
    match node.host.hypervisor.agent(id, agent::THAW, PATIENCE).await {
        Ok(_) => Ok(()),
        // It does not run.
        Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Thaws what is owed, for ever.
pub async fn keep(node: Arc<Node>) -> Result<(), String> {
    loop {
        let owed: Vec<GuestId> = node.thaws.owed.lock().keys().copied().collect();
        join_all(owed.iter().map(|id| attempt(&node, *id))).await;
        let rest = !node.thaws.owed.lock().is_empty();
        let news = node.thaws.news.notified();
        match rest {
            true => drop(timeout(PACE, news).await),
            false => news.await,
        }
    }
}

async fn attempt(node: &Node, id: GuestId) {
    let result = thaw(node, id).await;
    let mut owed = node.thaws.owed.lock();
    match result {
        Ok(()) => {
            if let Some(Some(_)) = owed.remove(&id) {
                tracing::warn!(guest = %id, "the guest's file systems are thawed now");
            }
        }
        Err(failure) => {
            let line = format!("guest {id}: its file systems may be frozen since a snapshot, and its agent does not thaw them: {failure}");
            if let Some(None) = owed.insert(id, Some(line.clone())) {
                tracing::error!("{line}; it is asked again every {} s", PACE.as_secs());
            }
        }
    }
}

#[cfg(test)]
mod tests;
