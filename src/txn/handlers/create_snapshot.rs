//! CreateSnapshotRequest (contract §6.6): a snapshot of all disks of a guest, also of a running one.
//!
//! Of a stopped guest: each disk's image gets the snapshot's name, and an empty image based on it takes its place (contract §11.1).
//!
//! Of a running guest: QEMU goes on with new images on top of the ones that it used. QEMU opens an image again by the name that it knows,
//! so the present images keep their names and become the snapshot's, and the disks get volumes of other names, in the definition and in the
//! books. Both are changed before QEMU switches: whenever the host dies, the guest starts again from what it had written last.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::host::{ErrorKind, HostError};
use crate::model::{PowerState, Volume};
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::undo::Step;
use crate::txn::volumes::{self, steps::Steps, Volumes};
use crate::txn::{thaws, Context, Failure};

/// The snapshot that is asked for.
struct Wanted<'a> {
    name: &'a str,
    description: &'a str,
    time: String,
}

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let name = volumes::snapshot_name(params)?;
    let description = params.optional_string(Key::Description).unwrap_or_default();
    let volumes = volumes::take(&context, id, Job::CreateSnapshot).await?;
    if volumes.group.snapshots.contains_key(name) {
        return Err(Failure::refused(format!("guest '{}' has a snapshot '{name}' already", volumes.guest.name)));
    }
    let wanted = Wanted { name, description, time: chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string() };
    let mut steps = Steps::new(&context, id);
    if volumes.running {
        match live(&context, &volumes, wanted, &mut steps).await {
            Ok(Ok(())) => steps.finished(),
            // It stays in the journal, and is gone through with later.
            Ok(Err(failure)) => return Err(failure),
            Err(cause) => return steps.end(Err(cause)).await,
        }
        return late(&context);
    }
    let done = offline(&context, &volumes, wanted, &mut steps).await;
    steps.end(done).await
}

/// Answers for what stays done, in time or not.
pub(super) fn late(context: &Context) -> Result<(), Failure> {
    if context.respond(context.success()).is_err() {
        tracing::warn!("{} was done after its deadline; it stays done and stands in the books", context.request.id);
    }
    Ok(())
}

async fn offline(context: &Arc<Context>, volumes: &Volumes, wanted: Wanted<'_>, steps: &mut Steps) -> Result<(), Failure> {
    let frozen = volumes::frozen_paths(volumes, wanted.name);
    check_free(&volumes.files(context).await?, frozen.values())?;
    steps.hold_start(volumes);
    for volume in volumes.group.volumes() {
        context.check()?;
        let current = volume.file();
        let aside = frozen.get(&volume.name).map(String::as_str).unwrap_or_default();
        let new = volumes::new_name(current);
        let capacity = context.node.host.disks.inspect(current).await?.capacity;
        steps.overlay(&new, aside, capacity);
        steps.freeze(current, &new, aside);
    }
    steps.perform(context, true, vec![volumes.entry()]).await?;
    volumes.enter(context, |group, _| group.take_snapshot(wanted.name, wanted.description, wanted.time, frozen)).await?;
    steps.complete(context.success()).await
}

/// The way back would take a file of this name for the guest's disk, so nothing begins while there is one.
fn check_free<'a>(files: &[String], mut wanted: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    match wanted.find(|path| files.iter().any(|name| Some(name.as_str()) == path.rsplit('/').next())) {
        Some(taken) => {
            Err(Failure::refused(format!("there is a file '{taken}' already, which no snapshot in the books has; move it away")))
        }
        None => Ok(()),
    }
}

/// The inner result is the answer's: when it is not known whether QEMU has switched, all that was prepared stays, for the disks show the same
/// either way.
async fn live(context: &Arc<Context>, volumes: &Volumes, wanted: Wanted<'_>, steps: &mut Steps) -> Result<Result<(), Failure>, Failure> {
    let (node, id) = (&context.node, volumes.id());
    let listening = thaws::listens(node, id).await;
    if let Err(reason) = &listening {
        tracing::info!(guest = %id, "the snapshot is taken without freezing its file systems: {reason}");
    }
    let freeze = listening.is_ok();
    let files = volumes.files(context).await?;
    let mut images = Vec::new();
    let mut names = Vec::new();
    for volume in volumes.group.volumes() {
        context.check()?;
        let name = next_name(&volume.name, &files);
        let (present, new) = (volume.file().to_owned(), format!("{}/{name}", volume.directory()));
        let capacity = node.host.disks.inspect(&present).await?.capacity;
        steps.overlay(&new, &present, capacity);
        images.push((present, new));
        names.push((volume.name.clone(), name));
    }
    let frozen = volumes.group.volumes().map(Volume::file).zip(&names).map(|(path, (_, name))| (name.clone(), path.to_owned()));
    let frozen: BTreeMap<String, String> = frozen.collect();
    steps.perform(context, true, vec![volumes.entry(), Step::Volumes { guest: id, names: names.clone() }]).await?;
    volumes
        .enter(context, |group, config| {
            for (present, new) in &names {
                group.rename_volume(present, new);
                config.storage_volumes.iter_mut().filter(|name| *name == present).for_each(|name| name.clone_from(new));
            }
            group.take_snapshot(wanted.name, wanted.description, wanted.time, frozen);
        })
        .await?;
    node.host.hypervisor.change_volumes(id, &names).await?;
    context.check()?;
    // Once QEMU has switched there is no way back: from here on a crash is followed by the switch.
    steps.afterwards(Step::Switch { guest: id, images: images.clone() });
    if freeze {
        steps.afterwards(Step::Thaw { guest: id });
    }
    steps.commit().await?;
    let switched = switch(context, volumes, &images, freeze).await;
    if freeze {
        node.thaws.owe(id);
    }
    if switched.is_err() {
        steps.revoke().await;
    }
    switched
}

async fn switch(context: &Context, volumes: &Volumes, images: &[(String, String)], freeze: bool) -> Result<Result<(), Failure>, Failure> {
    let (hypervisor, id) = (&context.node.host.hypervisor, volumes.id());
    let mut done = hypervisor.switch_disks(id, images, freeze).await;
    if is_unknown(&done) {
        // It waits for the call that has not come back, and finds what became of it.
        done = hypervisor.switch_disks(id, images, false).await;
    }
    let Err(error) = done else { return Ok(Ok(())) };
    match hypervisor.domain(id).await {
        // Nobody writes any more: the snapshot is of the moment when it stopped.
        Ok(status) if status.power == PowerState::Stopped => Ok(Ok(())),
        Ok(_) if error.kind != ErrorKind::Unknown => Err(error.into()),
        _ => {
            tracing::error!(guest = %id, "it is not known whether the guest has gone on to its new images; the snapshot is kept, for the disks show the same");
            Ok(Err(error.into()))
        }
    }
}

fn is_unknown<T>(result: &Result<T, HostError>) -> bool {
    matches!(result, Err(error) if error.kind == ErrorKind::Unknown)
}

/// A free name for the image that follows a volume's present one: `a.qcow2`, `a.1.qcow2`, `a.2.qcow2`, …
fn next_name(volume: &str, files: &[String]) -> String {
    let stem = volume.strip_suffix(".qcow2").unwrap_or(volume);
    let stem = stem.rsplit_once('.').filter(|(_, number)| number.parse::<u32>().is_ok()).map_or(stem, |(stem, _)| stem);
    let mut number: u64 = 1;
    loop {
        let name = format!("{stem}.{number}.qcow2");
        if !files.contains(&name) {
            return name;
        }
        number += 1;
    }
}
