//! What could not be cleaned up without libvirt: tried again each time libvirt is there, beside everything else.
//!
//! Contract: each open record, and the live deletions of snapshots that broke off, are taken up by a task of their own, which waits until nobody else
//! works on the same guests, pools or addresses. The tasks belong to [`Rounds`]: nothing is taken up twice at the same time, and what fails while libvirt comes
//! back once more is tried once more. [`Rounds::end`] gives up what waits for its turn, lets steps that are under way end for a moment, and cuts the rest off
//! as a crash would: it stays open in the journal, for the next start.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{complete_merges, take_up};
use crate::txn::Node;

/// Something to be taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The record with this number.
    Record(u64),
    /// The deletions of snapshots of running guests.
    Merges,
}

/// A task and what it works on.
struct Round {
    work: Work,
    /// libvirt came back once more since it began.
    again: bool,
}

/// See the module's contract.
pub(in crate::txn) struct Rounds {
    node: Arc<Node>,
    tasks: JoinSet<()>,
    rounds: HashMap<Id, Round>,
    closing: CancellationToken,
}

impl Rounds {
    /// Nothing under way.
    pub(in crate::txn) fn new(node: Arc<Node>) -> Self {
        Self { node, tasks: JoinSet::new(), rounds: HashMap::new(), closing: CancellationToken::new() }
    }

    /// libvirt is there: everything that is left is taken up. A transaction that fails in this very moment is waited for.
    pub(in crate::txn) fn begin(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended(ended);
        }
        for record in self.node.store.journal().open_records() {
            self.take(Work::Record(record.number));
        }
        if !self.node.broken_merges.lock().is_empty() {
            self.take(Work::Merges);
        }
    }

    fn take(&mut self, work: Work) {
        if let Some(round) = self.rounds.values_mut().find(|round| round.work == work) {
            round.again = true;
            return;
        }
        let (node, closing) = (self.node.clone(), self.closing.clone());
        let handle = self.tasks.spawn(async move {
            match work {
                Work::Record(number) => take_up(&node, number, closing.cancelled()).await,
                // QEMU goes on by itself.
                Work::Merges => drop(closing.run_until_cancelled(complete_merges(&node)).await),
            }
        });
        self.rounds.insert(handle.id(), Round { work, again: false });
    }

    /// Waits for the next task to end; for ever while there is none. May be dropped at any time.
    pub(in crate::txn) async fn reap(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.ended(ended),
            None => pending().await,
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!("what was left could not be cleaned up: {error}");
                error.id()
            }
        };
        let Some(Round { work, again: true }) = self.rounds.remove(&id) else { return };
        let is_left = match work {
            Work::Record(number) => self.node.store.journal().record(number).is_some(),
            Work::Merges => !self.node.broken_merges.lock().is_empty(),
        };
        if is_left {
            self.take(work);
        }
    }

    /// True while something is under way.
    #[cfg(test)]
    pub(in crate::txn) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The orderly end, which takes no longer than `patience`.
    pub(in crate::txn) async fn end(mut self, patience: Duration) {
        self.closing.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("{} changes that had broken off are not cleaned up yet; the next start goes on", self.tasks.len());
        }
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
