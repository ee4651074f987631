//! ResizeDiskRequest (contract §6.4): a disk grows; while the guest runs, it sees the new size at once.
//!
//! Only the current image grows: a snapshot keeps the size that it has, and a restore brings that back. A disk that has the wanted
//! size already is a success, so that a request can be repeated whose answer came too late.

use std::sync::Arc;

use super::create_snapshot::late;
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::volumes::{self, steps::Steps, Volumes};
use crate::txn::{Context, Failure};

/// Sizes of disks are a multiple of this, bytes.
const SECTOR: u64 = 512;
/// Largest size, bytes.
const LARGEST: u64 = 1 << 60;

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    params.uint(Key::Disk)?;
    let size = params.uint(Key::Size)?;
    if size > LARGEST {
        return Err(params.bad(Key::Size, format!("is {size}: at most {LARGEST} bytes are expected")));
    }
    let size = size.next_multiple_of(SECTOR);
    let volumes = volumes::take(&context, id, Job::ResizeDisk).await?;
    let (index, volume) = volumes.disk(params)?;
    let path = volume.file();
    let present = context.node.host.disks.inspect(path).await?.capacity;
    if size < present {
        let guest = &volumes.guest.name;
        return Err(
            params.bad(Key::Size, format!("is {size}, but disk {index} of guest '{guest}' has {present} bytes: a disk can only grow"))
        );
    }
    let mut steps = Steps::new(&context.node);
    if volumes.running {
        // A guest can't be told that its disk is smaller again, so this has no way back.
        context.node.host.hypervisor.resize_disk(id, path, size).await?;
        let done = enter(&context, &volumes, index, size, &mut steps).await;
        if done.is_err() {
            tracing::error!(guest = %id, "disk {index} has {size} bytes now, but that could not be written down");
        }
        steps.end(done).await?;
        return late(&context);
    }
    let done = async {
        steps.resize(path, present, size).await?;
        enter(&context, &volumes, index, size, &mut steps).await?;
        context.respond(context.success())
    };
    let done = done.await;
    steps.end(done).await
}

async fn enter(context: &Context, volumes: &Volumes, index: usize, size: u64, steps: &mut Steps) -> Result<(), Failure> {
    let change = volumes.enter(context, steps, |_, config| {
        if let Some(known) = config.disks.get_mut(index) {
            *known = size;
        }
    });
    change.await
}
