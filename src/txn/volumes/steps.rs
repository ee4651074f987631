//! Steps on image files, each with its way back registered before it is done.
//!
//! Contract: a change that fails takes all its steps back, last first; one that is complete gives up what it had kept for that.

use std::future::Future;
use std::sync::Arc;

use crate::host::{Disks, HostError};
use crate::txn::undo::Undo;
use crate::txn::{Failure, Node};

/// The steps of one change.
pub(in crate::txn) struct Steps {
    disks: Arc<dyn Disks>,
    undo: Undo,
    /// Images that only the way back needs.
    kept: Vec<String>,
    /// Images that keep what they held before a merge.
    merged: Vec<String>,
}

impl Steps {
    /// No step so far.
    pub(in crate::txn) fn new(node: &Node) -> Self {
        Self { disks: node.host.disks.clone(), undo: Undo::default(), kept: Vec::new(), merged: Vec::new() }
    }

    /// Registers the way back of a step that is done elsewhere. `left` names what stays behind when it fails.
    pub(in crate::txn) fn undo(&mut self, left: String, step: impl Future<Output = Result<(), HostError>> + Send + 'static) {
        self.undo.push(left, step);
    }

    /// A new, empty image on `backing`.
    pub(in crate::txn) async fn overlay(&mut self, path: &str, backing: &str, capacity: u64) -> Result<(), Failure> {
        self.removable(path);
        Ok(self.disks.overlay(path, backing, capacity).await?)
    }

    /// A compact copy.
    pub(in crate::txn) async fn compact(&mut self, path: &str, to: &str) -> Result<(), Failure> {
        self.removable(to);
        Ok(self.disks.compact(path, to).await?)
    }

    fn removable(&mut self, path: &str) {
        let (disks, back) = (self.disks.clone(), path.to_owned());
        self.undo.push(format!("file {path}"), async move { disks.remove(&back).await.map(drop) });
    }

    /// `new` takes the place of `path`, whose image stays for good as `aside`.
    pub(in crate::txn) async fn freeze(&mut self, path: &str, new: &str, aside: &str) -> Result<(), Failure> {
        self.returnable(path, None, aside);
        Ok(self.disks.replace(path, new, aside).await?)
    }

    /// `new` takes the place of `path`, whose image goes when the change is complete. `reclaim`: the way back gives `new` its image again.
    pub(in crate::txn) async fn replace(&mut self, path: &str, new: &str, aside: &str, reclaim: bool) -> Result<(), Failure> {
        self.returnable(path, reclaim.then_some(new), aside);
        self.kept.push(aside.to_owned());
        Ok(self.disks.replace(path, new, aside).await?)
    }

    /// Takes an image out of the way; it goes when the change is complete.
    pub(in crate::txn) async fn give_up(&mut self, path: &str, aside: &str) -> Result<(), Failure> {
        self.returnable(path, None, aside);
        self.kept.push(aside.to_owned());
        Ok(self.disks.set_aside(path, aside).await?)
    }

    fn returnable(&mut self, path: &str, new: Option<&str>, aside: &str) {
        let disks = self.disks.clone();
        let (path, new, aside) = (path.to_owned(), new.map(str::to_owned), aside.to_owned());
        let left = format!("{aside}, which was {path},");
        self.undo.push(left, async move { disks.put_back(&path, new.as_deref(), &aside).await.map(drop) });
    }

    /// Another capacity for an image that has `present` bytes.
    pub(in crate::txn) async fn resize(&mut self, path: &str, present: u64, capacity: u64) -> Result<(), Failure> {
        let (disks, back) = (self.disks.clone(), path.to_owned());
        self.undo.push(format!("size {capacity} of {path}"), async move { disks.resize(&back, present).await.map(drop) });
        self.disks.resize(path, capacity).await?;
        Ok(())
    }

    /// All that `top` holds goes into `base`; `renamed` is the name that `base` has when the change is complete.
    pub(in crate::txn) async fn merge(&mut self, top: &str, base: &str, renamed: &str) -> Result<(), Failure> {
        let (disks, back) = (self.disks.clone(), base.to_owned());
        self.undo.push(format!("content of {base}"), async move { disks.unmerge(&back).await.map(drop) });
        self.merged.push(renamed.to_owned());
        Ok(self.disks.merge(top, base).await?)
    }

    /// Ends the change: complete when `result` is a success, else everything is taken back.
    pub(in crate::txn) async fn end<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let value = match result {
            Ok(value) => value,
            Err(cause) => return Err(self.undo.run(cause).await),
        };
        self.undo.disarm();
        // The change stands whatever becomes of these: they cost space until the guest is deleted.
        for path in self.merged {
            if let Err(error) = self.disks.settle(&path).await {
                tracing::warn!("{path} still holds what it was before a merge: {}", Failure::Host(error));
            }
        }
        for path in self.kept {
            if let Err(error) = self.disks.remove(&path).await {
                tracing::warn!("{path} is of no use any more and stays: {}", Failure::Host(error));
            }
        }
        Ok(value)
    }
}
