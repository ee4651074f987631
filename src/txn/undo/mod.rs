//! The way back of a change of several steps, and what is left to be done once it has succeeded.
//!
//! Contract: the steps are in the journal before the first of them is done. From [`Undo::commit`] on there is no way back, whatever happens: an answer
//! that says success goes out behind it ([`Undo::complete`]). A change that fails takes its steps back, last first. One that can't be taken back
//! does not stop the others: the error names both causes and what is left behind, and the record stays open. It is tried again before the
//! next change of the same guest, when libvirt comes back, and when the service starts. A change that ends without a word, by a panic or because the process does,
//! leaves its record open as well.

mod act;
mod autostart;
mod in_use;
mod moves;
mod resolve;
mod step;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Context, Failure, Node};
use crate::model::GuestId;
use crate::proto::message::{Message, MessageId};
use crate::store::journal::{Course, Intent, OpenRecord};

pub(in crate::txn) use moves::{Arriving, Leaving};
pub(in crate::txn) use resolve::{
    common, forget_guest, is_unsettled, resolve, settle, settle_common, settle_pool, supersede_removals, Common, Resolved, Silent,
};
pub(in crate::txn) use step::Step;

/// One change.
pub(in crate::txn) struct Undo {
    node: Arc<Node>,
    context: Option<Arc<Context>>,
    what: String,
    guests: Vec<GuestId>,
    steps: Vec<Step>,
    rest: Vec<Step>,
    /// The record in the journal, while it is open and ours.
    number: Option<u64>,
    committed: bool,
}

impl Undo {
    /// A change by a transaction, of these guests (none: of the node itself), of which nothing is known yet.
    pub(in crate::txn) fn new(context: &Arc<Context>, guests: &[GuestId]) -> Self {
        Self::empty(&context.node, Some(context.clone()), context.request.id, guests)
    }

    /// A change of a guest that goes on with an earlier request.
    pub(in crate::txn) fn unasked(node: &Arc<Node>, request: MessageId, guest: GuestId) -> Self {
        Self::empty(node, None, request, &[guest])
    }

    fn empty(node: &Arc<Node>, context: Option<Arc<Context>>, request: MessageId, guests: &[GuestId]) -> Self {
        Self {
            node: node.clone(),
            context,
            what: request.to_string(),
            guests: guests.to_vec(),
            steps: Vec::new(),
            rest: Vec::new(),
            number: None,
            committed: false,
        }
    }

    /// Announces steps that are going to be done, in their order. What an earlier change of these guests left has to be cleaned up ([`settle`]).
    pub(in crate::txn) async fn plan(&mut self, steps: Vec<Step>) -> Result<(), Failure> {
        let written = steps.iter().map(Step::written).collect::<Result<Vec<_>, _>>()?;
        match self.number {
            Some(number) => self.node.store.journal().add(number, written).await?,
            None => self.begin(Course::Back, &steps).await?,
        }
        self.steps.extend(steps);
        Ok(())
    }

    /// Announces the same steps with what is known of them by now.
    pub(in crate::txn) async fn replan(&mut self, change: impl Fn(&mut Step)) -> Result<(), Failure> {
        let mut steps = self.steps.clone();
        steps.iter_mut().for_each(change);
        if let Some(number) = self.number {
            let written = steps.iter().map(Step::written).collect::<Result<Vec<_>, _>>()?;
            self.node.store.journal().turn(number, Course::Back, written).await?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Announces a change that has no way back: what of it is not done by the end is done later.
    pub(in crate::txn) async fn plan_forward(&mut self, steps: Vec<Step>) -> Result<(), Failure> {
        self.begin(Course::Forward, &steps).await?;
        (self.rest, self.committed) = (steps, true);
        Ok(())
    }

    async fn begin(&mut self, course: Course, steps: &[Step]) -> Result<(), Failure> {
        let steps = steps.iter().map(Step::written).collect::<Result<Vec<_>, _>>()?;
        let intent = Intent { what: self.what.clone(), guests: self.guests.clone(), course, steps };
        let number = self.node.store.journal().begin(intent).await?;
        if let Some(context) = &self.context {
            context.note_record(number);
        }
        self.number = Some(number);
        Ok(())
    }

    /// Something that is to be done once the change has succeeded. To be said before [`Undo::commit`].
    pub(in crate::txn) fn afterwards(&mut self, step: Step) {
        self.rest.push(step);
    }

    /// The change has succeeded. Durable on return; on failure it still has its way back.
    pub(in crate::txn) async fn commit(&mut self) -> Result<(), Failure> {
        if self.committed {
            return Ok(());
        }
        if let Some(number) = self.number {
            let rest = self.rest.iter().map(Step::written).collect::<Result<Vec<_>, _>>()?;
            self.node.store.journal().turn(number, Course::Forward, rest).await?;
            if self.rest.is_empty() {
                self.number = None;
                match &self.context {
                    Some(context) => context.ended(number),
                    None => self.node.store.journal().end(number),
                }
            }
        }
        self.committed = true;
        Ok(())
    }

    /// The change has succeeded, and the Core is told so, in this order. [`Failure::Expired`] when it was told before that it has failed.
    pub(in crate::txn) async fn complete(&mut self, message: Message) -> Result<(), Failure> {
        let Some(context) = self.context.clone() else { return self.commit().await };
        context.claim()?;
        match self.commit().await {
            Ok(()) => {
                context.send(message);
                Ok(())
            }
            Err(failure) => {
                context.unclaim();
                Err(failure)
            }
        }
    }

    /// What was to follow does not work after all: there is a way back again. Where that can't be written down there is none.
    pub(in crate::txn) async fn revoke(&mut self) {
        let revoked = async {
            let steps = self.steps.iter().map(Step::written).collect::<Result<Vec<_>, _>>()?;
            match self.number {
                Some(number) => Ok(self.node.store.journal().turn(number, Course::Back, steps).await?),
                None => Ok(()),
            }
        };
        match revoked.await {
            Ok(()) => (self.committed, self.rest) = (false, Vec::new()),
            Err::<(), Failure>(failure) => tracing::error!("{failure}"),
        }
    }

    /// The end of a change that has succeeded: what was left to be done is done, or stays in the journal.
    pub(in crate::txn) async fn finish(mut self) {
        let Some(number) = self.number.take() else { return };
        let rest = std::mem::take(&mut self.rest);
        let failed = resolve::each(&self.node, Course::Forward, rest, None).await;
        for (step, failure) in &failed {
            tracing::warn!("{step} stays for now: {failure}");
        }
        if failed.is_empty() {
            self.ended(number);
        } else {
            resolve::keep(&self.node, number, Course::Forward, failed).await;
        }
    }

    /// The end of a change that was carried out to its end already.
    pub(in crate::txn) fn end(mut self) {
        if let Some(number) = self.number.take() {
            self.ended(number);
        }
    }

    /// [`Undo::end`] but for libvirt's mark, which comes back now, or later.
    pub(in crate::txn) async fn end_with_mark(mut self) {
        self.rest.retain(|step| matches!(step, Step::Autostart { .. }));
        let rest = self.rest.iter().map(Step::written).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        let Some(number) = self.number.filter(|_| !rest.is_empty()) else { return self.end() };
        // What is done already must not be done again to a guest that runs by then.
        if let Err(error) = self.node.store.journal().turn(number, Course::Forward, rest).await {
            tracing::error!("{}", Failure::Store(error));
        }
        self.finish().await;
    }

    /// Nothing is left to be done. The record of a request stays until the audit trail tells of it.
    fn ended(&self, number: u64) {
        match &self.context {
            Some(context) => {
                self.node.store.journal().done(number);
                context.ended(number);
            }
            None => self.node.store.journal().end(number),
        }
    }

    /// The end of a change that has succeeded but for something that was left to be done: that stays in the journal, and is tried again.
    pub(in crate::txn) fn leave(self) {
        drop(self);
    }

    /// Takes everything back and returns the failure to answer with. A change that has succeeded so far, and could not be revoked, is left to be completed.
    pub(in crate::txn) async fn run(mut self, cause: Failure) -> Failure {
        if self.committed {
            tracing::error!("{} has gone too far to be taken back, the rest of it follows later", self.what);
            return cause;
        }
        let number = self.number.take();
        let steps = std::mem::take(&mut self.steps);
        let failed = resolve::each(&self.node, Course::Back, steps, None).await;
        let left: Vec<String> = failed.iter().map(|(step, _)| step.to_string()).collect();
        for (step, failure) in &failed {
            match failure {
                Failure::Undecided(_) => tracing::info!("{step} is left for later: {failure}"),
                _ => tracing::error!(left_behind = %step, "a step could not be taken back: {failure}"),
            }
        }
        if let Some(number) = number {
            resolve::keep(&self.node, number, Course::Back, failed).await;
        }
        if left.is_empty() {
            cause
        } else {
            Failure::NotUndone { cause: Box::new(cause), left: left.join(", ") }
        }
    }
}

/// Whether a record is about guests that come to, or leave, this directory of a shared pool.
pub(in crate::txn) fn is_move(record: &OpenRecord, directory: &str) -> bool {
    record.intent.steps.iter().filter_map(|step| Step::read(step).ok()).any(|step| match step {
        Step::Arrive(guest) => guest.directory == directory,
        Step::Leave(guest) => guest.directory == directory,
        _ => false,
    })
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.node.store.journal().leave(number);
        }
    }
}
