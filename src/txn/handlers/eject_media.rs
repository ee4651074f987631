//! EjectMediaRequest (contract §6.5, §7.10): empties the drive of a running guest.

use std::sync::Arc;

use super::insert_media::DRIVE;
use super::setting::write_down;
use crate::model::lifecycle::{self, Operation};
use crate::model::{Guest, GuestConfig, Media};
use crate::proto::message::{Key, MessageId};
use crate::txn::media;
use crate::txn::node::jobs::Job;
use crate::txn::undo::Undo;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let job = context.job(id, Job::Media).await?;
    context.check()?;
    let guest = context.node.books.guest(id)?;
    let refused =
        |why: &dyn std::fmt::Display| Failure::refused(format!("nothing can be ejected from guest '{}': {why}", guest.config.name));
    lifecycle::next(guest.phase(), Operation::Reset).map_err(|refusal| refused(&refusal))?;
    let media = guest.config.media.clone().ok_or_else(|| refused(&"its drive is empty"))?;
    context.node.hold(id).await?;
    let mut undo = Undo::default();
    match steps(&context, &guest, media, &mut undo).await {
        Ok(()) => undo.disarm(),
        Err(cause) => return Err(undo.run(cause).await),
    }
    context.guest_event(MessageId::MEDIA_DETACHED_EVENT, id);
    drop(job);
    media::tidy(&context.node).await;
    Ok(())
}

async fn steps(context: &Arc<Context>, guest: &Guest, media: Media, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let id = guest.config.id;
    let hypervisor = node.host.hypervisor.clone();
    undo.push(format!("the empty drive of guest {id}"), async move { hypervisor.set_media(id, Some(&media.file)).await.map(drop) });
    node.host.hypervisor.set_media(id, None).await?;
    context.check()?;
    let wanted = GuestConfig { media: None, ..guest.config.as_ref().clone() };
    write_down(node, guest.config.clone(), Arc::new(wanted), &DRIVE, undo).await?;
    context.respond(context.success())
}
