//! EjectMediaRequest (contract §6.5, §7.10): empties the drive of a running guest.

use std::sync::Arc;

use super::setting::write_down;
use crate::model::lifecycle::{self, Operation};
use crate::model::{Guest, GuestConfig, Media};
use crate::proto::message::{Key, MessageId};
use crate::txn::media;
use crate::txn::node::jobs::Job;
use crate::txn::setting::Setting;
use crate::txn::undo::{Step, Undo};
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
    let mut undo = Undo::new(&context, &[id]);
    if let Err(cause) = steps(&context, &guest, media, &mut undo).await {
        return Err(undo.run(cause).await);
    }
    context.guest_event(MessageId::MEDIA_DETACHED_EVENT, id);
    drop(job);
    media::tidy(&context.node).await;
    Ok(())
}

async fn steps(context: &Context, guest: &Guest, media: Media, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let (id, config) = (guest.config.id, Box::new(guest.config.as_ref().clone()));
    undo.plan(vec![Step::Drive { guest: id, file: Some(media.file) }, Step::Written { setting: Setting::Media, config }]).await?;
    node.host.hypervisor.set_media(id, None).await?;
    context.check()?;
    write_down(node, &GuestConfig { media: None, ..guest.config.as_ref().clone() }, Setting::Media).await?;
    undo.complete(context.success()).await
}
