//! StartInstanceRequest (contract §6.2).

use std::sync::Arc;

use crate::host::Change;
use crate::model::lifecycle::{self, Operation};
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, MessageId};
use crate::txn::addresses::seeds;
use crate::txn::node::jobs::Job;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    match params.uint(Key::Option)? {
        0 => {}
        1 => return Err(Failure::Unsupported("starting with a media image is not supported by this version".into())),
        2 => return Err(Failure::Unsupported("starting from the network is not supported".into())),
        other => return Err(params.bad(Key::Option, format!("is {other}, 0 (no media) or 1 (media image) is expected"))),
    }
    let job = context.job(id, Job::Start).await?;
    context.check()?;
    let guest = context.node.books.guest(id)?;
    lifecycle::next(guest.phase(), Operation::Start)
        .map_err(|refusal| Failure::refused(format!("guest '{}' can't be started: {refusal}", guest.config.name)))?;
    let late = start(&context, id).await?;
    drop(job);
    late
}

/// Starts a guest whose job the caller holds, answers, and tells the Core. The inner result is the answer's: a guest that
/// came up after the deadline runs nevertheless, and the Core is told by the event.
async fn start(context: &Context, id: GuestId) -> Result<Result<(), Failure>, Failure> {
    power_on(context, id).await?;
    let answered = context.respond(context.success());
    announce_started(context, id);
    Ok(answered)
}

/// Starts a guest whose job the caller holds.
pub(super) async fn power_on(context: &Context, id: GuestId) -> Result<(), Failure> {
    let node = &context.node;
    let config = node.books.guest(id)?.config;
    node.host.hypervisor.update_filter(&config).await?;
    seeds::renew(node, id).await;
    let change = node.host.hypervisor.start(id).await?;
    if config.security.is_some() {
        // The first guest with rules makes libvirt load the kernel's part of them; only then is it known what the kernel can do.
        node.host.hypervisor.update_filter(&config).await?;
    }
    if node.set_power(id, PowerState::Running) || change == Change::Changed {
        node.usage.started(id);
    }
    Ok(())
}

/// Tells the Core that a guest was started, and that it stopped again if it did so already.
pub(super) fn announce_started(context: &Context, id: GuestId) {
    context.guest_event(MessageId::GUEST_STARTED_EVENT, id);
    if context.node.books.guest(id).is_ok_and(|guest| guest.power != PowerState::Running) {
        context.node.announce_power(id, PowerState::Stopped, context.session.0);
    }
}
