//! Steps on image files: collected first, announced in one go, then done.
//!
//! Contract: a change that fails takes all its steps back, last first; one that is complete gives up what it had kept for that.

use std::sync::Arc;

use crate::host::{self, Host};
use crate::model::GuestId;
use crate::proto::message::Message;
use crate::txn::undo::{Step, Undo};
use crate::txn::{Context, Failure, Node};

use super::Volumes;

/// The steps of one change.
pub(in crate::txn) struct Steps {
    node: Arc<Node>,
    undo: Undo,
    announced: Vec<Step>,
    actions: Vec<Action>,
    /// What follows everything else once the change has succeeded.
    last: Option<Step>,
}

/// Something to be done to image files.
enum Action {
    Overlay { path: String, backing: String, capacity: u64 },
    Compact { path: String, to: String },
    Replace { path: String, new: String, aside: String },
    SetAside { path: String, aside: String },
    Resize { path: String, capacity: u64 },
    Merge { top: String, base: String },
    HoldStart { guest: GuestId },
}

impl Action {
    async fn run(&self, host: &Host) -> host::Result<()> {
        let disks = &host.disks;
        match self {
            Self::Overlay { path, backing, capacity } => disks.overlay(path, backing, *capacity).await,
            Self::Compact { path, to } => disks.compact(path, to).await,
            Self::Replace { path, new, aside } => disks.replace(path, new, aside).await,
            Self::SetAside { path, aside } => disks.set_aside(path, aside).await,
            Self::Resize { path, capacity } => disks.resize(path, *capacity).await.map(drop),
            Self::Merge { top, base } => disks.merge(top, base).await,
            Self::HoldStart { guest } => host.hypervisor.set_autostart(*guest, false).await.map(drop),
        }
    }
}

impl Steps {
    /// No step so far.
    pub(in crate::txn) fn new(context: &Arc<Context>, guest: GuestId) -> Self {
        let (node, undo) = (context.node.clone(), Undo::new(context, &[guest]));
        Self { node, undo, announced: Vec::new(), actions: Vec::new(), last: None }
    }

    fn collect(&mut self, step: Step, action: Action) {
        self.announced.push(step);
        self.actions.push(action);
    }

    /// Before all others: until the change is complete, or taken back, libvirt does not start the guest with the host.
    pub(in crate::txn) fn hold_start(&mut self, volumes: &Volumes) {
        if volumes.autostart {
            let step = Step::autostart(&self.node, volumes.id());
            self.last = Some(step.clone());
            self.collect(step, Action::HoldStart { guest: volumes.id() });
        }
    }

    /// A new, empty image on `backing`.
    pub(in crate::txn) fn overlay(&mut self, path: &str, backing: &str, capacity: u64) {
        self.collect(Step::Image { path: path.into() }, Action::Overlay { path: path.into(), backing: backing.into(), capacity });
    }

    /// A compact copy.
    pub(in crate::txn) fn compact(&mut self, path: &str, to: &str) {
        self.collect(Step::Image { path: to.into() }, Action::Compact { path: path.into(), to: to.into() });
    }

    /// `new` takes the place of `path`, whose image stays for good as `aside`.
    pub(in crate::txn) fn freeze(&mut self, path: &str, new: &str, aside: &str) {
        let step = Step::Aside { path: path.into(), new: None, aside: aside.into() };
        self.collect(step, Action::Replace { path: path.into(), new: new.into(), aside: aside.into() });
    }

    /// `new` takes the place of `path`, whose image goes when the change is complete. `reclaim`: the way back gives `new` its image again.
    pub(in crate::txn) fn replace(&mut self, path: &str, new: &str, aside: &str, reclaim: bool) {
        let step = Step::Aside { path: path.into(), new: reclaim.then(|| new.into()), aside: aside.into() };
        self.collect(step, Action::Replace { path: path.into(), new: new.into(), aside: aside.into() });
        self.undo.afterwards(Step::Needless { path: aside.into() });
    }

    /// Takes an image out of the way; it goes when the change is complete.
    pub(in crate::txn) fn give_up(&mut self, path: &str, aside: &str) {
        let step = Step::Aside { path: path.into(), new: None, aside: aside.into() };
        self.collect(step, Action::SetAside { path: path.into(), aside: aside.into() });
        self.undo.afterwards(Step::Needless { path: aside.into() });
    }

    /// Another capacity for an image that has `present` bytes.
    pub(in crate::txn) fn resize(&mut self, path: &str, present: u64, capacity: u64) {
        self.collect(Step::Size { path: path.into(), capacity: present }, Action::Resize { path: path.into(), capacity });
    }

    /// All that `top` holds goes into `base`; `renamed` is the name that `base` has when the change is complete.
    pub(in crate::txn) fn merge(&mut self, top: &str, base: &str, renamed: &str) {
        self.collect(Step::Merge { path: base.into() }, Action::Merge { top: top.into(), base: base.into() });
        self.undo.afterwards(Step::Merged { path: renamed.into() });
    }

    /// Announces what was collected, and `more` that follows it, and does what was collected. `in_time`: not after the deadline's answer.
    pub(in crate::txn) async fn perform(&mut self, context: &Context, in_time: bool, more: Vec<Step>) -> Result<(), Failure> {
        let mut announced = std::mem::take(&mut self.announced);
        announced.extend(more);
        self.undo.plan(announced).await?;
        if let Some(last) = self.last.take() {
            self.undo.afterwards(last);
        }
        for action in std::mem::take(&mut self.actions) {
            if in_time {
                context.check()?;
            }
            action.run(&self.node.host).await?;
        }
        Ok(())
    }

    /// See [`Undo::afterwards`].
    pub(in crate::txn) fn afterwards(&mut self, step: Step) {
        self.undo.afterwards(step);
    }

    /// See [`Undo::commit`].
    pub(in crate::txn) async fn commit(&mut self) -> Result<(), Failure> {
        self.undo.commit().await
    }

    /// See [`Undo::complete`].
    pub(in crate::txn) async fn complete(&mut self, message: Message) -> Result<(), Failure> {
        self.undo.complete(message).await
    }

    /// See [`Undo::revoke`].
    pub(in crate::txn) async fn revoke(&mut self) {
        self.undo.revoke().await;
    }

    /// What was to be done afterwards is done already.
    pub(in crate::txn) fn finished(self) {
        self.undo.end();
    }

    /// Ends the change: complete when `result` is a success, else everything is taken back.
    pub(in crate::txn) async fn end<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        match result {
            Ok(value) => {
                self.undo.finish().await;
                Ok(value)
            }
            Err(cause) => Err(self.undo.run(cause).await),
        }
    }
}
