//! StartInstanceRequest (contract §6.2): with an empty drive, or with a media image in it for this run.

use std::sync::Arc;

use tokio::time::Instant;

use super::image::read_location;
use crate::host::{Change, ImageLocation};
use crate::model::lifecycle::{self, Operation};
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, MessageId};
use crate::store::DataFile;
use crate::txn::addresses::seeds;
use crate::txn::media::{self, Fetched};
use crate::txn::node::jobs::Job;
use crate::txn::undo::{settle, Step, Undo};
use crate::txn::{Context, Failure, Node};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    match params.uint(Key::Option)? {
        0 => start(&context, id).await,
        1 => start_with_media(&context, id, read_location(params, Key::Source)?).await,
        2 => Err(Failure::Unsupported("starting from the network is not supported".into())),
        other => Err(params.bad(Key::Option, format!("is {other}, 0 (no media) or 1 (media image) is expected"))),
    }
}

/// Refuses a guest that can't be started.
fn check(context: &Context, id: GuestId) -> Result<(), Failure> {
    let guest = context.node.books.guest(id)?;
    let next = lifecycle::next(guest.phase(), Operation::Start);
    next.map(drop).map_err(|refusal| Failure::refused(format!("guest '{}' can't be started: {refusal}", guest.config.name)))
}

/// A guest that came up after the deadline runs nevertheless, and the Core is told by the event.
async fn start(context: &Context, id: GuestId) -> Result<(), Failure> {
    let _job = context.job(id, Job::Start).await?;
    context.check()?;
    check(context, id)?;
    power_on(context, id).await?;
    let answered = context.respond(context.success());
    announce_started(context, id);
    answered
}

/// A start that fails leaves no media in the guest's drive (contract §14 D23).
async fn start_with_media(context: &Arc<Context>, id: GuestId, image: ImageLocation) -> Result<(), Failure> {
    check(context, id)?;
    let fetched = media::fetch(context, id, &image).await?;
    let acknowledged = fetched.is_acknowledged();
    let outcome = start_fetched(context, id, &fetched).await;
    drop(fetched);
    if outcome.is_err() {
        media::tidy(&context.node).await;
        if acknowledged && context.node.books.guest(id).is_ok_and(|guest| guest.power == PowerState::Stopped) {
            // The Core was told that it starts.
            context.node.announce_power(id, PowerState::Stopped, context.session.0);
        }
    }
    outcome
}

async fn start_fetched(context: &Arc<Context>, id: GuestId, fetched: &Fetched) -> Result<(), Failure> {
    let _job = fetched.job(context, id, Job::Start).await?;
    fetched.check(context)?;
    check(context, id)?;
    let media = &fetched.media;
    let mut undo = Undo::new(context, &[id]);
    undo.plan_forward(vec![Step::Started { guest: id, media: media.clone() }]).await?;
    if let Err(failure) = power_on_with(&context.node, id, Some(&media.file), context.deadline()).await {
        if !failure.outcome_unknown() {
            undo.end();
        }
        return Err(failure);
    }
    context.node.books.lock().update(id, |config| config.media = Some(media.clone()))?;
    match context.node.save(&[DataFile::Instance]).await {
        Ok(()) => undo.end(),
        // The guest runs; what is in its drive is written down later.
        Err(failure) => tracing::error!(guest = %id, "the guest's media could not be written down: {failure}"),
    }
    let answered = fetched.respond(context);
    context.guest_event(MessageId::GUEST_STARTED_EVENT, id);
    context.event(media::attached(id, media));
    tell_if_stopped(context, id);
    answered
}

/// Starts a guest whose job the caller holds.
pub(super) async fn power_on(context: &Context, id: GuestId) -> Result<(), Failure> {
    power_on_until(&context.node, id, context.deadline()).await
}

/// [`power_on`]; a guest of a shared pool that may not start before `deadline` is refused.
pub(super) async fn power_on_until(node: &Arc<Node>, id: GuestId, deadline: Instant) -> Result<(), Failure> {
    power_on_with(node, id, None, deadline).await
}

async fn power_on_with(node: &Arc<Node>, id: GuestId, media: Option<&str>, deadline: Instant) -> Result<(), Failure> {
    // A disk that an earlier change has left half-way is no disk to start with.
    settle(node, &[id]).await?;
    let hypervisor = &node.host.hypervisor;
    let held = node.may_start(id, deadline).await?;
    let config = node.books.guest(id)?.config;
    hypervisor.update_filter(&config).await?;
    seeds::renew(node, id).await;
    let change = match media {
        Some(file) => hypervisor.start_with_media(id, file).await?,
        None => hypervisor.start(id).await?,
    };
    if config.security.is_some() {
        // The first guest with rules makes libvirt load the kernel's part of them; only then is it known what the kernel can do.
        if let Err(error) = hypervisor.update_filter(&config).await {
            tracing::error!(guest = %id, "the guest runs with the rules that it had: {}", Failure::Host(error));
        }
    }
    node.was_started(id, held).await?;
    if node.set_power(id, PowerState::Running) || change == Change::Changed {
        node.usage.started(id);
    }
    Ok(())
}

/// Tells the Core that a guest was started, and that it stopped again if it did so already.
pub(super) fn announce_started(context: &Context, id: GuestId) {
    context.guest_event(MessageId::GUEST_STARTED_EVENT, id);
    tell_if_stopped(context, id);
}

fn tell_if_stopped(context: &Context, id: GuestId) {
    if context.node.books.guest(id).is_ok_and(|guest| guest.power != PowerState::Running) {
        context.node.announce_power(id, PowerState::Stopped, context.session.0);
    }
}
