//! CreateDiskImageRequest (contract §6.4, flow 7.6): a guest's system disk becomes an image on the image server.
//!
//! The Core's transaction waits for the events and gives up when one is late: progress is told while the disk waits for its turn and while it is hashed
//! as well, and each event has all keys that the Core insists on.

use std::sync::Arc;

use super::image;
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::node::jobs::Job;
use crate::txn::transfer::{carry, tell_power};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let target = image::read_target(params)?;
    let job = context.job(id, Job::CreateImage).await?;
    context.check()?;
    let (_, disk) = image::check_guest(&context, id, "an image of the system disk")?;
    // Another host that has taken the guest over may be writing to its disk.
    context.node.hold(id).await?;
    context.respond(context.success())?;
    let images = &context.node.host.images;
    let (path, target) = (&disk.path, &target);
    let send = |transfer| async move { images.upload(path, target, &transfer).await };
    let sent = carry(&context, id, &disk.pool, send, |percent| context.notify(updated(false, percent))).await;
    context.notify(match &sent {
        Ok(size) => updated(true, 0).uint(Key::Size, *size),
        Err(failure) => Message::new(MessageId::DISK_IMAGE_UPDATED_EVENT).failed(failure.to_string()),
    });
    drop(job);
    tell_power(&context, id);
    sent.map(drop)
}

fn updated(finished: bool, percent: u32) -> Message {
    let event = Message::new(MessageId::DISK_IMAGE_UPDATED_EVENT).succeeded();
    event.bool(Key::Enable, finished).uint(Key::Progress, u64::from(percent))
}
