//! DeleteGuestRequest (contract §6.2, flow 7.3).
//!
//! The domain goes first, and only when libvirt agrees that it does not run; then the volumes; then the books. From there on there is no way back: a
//! delete that stops half-way is told as failed and keeps the guest in the books, and asking again, or the next start of the service, finishes it. A guest whose system disk
//! is being filled is not waited for: the transfer is stopped.

use std::sync::Arc;

use crate::model::lifecycle::{self, Operation};
use crate::model::GuestId;
use crate::proto::message::Key;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::node::transfers::StopReason;
use crate::txn::undo::{forget_guest, Step, Undo};
use crate::txn::{missed, Context, Failure};

use super::remains;

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let _job = take_over(&context, id).await?;
    context.check()?;
    let Ok(guest) = context.node.books.guest(id) else {
        // Its create was stopped for this, has taken everything back, and has told the Core.
        return context.respond(context.success());
    };
    lifecycle::next(guest.phase(), Operation::Delete)
        .map_err(|refusal| Failure::refused(format!("guest '{}' can't be deleted: {refusal}", guest.config.name)))?;
    let node = &context.node;
    // The disks of a guest that another host has taken over are that host's.
    node.hold(id).await?;
    let group = remains::volumes(node, &guest.config)?;
    let mut undo = Undo::new(&context, &[id]);
    let rest = Step::Delete { guest: id, group: Box::new(group.clone()), directory: node.shared_directory(id) };
    undo.plan_forward(vec![rest]).await?;
    if let Err(failure) = remains::delete(node, id, &group).await {
        // Nothing has happened yet, so nothing has to. What libvirt may still carry out has to be followed by the rest.
        if !failure.outcome_unknown() && node.host.hypervisor.domain(id).await.is_ok() {
            undo.end();
        }
        return Err(failure);
    }
    undo.end();
    forget_guest(node, id).await;
    let answered = context.respond(context.success());
    // The guest is gone, answered in time or not.
    context.announce_end(missed::deleted(id));
    answered
}

/// The guest's job. A transfer to its system disk is stopped, and has ended when this returns; one that only reads the disk is not.
async fn take_over(context: &Context, id: GuestId) -> Result<JobGuard, Failure> {
    let node = &context.node;
    if node.books.guest(id)?.created || !node.transfers.stop(id, StopReason::Deletion) {
        return context.job(id, Job::Delete).await;
    }
    node.jobs.outlast(id, Job::Delete, context.deadline()).await
}
