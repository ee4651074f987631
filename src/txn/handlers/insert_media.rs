//! InsertMediaRequest (contract §6.5, §7.10): a CD into the drive of a running guest.

use std::sync::Arc;

use super::image::read_location;
use super::setting::write_down;
use crate::model::lifecycle::{self, Operation};
use crate::model::{Guest, GuestConfig, GuestId, Media};
use crate::proto::message::Key;
use crate::txn::media::{self, Fetched};
use crate::txn::node::jobs::Job;
use crate::txn::setting::Setting;
use crate::txn::undo::{Step, Undo};
use crate::txn::{Context, Failure};

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
    let mut undo = Undo::new(context, &[id]);
    match steps(context, &guest, fetched, &mut undo).await {
        Ok(()) => {
            context.event(media::attached(id, &fetched.media));
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(context: &Context, guest: &Guest, fetched: &Fetched, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let (id, config) = (guest.config.id, Box::new(guest.config.as_ref().clone()));
    undo.plan(vec![Step::Drive { guest: id, file: None }, Step::Written { setting: Setting::Media, config }]).await?;
    node.host.hypervisor.set_media(id, Some(&fetched.media.file)).await?;
    fetched.check(context)?;
    let wanted = GuestConfig { media: Some(fetched.media.clone()), ..guest.config.as_ref().clone() };
    write_down(node, &wanted, Setting::Media).await?;
    if fetched.is_acknowledged() {
        return undo.commit().await;
    }
    undo.complete(context.success()).await
}
