//! InsertMediaRequest (contract §6.5, §7.10): a CD into the drive of a running guest.

use std::sync::Arc;

use super::image::read_location;
use super::setting::{write_down, Field};
use crate::model::lifecycle::{self, Operation};
use crate::model::{Guest, GuestConfig, GuestId, Media};
use crate::proto::message::Key;
use crate::txn::media::{self, Fetched};
use crate::txn::node::jobs::Job;
use crate::txn::undo::Undo;
use crate::txn::{Context, Failure};

/// What is in the drive, in the books.
pub(super) static DRIVE: Field = Field { name: "media", copy: |from, to| to.media.clone_from(&from.media) };

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let image = read_location(params, Key::Media)?;
    check(&context, id)?;
    let fetched = media::fetch(&context, id, &image).await?;
    let outcome = insert(&context, id, &fetched).await;
    drop(fetched);
    if outcome.is_err() {
        media::tidy(&context.node).await;
    }
    outcome
}

/// The guest, when media can be put into its drive.
fn check(context: &Context, id: GuestId) -> Result<Guest, Failure> {
    let guest = context.node.books.guest(id)?;
    let refused = |why: &dyn std::fmt::Display| Failure::refused(format!("guest '{}' takes no media: {why}", guest.config.name));
    // What can be reset runs and has a drive.
    lifecycle::next(guest.phase(), Operation::Reset).map_err(|refusal| refused(&refusal))?;
    if let Some(Media { id, .. }) = &guest.config.media {
        return Err(refused(&format!("media image {id} is in its drive; eject it first")));
    }
    Ok(guest)
}

async fn insert(context: &Arc<Context>, id: GuestId, fetched: &Fetched) -> Result<(), Failure> {
    let _job = fetched.job(context, id, Job::Media).await?;
    fetched.check(context)?;
    let guest = check(context, id)?;
    context.node.hold(id).await?;
    let mut undo = Undo::default();
    match steps(context, &guest, fetched, &mut undo).await {
        Ok(()) => {
            undo.disarm();
            context.event(media::attached(id, &fetched.media));
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(context: &Arc<Context>, guest: &Guest, fetched: &Fetched, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let id = guest.config.id;
    let hypervisor = node.host.hypervisor.clone();
    undo.push(format!("media in the drive of guest {id}"), async move { hypervisor.set_media(id, None).await.map(drop) });
    node.host.hypervisor.set_media(id, Some(&fetched.media.file)).await?;
    fetched.check(context)?;
    let wanted = GuestConfig { media: Some(fetched.media.clone()), ..guest.config.as_ref().clone() };
    write_down(node, guest.config.clone(), Arc::new(wanted), &DRIVE, undo).await?;
    fetched.respond(context)
}
