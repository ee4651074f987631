//! Snapshots that are taken out from beneath a running guest, by its QEMU.
//!
//! Contract: the guest, the current disks and every other snapshot show the same at each moment, and go on doing so when QEMU, libvirtd, the host
//! or this service ends in the middle. There are two ways:
//!
//! - *Up*, for the youngest snapshot: the image that the guest writes to takes in what the snapshot's holds. Only that image is written to, so
//!   the snapshot stays whole until all disks are done and on the disk, and is struck from the books then. (The other way round, a guest that
//!   is started again right after the switch could find its disk without what it wrote last.) A QEMU that dies before may have said in the
//!   header that the image has all, and have taken the rest along: whoever has no running QEMU to ask puts the image back on the snapshot's.
//! - *Down*, for an older one: its image takes in what the snapshot above it, the heir, holds, and becomes the heir's. From the first byte on its
//!   own content is lost, so it is struck from the books before. What breaks off is a [`Leftover`]: a layer that no book knows, below an
//!   heir that shows what it always showed. [`complete`] finishes it, live or not.
//!
//! QEMU knows images by their names, so none is renamed under it: the heir goes on with the deleted snapshot's file.
//!
//! How far a deletion has come is read off the images and what QEMU does, not off the journal: QEMU goes on without us. The journal knows of the images that
//! are of no use once the books say so, for nobody else would.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, Instant};

use super::Volumes;
use crate::host::{Disks, ErrorKind, HostError, LiveMerge};
use crate::model::{GuestId, PowerState, Volume, VolumeGroup};
use crate::proto::message::MessageId;
use crate::store::DataFile;
use crate::txn::node::jobs::Job;
use crate::txn::undo::{Step, Undo};
use crate::txn::{Failure, Node};

/// Pause between two questions how far QEMU has come.
const PACE: Duration = Duration::from_millis(250);

/// How long libvirt may say nothing while a merge is under way before its outcome is left open.
const SILENCE: Duration = Duration::from_secs(120);

/// How often a guest is looked at that may have stopped in the middle of a call.
const LOOKS: u32 = 8;

/// How long a guest may be busy with something else when its merge is to go on.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a merge by QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Ended {
    /// There is no job any more; the images tell whether it was done.
    Over,
    /// The guest has stopped, and the job with it.
    Stopped,
}

/// An image below a snapshot's that no book knows: a deleted snapshot's, whose merge broke off.
#[derive(Debug)]
struct Leftover {
    /// Name of the volume.
    volume: String,
    /// The snapshot above it.
    heir: String,
    /// Path.
    image: String,
}

/// Deletes the youngest snapshot, on which the current disks alone are based. Until what QEMU has merged is on the disk, libvirt does not start the guest
/// with the host: a disk that has lost what it was to have taken in is put back first.
pub(in crate::txn) async fn delete_youngest(node: &Arc<Node>, volumes: &Volumes, name: &str) -> Result<Ended, Failure> {
    if !volumes.autostart {
        return merge_up(node, volumes, name).await;
    }
    let mut undo = Undo::unasked(node, MessageId::DELETE_SNAPSHOT_REQUEST, volumes.id());
    undo.plan_forward(vec![Step::autostart(node, volumes.id())]).await?;
    node.host.hypervisor.set_autostart(volumes.id(), false).await?;
    let ended = merge_up(node, volumes, name).await?;
    undo.finish().await;
    Ok(ended)
}

async fn merge_up(node: &Arc<Node>, volumes: &Volumes, name: &str) -> Result<Ended, Failure> {
    let (id, disks) = (volumes.id(), &node.host.disks);
    let snapshot = volumes.snapshot(name)?;
    let mut bases = Vec::new();
    for volume in volumes.group.volumes() {
        let (disk, base) = (volume.file(), volumes.frozen(snapshot, volume)?);
        bases.push(base);
        let (above, below) = (disks.inspect(disk).await?, disks.inspect(base).await?);
        // An earlier try may have got so far, perhaps without bringing it to the disk.
        if above.backing != below.backing {
            check_based(disk, above.backing.as_deref(), base)?;
            check_room(node, volume, below.allocated).await?;
            let order = LiveMerge::Up { disk: disk.to_owned(), base: below.backing.clone() };
            if merge(node, volumes, &order, disk, below.backing.as_deref()).await? == Ended::Stopped {
                return Ok(Ended::Stopped);
            }
        }
        if keep(node, id, disk).await? == Ended::Stopped {
            return Ok(Ended::Stopped);
        }
    }
    let obsolete = announce(node, id, bases).await?;
    enter(node, id, |group| group.strike_snapshot(name)).await?;
    obsolete.finish().await;
    Ok(Ended::Over)
}

/// Deletes a snapshot on which one other alone is based, the heir. [`Ended::Stopped`]: the guest stopped before anything was done.
pub(in crate::txn) async fn delete_older(node: &Arc<Node>, volumes: &mut Volumes, name: &str, heir: &str) -> Result<Ended, Failure> {
    let id = volumes.id();
    let (snapshot, above) = (volumes.snapshot(name)?, volumes.snapshot(heir)?);
    let mut first = None;
    for volume in volumes.group.volumes() {
        let (top, base) = (volumes.frozen(above, volume)?, volumes.frozen(snapshot, volume)?);
        let image = node.host.disks.inspect(top).await?;
        check_based(top, image.backing.as_deref(), base)?;
        check_room(node, volume, image.allocated).await?;
        first.get_or_insert_with(|| LiveMerge::Down { disk: volume.file().to_owned(), top: top.to_owned(), base: base.to_owned() });
    }
    let before = volumes.group.clone();
    enter(node, id, |group| group.strike_snapshot(name)).await?;
    if let Some(order) = first {
        if let Err(error) = begin(node, id, &order).await {
            // Put back only where nothing can have been written to it; in any other case the way is forward.
            let was_stopped = error.kind == ErrorKind::Busy && stopped(node, id).await;
            if was_stopped || matches!(node.host.hypervisor.merge_progress(id, order.disk()).await, Ok(None)) {
                enter(node, id, |group| *group = before).await?;
                return if was_stopped { Ok(Ended::Stopped) } else { Err(error.into()) };
            }
        }
    }
    volumes.look_again(node)?;
    complete(node, volumes).await?;
    Ok(Ended::Over)
}

/// Finishes deletions that broke off; nothing is to be done in most cases. A guest that stops meanwhile is waited for by nobody.
pub(in crate::txn) async fn complete(node: &Arc<Node>, volumes: &mut Volumes) -> Result<(), Failure> {
    for leftover in leftovers(node, volumes).await? {
        let is_used = volumes.running && volumes.group.is_beneath(&leftover.heir);
        if is_used && sink(node, volumes, &leftover).await? == Ended::Over {
            volumes.look_again(node)?;
            continue;
        }
        if is_used {
            volumes.running = false;
        }
        fold(node, volumes, &leftover).await?;
    }
    Ok(())
}

/// Completes what the last run began to delete from beneath a guest that runs, or ran; nothing for most guests. Takes as long as it takes.
pub(in crate::txn) async fn resume(node: &Arc<Node>, id: GuestId) -> Result<(), Failure> {
    let job = node.jobs.acquire(id, Job::Configure, Instant::now() + PATIENCE).await?;
    let mut volumes = super::look(node, id, job).await?;
    let current: Vec<String> = volumes.group.volumes().map(|volume| volume.file().to_owned()).collect();
    for disk in current.iter().filter(|_| volumes.running) {
        if matches!(node.host.hypervisor.merge_progress(id, disk).await, Ok(Some(_))) {
            tracing::info!(guest = %id, disk, "images are still being merged; waiting for the end");
            volumes.job.becomes(Job::DeleteSnapshot);
            wait(node, id, disk).await?;
        }
    }
    complete(node, &mut volumes).await?;
    let youngest = volumes.group.active_snapshot.clone();
    let absorbed = absorbed(node, &volumes, &youngest).await?;
    if absorbed.is_empty() {
        return Ok(());
    }
    if volumes.running {
        volumes.job.becomes(Job::DeleteSnapshot);
        tracing::info!(guest = %id, "the deletion of snapshot '{youngest}' goes on");
        delete_youngest(node, &volumes, &youngest).await?;
    } else {
        for (disk, base) in absorbed {
            put_back(node, disk, base).await?;
        }
    }
    Ok(())
}

/// Disks that have taken in what the snapshot below them holds, which only a deletion does, with the snapshot's images.
async fn absorbed<'a>(node: &Arc<Node>, volumes: &'a Volumes, youngest: &str) -> Result<Vec<(&'a str, &'a str)>, Failure> {
    let Some(snapshot) = volumes.group.snapshots.get(youngest) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for volume in volumes.group.volumes() {
        let (disk, base) = (volume.file(), volumes.frozen(snapshot, volume)?);
        if !needs(node, disk, base).await? {
            found.push((disk, base));
        }
    }
    Ok(found)
}

/// Puts an image that no guest uses back on the one that it is based on by the books, and that is whole. A QEMU may have taken it off, in a try
/// that broke off, and have died before it had written all: what is missing is seen through again.
pub(in crate::txn) async fn put_back(node: &Arc<Node>, top: &str, base: &str) -> Result<(), Failure> {
    if !needs(node, top, base).await? {
        node.host.disks.rebase(top, base).await?;
    }
    Ok(())
}

/// [`put_back`] for all disks of a guest that does not run.
pub(in crate::txn) async fn put_all_back(node: &Arc<Node>, id: GuestId) -> Result<(), Failure> {
    let Some(group) = node.books.lock().storage.groups.get(&id).cloned() else { return Ok(()) };
    let Some(youngest) = group.snapshots.get(&group.active_snapshot) else { return Ok(()) };
    for volume in group.volumes() {
        let Some(base) = youngest.files.get(&volume.name) else { continue };
        match put_back(node, volume.file(), base).await {
            // It is not this that keeps the guest from being used.
            Err(Failure::Host(error)) if error.kind == ErrorKind::NotFound => tracing::warn!(guest = %id, "{}", Failure::Host(error)),
            done => done?,
        }
    }
    Ok(())
}

/// Whether an image still needs the one on which it is based by the books.
async fn needs(node: &Arc<Node>, top: &str, base: &str) -> Result<bool, Failure> {
    Ok(backing(node, top).await? != backing(node, base).await?)
}

async fn leftovers(node: &Arc<Node>, volumes: &Volumes) -> Result<Vec<Leftover>, Failure> {
    let mut found = Vec::new();
    for volume in volumes.group.volumes() {
        let frozen: Vec<(&str, &str)> = frozen_of(&volumes.group, volume);
        let known: BTreeSet<&str> = frozen.iter().map(|(_, file)| *file).chain([volume.file()]).collect();
        let mut above: Vec<(&str, String)> = Vec::new();
        for (snapshot, file) in &frozen {
            match node.host.disks.inspect(file).await {
                Ok(image) => above.extend(image.backing.map(|below| (*snapshot, below))),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        above.retain(|(_, below)| !known.contains(below.as_str()) && volumes.owns(volume, below));
        for (heir, image) in &above {
            // What is above the heir may be based on its new image already.
            let parent = volumes.group.snapshots.get(*heir).map_or("", |heir| heir.backing.as_str());
            if !above.iter().any(|(other, below)| *other == parent && below == image) {
                found.push(Leftover { volume: volume.name.clone(), heir: (*heir).to_owned(), image: image.clone() });
            }
        }
    }
    Ok(found)
}

/// Snapshots with the images that they have of a volume.
fn frozen_of<'a>(group: &'a VolumeGroup, volume: &Volume) -> Vec<(&'a str, &'a str)> {
    let snapshots = group.snapshots.values();
    snapshots.filter_map(|snapshot| Some((snapshot.name.as_str(), snapshot.files.get(&volume.name)?.as_str()))).collect()
}

/// Lets the QEMU of a running guest finish a leftover.
async fn sink(node: &Arc<Node>, volumes: &Volumes, leftover: &Leftover) -> Result<Ended, Failure> {
    let (id, disks, group) = (volumes.id(), &node.host.disks, &volumes.group);
    let Leftover { heir, image: base, .. } = leftover;
    let volume = volumes.volume(&leftover.volume)?;
    let top = volumes.frozen(volumes.snapshot(heir)?, volume)?;
    let (beside, above): (Vec<&str>, Vec<&str>) = group
        .snapshots
        .values()
        .filter(|snapshot| snapshot.backing == *heir)
        .map(|snapshot| snapshot.name.as_str())
        .partition(|child| !group.is_beneath(child));
    let above = match above.first() {
        Some(child) => volumes.frozen(volumes.snapshot(child)?, volume)?,
        None => volume.file(),
    };
    let order = LiveMerge::Down { disk: volume.file().to_owned(), top: top.to_owned(), base: base.clone() };
    if merge(node, volumes, &order, above, Some(base)).await? == Ended::Stopped {
        return Ok(Ended::Stopped);
    }
    disks.persist(base).await?;
    disks.persist(above).await?;
    for child in beside {
        disks.rebase(volumes.frozen(volumes.snapshot(child)?, volume)?, base).await?;
    }
    let obsolete = announce(node, id, vec![top]).await?;
    enter(node, id, |group| {
        if let Some(heir) = group.snapshots.get_mut(heir) {
            heir.files.insert(volume.name.clone(), base.clone());
        }
    })
    .await?;
    obsolete.finish().await;
    Ok(Ended::Over)
}

/// Finishes a leftover that no running guest is based on.
async fn fold(node: &Arc<Node>, volumes: &Volumes, leftover: &Leftover) -> Result<(), Failure> {
    let disks = &node.host.disks;
    let volume = volumes.volume(&leftover.volume)?;
    let top = volumes.frozen(volumes.snapshot(&leftover.heir)?, volume)?;
    let base = leftover.image.as_str();
    let others = frozen_of(&volumes.group, volume).into_iter().map(|(_, file)| file).chain([volume.file()]);
    for other in others.filter(|other| *other != top) {
        if disks.inspect(other).await.is_ok_and(|image| image.backing.as_deref() == Some(base)) {
            // It shows the same on the heir's own image, and that name is the one that stays.
            disks.rebase(other, top).await?;
        }
    }
    let aside = format!("{base}.merged");
    let mut undo = Undo::unasked(node, MessageId::DELETE_SNAPSHOT_REQUEST, volumes.id());
    let obsolete = Step::Obsolete { guest: volumes.id(), path: aside.clone() };
    undo.plan_forward(vec![Step::Merged { path: top.to_owned() }, obsolete]).await?;
    let folded = exchange(disks, top, base, &aside).await;
    undo.finish().await;
    Ok(folded?)
}

/// Each of these leaves the heir a content that is right, and can be done again. What is aside already is the heir's image by a second name.
async fn exchange(disks: &Arc<dyn Disks>, top: &str, base: &str, aside: &str) -> Result<(), HostError> {
    disks.remove(aside).await?;
    disks.merge(top, base).await?;
    if let Err(error) = disks.replace(top, base, aside).await {
        disks.put_back(top, Some(base), aside).await?;
        return Err(error);
    }
    Ok(())
}

/// Lets QEMU merge and waits for the end, however long it takes: it is done when `above` is based on `base`. libvirt may have missed that it is,
/// when it was away at that time.
async fn merge(node: &Arc<Node>, volumes: &Volumes, order: &LiveMerge, above: &str, base: Option<&str>) -> Result<Ended, Failure> {
    let id = volumes.id();
    if backing(node, above).await?.as_deref() == base {
        return Ok(Ended::Over);
    }
    let _place = node.host.disks.long_job(order.disk()).await?;
    let begun = begin(node, id, order).await;
    if begun.is_ok() && wait(node, id, order.disk()).await? == Ended::Stopped {
        return Ok(Ended::Stopped);
    }
    let now = backing(node, above).await?;
    match begun {
        _ if now.as_deref() == base => Ok(Ended::Over),
        Err(_) if has_stopped(node, id).await => Ok(Ended::Stopped),
        Err(error) => Err(error.into()),
        Ok(()) => Err(broke_off(&volumes.guest.name, above, now)),
    }
}

/// Brings to the disk what QEMU has merged into the image that the guest writes to. The guest stands still while QEMU does its part, so most is
/// written before; what QEMU hands over to the kernel with `cache=unsafe` is written afterwards.
async fn keep(node: &Arc<Node>, id: GuestId, disk: &str) -> Result<Ended, Failure> {
    node.host.disks.persist(disk).await?;
    match node.host.hypervisor.flush_disk(id, disk).await {
        Ok(()) => {}
        Err(_) if has_stopped(node, id).await => return Ok(Ended::Stopped),
        Err(error) => return Err(error.into()),
    }
    node.host.disks.persist(disk).await?;
    Ok(Ended::Over)
}

async fn backing(node: &Arc<Node>, image: &str) -> Result<Option<String>, Failure> {
    Ok(node.host.disks.inspect(image).await?.backing)
}

/// Begins; an outcome that is not known counts as begun, for the images tell.
async fn begin(node: &Arc<Node>, id: GuestId, order: &LiveMerge) -> Result<(), HostError> {
    tracing::debug!(guest = %id, ?order, "a merge of images begins");
    match node.host.hypervisor.begin_merge(id, order).await {
        Err(error) if error.kind != ErrorKind::Unknown => Err(error),
        _ => Ok(()),
    }
}

async fn wait(node: &Arc<Node>, id: GuestId, disk: &str) -> Result<Ended, Failure> {
    let mut heard = Instant::now();
    loop {
        match node.host.hypervisor.merge_progress(id, disk).await {
            Ok(None) => return Ok(Ended::Over),
            Ok(Some(progress)) => {
                heard = Instant::now();
                tracing::debug!(guest = %id, disk, "merged {} of {} bytes", progress.done, progress.total);
            }
            Err(_) if stopped(node, id).await => return Ok(Ended::Stopped),
            Err(error) if heard.elapsed() > SILENCE => return Err(error.into()),
            Err(_) => {}
        }
        sleep(PACE).await;
    }
}

/// After a refusal: libvirt may need a moment to see that a QEMU has ended while it was asked.
async fn has_stopped(node: &Arc<Node>, id: GuestId) -> bool {
    for _ in 0..LOOKS {
        if stopped(node, id).await {
            return true;
        }
        sleep(PACE).await;
    }
    false
}

async fn stopped(node: &Arc<Node>, id: GuestId) -> bool {
    node.host.hypervisor.domain(id).await.is_ok_and(|status| status.power == PowerState::Stopped)
}

fn check_based(top: &str, backing: Option<&str>, base: &str) -> Result<(), Failure> {
    if backing == Some(base) {
        return Ok(());
    }
    Err(Failure::refused(format!("{top} is based on {}, and not on {base} as the books say", backing.unwrap_or("nothing"))))
}

/// A merge on a full disk would stop the guest, which writes to the same disk.
async fn check_room(node: &Arc<Node>, volume: &Volume, wanted: u64) -> Result<(), Failure> {
    let directory = volume.directory().to_owned();
    let space = node.host.storage.space(std::slice::from_ref(&directory)).await;
    if space.free >= wanted || !space.unreadable.is_empty() {
        return Ok(());
    }
    let text =
        format!("{directory} has {} bytes left, and merging the images may take {wanted}; make room or stop the guest first", space.free);
    Err(HostError::new(ErrorKind::NoSpace, text).into())
}

fn broke_off(guest: &str, image: &str, base: Option<String>) -> Failure {
    let base = base.unwrap_or_else(|| "nothing".into());
    let text = format!(
        "QEMU gave up merging images of guest '{guest}': {image} is still based on {base}, and shows what it did \
         (the guest's log in /var/log/libvirt/qemu may say why)"
    );
    Failure::Host(HostError::new(ErrorKind::Failed, text))
}

/// Changes the book of a guest's volumes, durably or not at all.
async fn enter(node: &Arc<Node>, id: GuestId, change: impl FnOnce(&mut VolumeGroup)) -> Result<(), Failure> {
    let before = {
        let mut books = node.books.lock();
        let Some(before) = books.storage.groups.get(&id).cloned() else { return Err(Failure::NoSuchGuest(id)) };
        let mut after = before.clone();
        change(&mut after);
        books.replace_volumes(id, after);
        before
    };
    let saved = node.save(&[DataFile::Storage]).await;
    if saved.is_err() {
        node.books.lock().replace_volumes(id, before);
        node.store.flush_later(&[DataFile::Storage]);
    }
    saved
}

/// Announces images that nothing needs any more once the books say so: they go with [`Undo::finish`], or later.
async fn announce(node: &Arc<Node>, id: GuestId, images: Vec<&str>) -> Result<Undo, Failure> {
    let mut undo = Undo::unasked(node, MessageId::DELETE_SNAPSHOT_REQUEST, id);
    undo.plan_forward(images.into_iter().map(|path| Step::Obsolete { guest: id, path: path.to_owned() }).collect()).await?;
    Ok(undo)
}

/// Removes an image that was announced. It stays while the books or an image of the guest need it, for the deletion has not come so far then, and also where
/// an image is missing that it might have to stand in for.
pub(in crate::txn) async fn remove_obsolete(node: &Arc<Node>, id: GuestId, path: &str) -> Result<(), Failure> {
    let Some(group) = node.books.lock().storage.groups.get(&id).cloned() else { return Ok(()) };
    let frozen = group.snapshots.values().flat_map(|snapshot| snapshot.files.values()).map(String::as_str);
    let known: Vec<&str> = group.volumes().map(Volume::file).chain(frozen).collect();
    if known.contains(&path) {
        return Ok(());
    }
    for image in known {
        match node.host.disks.inspect(image).await {
            Ok(found) if found.backing.as_deref() != Some(path) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => {
                tracing::warn!(guest = %id, "{path} stays, for {image} is missing");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    node.host.disks.remove(path).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
