//! ResizeDiskRequest (contract §6.4): a disk grows; while the guest runs, it sees the new size at once.
//!
//! Only the current image grows: a snapshot keeps the size that it has, and a restore brings that back. A disk that has the wanted
//! size already is a success, so that a request can be repeated whose answer came too late.

use std::sync::Arc;

use super::create_snapshot::late;
use crate::host::ErrorKind;
use crate::model::Volume;
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::undo::{Step, Undo};
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
    if volumes.running {
        return grow_live(&context, &volumes, index, size).await;
    }
    let mut steps = Steps::new(&context, id);
    let done = async {
        steps.hold_start(&volumes);
        steps.resize(path, present, size);
        steps.perform(&context, false, vec![volumes.entry()]).await?;
        enter(&context, &volumes, index, size).await?;
        steps.complete(context.success()).await
    };
    let done = done.await;
    steps.end(done).await
}

/// A guest can't be told that its disk is smaller again, so this has no way back.
async fn grow_live(context: &Arc<Context>, volumes: &Volumes, index: usize, size: u64) -> Result<(), Failure> {
    let id = volumes.id();
    let path = volumes.group.volumes().nth(index).map(Volume::file).unwrap_or_default();
    let mut undo = Undo::new(context, &[id]);
    undo.plan_forward(vec![Step::Grown { guest: id, index, path: path.into(), capacity: size }]).await?;
    match context.node.host.hypervisor.resize_disk(id, path, size).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Unknown => return Err(error.into()),
        Err(error) => {
            undo.end();
            return Err(error.into());
        }
    }
    if let Err(failure) = enter(context, volumes, index, size).await {
        tracing::error!(guest = %id, "disk {index} has {size} bytes now, but that could not be written down yet");
        return Err(failure);
    }
    undo.end();
    late(context)
}

async fn enter(context: &Context, volumes: &Volumes, index: usize, size: u64) -> Result<(), Failure> {
    let change = volumes.enter(context, |_, config| {
        if let Some(known) = config.disks.get_mut(index) {
            *known = size;
        }
    });
    change.await
}
