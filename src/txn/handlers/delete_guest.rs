//! DeleteGuestRequest (contract §6.2, flow 7.3).
//!
//! The domain goes first, and only when libvirt agrees that it does not run; then the volumes; then the books. A
//! delete that stops half-way is told as failed and keeps the guest in the books, so that asking again finishes it. A guest whose system disk
//! is being filled is not waited for: the transfer is stopped.

use std::sync::Arc;

use crate::model::lifecycle::{self, Operation};
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, MessageId};
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::{Context, Failure};

use super::remains::delete_volumes;

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let _job = take_over(&context, id).await?;
    context.check()?;
    let Ok(guest) = context.node.books.guest(id) else {
        // Its create was stopped for this and has taken everything back.
        let answered = context.respond(context.success());
        context.guest_event(MessageId::GUEST_DELETED_EVENT, id);
        return answered;
    };
    lifecycle::next(guest.phase(), Operation::Delete)
        .map_err(|refusal| Failure::refused(format!("guest '{}' can't be deleted: {refusal}", guest.config.name)))?;
    let node = &context.node;
    // The disks of a guest that another host has taken over are that host's.
    node.hold(id).await?;
    node.host.hypervisor.undefine(id).await?;
    node.set_power(id, PowerState::Lost);
    // What a crash left beside its disk has no other owner.
    let disk = node.books.lock().system_disk(id);
    if let Some(disk) = disk {
        node.host.images.discard(&disk.path).await?;
    }
    let group = node.books.lock().storage.groups.get(&id).cloned().unwrap_or_default();
    delete_volumes(node, id, &group).await?;
    node.books.lock().remove(id);
    node.usage.forget(id);
    node.save(&[DataFile::Instance, DataFile::Storage, DataFile::Network]).await?;
    let answered = context.respond(context.success());
    // The guest is gone, answered in time or not.
    context.guest_event(MessageId::GUEST_DELETED_EVENT, id);
    answered
}

/// The guest's job. A transfer to its system disk is stopped, and has ended when this returns; one that only reads the disk is not.
async fn take_over(context: &Context, id: GuestId) -> Result<JobGuard, Failure> {
    let node = &context.node;
    if node.books.guest(id)?.created || !node.transfers.stop(id, "the guest is being deleted") {
        return context.job(id, Job::Delete).await;
    }
    node.jobs.outlast(id, Job::Delete, context.deadline()).await
}
