//! DeleteSnapshotRequest (contract §6.6): what is based on the snapshot keeps its content.
//!
//! Nothing is based on it: its images go. One snapshot or the current files are: what they hold goes into the snapshot's images, which
//! then take their names; the costs are those of the younger layer, however large the older one is. More than one are: refused, for they
//! would need a copy each. Books and files change together or not at all (contract §14 B14, D15). What a running guest is based on is merged by
//! its QEMU ([`live`]).

use std::sync::Arc;

use super::create_snapshot::late;
use crate::model::Volume;
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::volumes::{self, live, steps::Steps, Volumes};
use crate::txn::{Context, Failure};

/// What is directly based on a snapshot.
enum Dependant {
    Nothing,
    Current,
    Snapshot(String),
}

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let name = volumes::snapshot_name(params)?;
    let mut volumes = volumes::take(&context, id, Job::DeleteSnapshot).await?;
    if let Err(failure) = live::complete(&context.node, &mut volumes).await {
        tracing::warn!(guest = %id, "an earlier deletion could not be completed: {failure}");
    }
    volumes.snapshot(name)?;
    let dependant = dependant(&volumes, name)?;
    if volumes.running && volumes.group.is_beneath(name) {
        for volume in volumes.group.volumes() {
            let (base, top) = (volumes.frozen(volumes.snapshot(name)?, volume)?, top_of(&volumes, volume, &dependant)?);
            volumes.check_alone(&context, volume, base, top).await?;
        }
        let ended = match &dependant {
            Dependant::Snapshot(heir) => live::delete_older(&context.node, &mut volumes, name, heir).await,
            Dependant::Current | Dependant::Nothing => live::delete_youngest(&context.node, &volumes, name).await,
        };
        // What may be half done is gone on with when libvirt is back, at the latest at the next start.
        let ended = ended.inspect_err(|_| {
            context.node.broken_merges.lock().insert(id);
        })?;
        if ended == live::Ended::Over {
            return late(&context);
        }
    }
    let mut steps = Steps::new(&context, id);
    let done = delete(&context, &volumes, name, &dependant, &mut steps).await;
    steps.end(done).await?;
    late(&context)
}

/// Who keeps the content of the snapshot, or why it can't be deleted.
fn dependant(volumes: &Volumes, name: &str) -> Result<Dependant, Failure> {
    let refused =
        |why: String| Err(Failure::refused(format!("snapshot '{name}' of guest '{}' can't be deleted: {why}", volumes.guest.name)));
    let group = &volumes.group;
    let children = group.children(name);
    match (children.as_slice(), group.active_snapshot == name) {
        ([], false) => Ok(Dependant::Nothing),
        ([], true) => Ok(Dependant::Current),
        ([child], false) => Ok(Dependant::Snapshot(child.clone())),
        (_, true) => refused(format!("the current disks and '{}' are based on it; delete those snapshots first", children.join("', '"))),
        (_, false) => refused(format!("the snapshots '{}' are based on it; delete all but one of them first", children.join("', '"))),
    }
}

/// The image of a volume that is based on the snapshot's.
fn top_of<'a>(volumes: &'a Volumes, volume: &'a Volume, dependant: &Dependant) -> Result<Option<&'a str>, Failure> {
    Ok(match dependant {
        Dependant::Nothing => None,
        Dependant::Current => Some(volume.file()),
        Dependant::Snapshot(child) => Some(volumes.frozen(volumes.snapshot(child)?, volume)?),
    })
}

async fn delete(context: &Context, volumes: &Volumes, name: &str, dependant: &Dependant, steps: &mut Steps) -> Result<(), Failure> {
    let snapshot = volumes.snapshot(name)?;
    let mut layers = Vec::new();
    for volume in volumes.group.volumes() {
        let (base, top) = (volumes.frozen(snapshot, volume)?, top_of(volumes, volume, dependant)?);
        volumes.check_alone(context, volume, base, top).await?;
        if let Some(top) = top {
            live::put_back(&context.node, top, base).await?;
        }
        layers.push((base, top));
    }
    let asides: Vec<String> = layers.iter().map(|(base, top)| volumes::old_name(top.unwrap_or(base))).collect();
    volumes.check_aside(context, &asides).await?;
    steps.hold_start(volumes);
    // Long, and content is the same at every moment; the quick renames follow when nothing of this can fail any more.
    for (base, top) in &layers {
        if let Some(top) = top {
            steps.merge(top, base, top);
        }
    }
    for (base, top) in &layers {
        match top {
            Some(top) => steps.replace(top, base, &volumes::old_name(top), true),
            None => steps.give_up(base, &volumes::old_name(base)),
        }
    }
    steps.perform(context, false, vec![volumes.entry()]).await?;
    volumes.enter(context, |group, _| group.strike_snapshot(name)).await?;
    steps.commit().await
}
