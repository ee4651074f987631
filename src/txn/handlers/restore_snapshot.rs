//! RestoreSnapshotRequest (contract §6.6): a stopped guest goes back to a snapshot. What it wrote since its last snapshot is lost, as asked.
//!
//! For each disk an empty image based on the snapshot's takes the place of the current one, which is kept until all disks and the books are
//! there (contract §14 D15). The disks get the sizes that they had.

use std::sync::Arc;

use crate::model::Volume;
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::volumes::{self, steps::Steps, Volumes};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let name = volumes::snapshot_name(params)?;
    let volumes = volumes::take(&context, id, Job::RestoreSnapshot).await?;
    volumes.snapshot(name)?;
    volumes.stopped("restored")?;
    let mut steps = Steps::new(&context, id);
    let done = restore(&context, &volumes, name, &mut steps).await;
    steps.end(done).await
}

async fn restore(context: &Context, volumes: &Volumes, name: &str, steps: &mut Steps) -> Result<(), Failure> {
    let snapshot = volumes.snapshot(name)?;
    let disks = &context.node.host.disks;
    let mut sizes = Vec::new();
    let images: Vec<(&Volume, &str)> =
        volumes.group.volumes().map(|volume| Ok((volume, volumes.frozen(snapshot, volume)?))).collect::<Result<_, Failure>>()?;
    let asides: Vec<String> = volumes.group.volumes().map(|volume| volumes::old_name(volume.file())).collect();
    volumes.check_aside(context, &asides).await?;
    steps.hold_start(volumes);
    for (volume, base) in images {
        context.check()?;
        let current = volume.file();
        let mut image = disks.inspect(base).await?;
        if image.half_merged {
            // A delete of this snapshot broke off with a process that kept no journal.
            disks.unmerge(base).await?;
            image = disks.inspect(base).await?;
        }
        let (new, old) = (volumes::new_name(current), volumes::old_name(current));
        steps.overlay(&new, base, image.capacity);
        steps.replace(current, &new, &old, false);
        sizes.push(image.capacity);
    }
    steps.perform(context, true, vec![volumes.entry()]).await?;
    let enter = volumes.enter(context, |group, config| {
        group.go_to(name);
        config.disks = sizes;
    });
    enter.await?;
    steps.complete(context.success()).await
}
