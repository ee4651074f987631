//! DeleteGuestRequest (contract §6.2, flow 7.3).
//!
//! The domain goes first, and only when libvirt agrees that it does not run; then the volumes; then the books. A
//! delete that stops half-way is told as failed and keeps the guest in the books, so that asking again finishes it.

use std::sync::Arc;

use crate::model::lifecycle::{self, Operation};
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, MessageId};
use crate::store::DataFile;
use crate::txn::node::jobs::Job;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let _job = context.job(id, Job::Delete).await?;
    context.check()?;
    let guest = context.node.books.guest(id)?;
    lifecycle::next(guest.phase(), Operation::Delete)
        .map_err(|refusal| Failure::refused(format!("guest '{}' can't be deleted: {refusal}", guest.config.name)))?;
    let node = &context.node;
    node.host.hypervisor.undefine(id).await?;
    node.set_power(id, PowerState::Lost);
    delete_volumes(&context, id).await?;
    if !guest.config.boot_image.is_empty() {
        node.host.storage.remove_file(&guest.config.boot_image).await?;
    }
    node.books.lock().remove(id);
    node.usage.forget(id);
    node.save(&[DataFile::Instance, DataFile::Storage, DataFile::Network]).await?;
    let answered = context.respond(context.success());
    // The guest is gone, answered in time or not.
    context.guest_event(MessageId::GUEST_DELETED_EVENT, id);
    answered
}

/// Deletes all volumes, also after one that could not be; the first failure is told.
async fn delete_volumes(context: &Context, id: GuestId) -> Result<(), Failure> {
    let volumes: Vec<(String, String)> = {
        let books = context.node.books.lock();
        let group = books.storage.groups.get(&id);
        group.into_iter().flat_map(|group| group.volumes()).map(|volume| (volume.pool.clone(), volume.name.clone())).collect()
    };
    let mut first = Ok(());
    for (pool, name) in volumes {
        if let Err(error) = context.node.host.storage.delete_volume(&pool, &name).await {
            tracing::error!(guest = %id, volume = %name, "a volume of the deleted guest is left: {error}");
            first = first.and(Err(Failure::from(error)));
        }
    }
    first
}
