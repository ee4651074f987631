//! ResetSystemRequest (contract §6.2, flow 7.5): a new system disk from an image. Data disks stay.
//!
//! The disk that is there is replaced in one step, when the image is complete: a reset that fails or is stopped leaves the guest as it was (§14 B3).
//! The Core takes the guest as not created until SystemResetEvent, which must not overtake the answer (§13.4).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until, Instant};

use super::image;
use crate::host::ImageLocation;
use crate::model::{GuestConfig, GuestId};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::node::books::Disk;
use crate::txn::node::jobs::Job;
use crate::txn::node::transfers::StopReason;
use crate::txn::transfer::{carry, tell_power};
use crate::txn::undo::{Step, Undo};
use crate::txn::{Context, Failure};

/// From the answer, or another event about the reset, to the next one: the Core handles each in a task of its own.
const APART: Duration = Duration::from_millis(1500);

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let source = image::read_source(params)?;
    let job = context.job(id, Job::ResetSystem).await?;
    context.check()?;
    let (guest, disk) = image::check_guest(&context, id, "a system reset")?;
    let capacity = guest.config.disks.first().copied().unwrap_or_default();
    image::check_size(&source, capacity)?;
    context.node.hold(id).await?;
    let mut undo = Undo::new(&context, &[id]);
    let initialized = guest.config.initialized;
    let mark = initialized.then_some(Step::Initialized { guest: id, initialized });
    let start = starts_with_host(&context, &guest.config).await?.then(|| Step::autostart(&context.node, id));
    undo.plan(start.clone().into_iter().chain([Step::Fetched { disk: disk.path.clone() }]).chain(mark).collect()).await?;
    if let Err(failure) = context.respond(context.success()) {
        undo.end();
        return Err(failure);
    }
    let answered = Instant::now();
    set_created(&context, id, false);
    let outcome = match replace(&context, &guest.config, &source, &disk, start, &mut undo).await {
        Ok(()) => {
            undo.end_with_mark().await;
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    };
    set_created(&context, id, true);
    if outcome.as_ref().is_err_and(|failure| matches!(failure.stopped(), Some(StopReason::Deletion | StopReason::Moved))) {
        // The Core hears of the deletion, or knows of the move.
        return outcome;
    }
    sleep_until(answered + APART).await;
    context.event(finished(id, outcome.as_ref().err()));
    drop(job);
    tell_power(&context, id);
    if outcome.is_err() && !context.node.transfers.is_closed() {
        // The guest has its old disk and can be used, but the Core keeps it locked after a failure, until we connect anew (§13.5). A
        // second event says that it is usable; the reason of the failure stays with the Core until somebody asks.
        sleep(APART).await;
        if context.node.books.guest(id).is_ok_and(|guest| guest.created) {
            context.event(finished(id, None));
        }
    }
    outcome
}

fn finished(id: GuestId, failure: Option<&Failure>) -> Message {
    let event = Message::new(MessageId::SYSTEM_RESET_EVENT).string(Key::Guest, id.to_string());
    match failure {
        None => event.succeeded(),
        Some(failure) => event.failed(failure.to_string()),
    }
}

fn set_created(context: &Context, id: GuestId, created: bool) {
    if let Some(guest) = context.node.books.lock().guests.get_mut(&id) {
        guest.created = created;
        guest.progress = 0;
    }
}

/// Brings the image to the disk's place.
async fn replace(
    context: &Context,
    guest: &GuestConfig,
    source: &ImageLocation,
    disk: &Disk,
    start: Option<Step>,
    undo: &mut Undo,
) -> Result<(), Failure> {
    let (id, initialized) = (guest.id, guest.initialized);
    let capacity = guest.disks.first().copied().unwrap_or_default();
    let images = &context.node.host.images;
    let tell = |percent| tell_progress(context, id, percent);
    carry(context, id, &disk.pool, |transfer| async move { images.fetch(source, &disk.path, capacity, &transfer).await }, tell).await?;
    if start.is_some() {
        context.node.host.hypervisor.set_autostart(id, false).await?;
    }
    // Afterwards nobody could tell whether the disk is the old or the new one: from here on a crash is followed by the rest.
    if initialized {
        undo.afterwards(Step::Initialized { guest: id, initialized: false });
    }
    undo.afterwards(Step::Install { disk: disk.path.clone() });
    if let Some(start) = start {
        undo.afterwards(start);
    }
    undo.commit().await?;
    let installed = async {
        if initialized {
            set_initialized(context, id, false).await?;
        }
        Ok(images.install(&disk.path).await?)
    };
    let installed = installed.await;
    if installed.is_err() {
        undo.revoke().await;
    }
    installed
}

/// Whether libvirt does; it is not asked about a guest that is not meant to.
async fn starts_with_host(context: &Context, guest: &GuestConfig) -> Result<bool, Failure> {
    Ok(guest.auto_start && context.node.host.hypervisor.domain(guest.id).await?.autostart)
}

async fn set_initialized(context: &Context, id: GuestId, initialized: bool) -> Result<(), Failure> {
    if let Some(guest) = context.node.books.lock().guests.get_mut(&id) {
        guest.config = Arc::new(GuestConfig { initialized, ..(*guest.config).clone() });
    }
    context.node.save(&[DataFile::Instance]).await
}

/// Enters how far the system disk is and tells the Core. `success` is always true: the other form would remove the guest (§13.6).
pub(super) fn tell_progress(context: &Context, id: GuestId, percent: u32) {
    if let Some(guest) = context.node.books.lock().guests.get_mut(&id) {
        guest.progress = percent;
    }
    let event = Message::new(MessageId::GUEST_UPDATED_EVENT).succeeded();
    context.event(event.string(Key::Instance, id.to_string()).uint(Key::Progress, u64::from(percent)));
}
