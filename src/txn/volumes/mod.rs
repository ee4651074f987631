//! Changes of a guest's volumes: resize, shrink, snapshots.
//!
//! Contract: a change holds the guest's job from its checks to its end, so nothing else touches the files; a busy answer names the change. It is
//! either whole, with files, definition and books in agreement, or taken back ([`steps`]). What becomes of one that gets done only
//! after its deadline, when the Core has been told that it failed (contract §14 B16): taking and restoring a snapshot and growing the disk of a
//! stopped guest are taken back, for the Core and its user believe that nothing has happened; shrinking a disk, deleting a
//! snapshot, and what was done to a running guest stay done and stand in the books, for the guest sees no difference or could not do without.

pub(super) mod live;
pub(super) mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use crate::host::ErrorKind;
use crate::model::lifecycle::{Phase, Refusal};
use crate::model::{Guest, GuestConfig, GuestId, PowerState, Snapshot, Volume, VolumeGroup};
use crate::proto::message::Key;
use crate::store::DataFile;

use super::node::jobs::{Job, JobGuard};
use super::params::Params;
use super::undo::Step;
use super::{Context, Failure, Node};

/// Longest name of a snapshot: with the guest's id before it and an ending behind it, it is the name of a file.
const LONGEST_NAME: usize = 100;

/// The volumes of a guest whose job is held.
pub(super) struct Volumes {
    pub(super) guest: Arc<GuestConfig>,
    pub(super) group: VolumeGroup,
    pub(super) running: bool,
    /// libvirt starts it with the host.
    pub(super) autostart: bool,
    job: JobGuard,
}

/// Waits for the guest's job and looks at its volumes; nothing is touched. The guest is complete and known to libvirt.
pub(super) async fn take(context: &Context, id: GuestId, job: Job) -> Result<Volumes, Failure> {
    let guard = context.job(id, job).await?;
    context.check()?;
    look(&context.node, id, guard).await
}

async fn look(node: &Node, id: GuestId, guard: JobGuard) -> Result<Volumes, Failure> {
    let guest = node.books.guest(id)?;
    let name = &guest.config.name;
    let refuse = |refusal: Refusal| Failure::refused(format!("the disks of guest '{name}' can't be changed: {refusal}"));
    match guest.phase() {
        Phase::Incomplete => return Err(refuse(Refusal::Incomplete)),
        Phase::Lost => return Err(refuse(Refusal::Lost)),
        Phase::Gone => return Err(refuse(Refusal::Gone)),
        Phase::Stopped | Phase::Running => {}
    }
    // Disks that another host has taken over are that host's.
    node.hold(id).await?;
    let group = group(node, &guest)?;
    // Asked for, not looked up: somebody may have started it a moment ago.
    let domain = node.host.hypervisor.domain(id).await?;
    let running = domain.power == PowerState::Running;
    Ok(Volumes { guest: guest.config, group, running, autostart: domain.autostart, job: guard })
}

/// The volumes of a guest as the books know them.
pub(super) fn group(node: &Node, guest: &Guest) -> Result<VolumeGroup, Failure> {
    let group = node.books.lock().storage.groups.get(&guest.config.id).cloned();
    group.ok_or_else(|| Failure::refused(format!("guest '{}' has no volumes in data/storage.data", guest.config.name)))
}

impl Volumes {
    pub(super) fn id(&self) -> GuestId {
        self.guest.id
    }

    /// Refuses while the guest runs.
    pub(super) fn stopped(&self, verb: &str) -> Result<(), Failure> {
        if self.running {
            return Err(Failure::refused(format!("guest '{}' can't be {verb}: {}", self.guest.name, Refusal::StillRunning)));
        }
        Ok(())
    }

    /// A disk by its number, 0 = system.
    pub(super) fn disk(&self, params: Params<'_>) -> Result<(usize, &Volume), Failure> {
        let number = params.uint(Key::Disk)?;
        let found = usize::try_from(number).ok().and_then(|index| Some((index, self.group.volumes().nth(index)?)));
        found.ok_or_else(|| {
            params.bad(Key::Disk, format!("is {number}: guest '{}' has {} disks", self.guest.name, self.group.volumes().count()))
        })
    }

    /// A snapshot that is in the books.
    pub(super) fn snapshot(&self, name: &str) -> Result<&Snapshot, Failure> {
        self.group.snapshots.get(name).ok_or_else(|| no_snapshot(&self.guest, name))
    }

    /// The image that a snapshot has of a volume. Only a file of this guest in its volumes' directory is believed to be one.
    pub(super) fn frozen<'a>(&self, snapshot: &'a Snapshot, volume: &Volume) -> Result<&'a str, Failure> {
        let (name, wanted) = (&snapshot.name, &volume.name);
        let path = snapshot
            .files
            .get(wanted)
            .ok_or_else(|| Failure::refused(format!("snapshot '{name}' of guest '{}' has no image of volume {wanted}", self.guest.name)))?;
        if !self.owns(volume, path) {
            let guest = &self.guest.name;
            return Err(Failure::refused(format!("snapshot '{name}' of guest '{guest}' names '{path}', which is no file of this guest")));
        }
        Ok(path)
    }

    /// True for a file of this guest in its volumes' directory.
    fn owns(&self, volume: &Volume, path: &str) -> bool {
        let (directory, file) = path.rsplit_once('/').unwrap_or_default();
        let known = directory == volume.directory() || directory == self.group.system.directory();
        known && file.starts_with(&file_prefix(self.id()))
    }

    /// A volume by its name.
    fn volume(&self, name: &str) -> Result<&Volume, Failure> {
        let found = self.group.volumes().find(|volume| volume.name == name);
        found.ok_or_else(|| Failure::refused(format!("guest '{}' has no volume {name}", self.guest.name)))
    }

    /// Takes over what was written in the books since.
    fn look_again(&mut self, node: &Node) -> Result<(), Failure> {
        self.group = group(node, &node.books.guest(self.id())?)?;
        Ok(())
    }

    /// Names of all files that the guest has beside its volumes.
    pub(super) async fn files(&self, context: &Context) -> Result<Vec<String>, Failure> {
        Ok(context.node.host.disks.files(self.group.system.directory(), &file_prefix(self.id())).await?)
    }

    /// Refuses when an image of the volume that is not `top` is based on `base`, whatever the books say: it would be lost with it.
    pub(super) async fn check_alone(&self, context: &Context, volume: &Volume, base: &str, top: Option<&str>) -> Result<(), Failure> {
        let frozen = self.group.snapshots.values().filter_map(|snapshot| snapshot.files.get(&volume.name)).map(String::as_str);
        let others = std::iter::once(volume.file()).chain(frozen).filter(|image| Some(*image) != top && *image != base);
        let look = |image| async move { (image, context.node.host.disks.inspect(image).await) };
        for (image, found) in join_all(others.map(look)).await {
            match found {
                Ok(found) if found.backing.as_deref() == Some(base) => {
                    return Err(Failure::refused(format!("{base} can't be given up: {image} is based on it, which the books do not know")))
                }
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The way back of [`Volumes::enter`].
    pub(super) fn entry(&self) -> Step {
        let (sizes, volumes) = (self.guest.disks.clone(), self.guest.storage_volumes.clone());
        Step::Disks { guest: self.id(), group: Box::new(self.group.clone()), sizes, volumes }
    }

    /// Changes the books and makes that durable.
    pub(super) async fn enter(&self, context: &Context, change: impl FnOnce(&mut VolumeGroup, &mut GuestConfig)) -> Result<(), Failure> {
        let (node, id) = (&context.node, self.id());
        let (mut group, mut config) = (self.group.clone(), (*self.guest).clone());
        change(&mut group, &mut config);
        {
            let mut books = node.books.lock();
            books.update(id, |present| {
                present.disks = config.disks;
                present.storage_volumes = config.storage_volumes;
            })?;
            books.replace_volumes(id, group);
        }
        node.save(&[DataFile::Storage, DataFile::Instance]).await
    }

    /// Refuses when one of these names, under which images are put aside, is taken: the way back would take that file for a disk.
    pub(super) async fn check_aside(&self, context: &Context, names: &[String]) -> Result<(), Failure> {
        let files = self.files(context).await?;
        match names.iter().find(|path| files.iter().any(|name| Some(name.as_str()) == path.rsplit('/').next())) {
            Some(taken) => {
                Err(Failure::refused(format!("there is a file '{taken}' already, which no change in progress needs; move it away")))
            }
            None => Ok(()),
        }
    }
}

/// What the names of a guest's files begin with.
pub(super) fn file_prefix(id: GuestId) -> String {
    format!("{id}_")
}

pub(super) fn no_snapshot(guest: &GuestConfig, name: &str) -> Failure {
    Failure::refused(format!("guest '{}' has no snapshot '{name}'", guest.name))
}

/// The name of a snapshot (contract §6.6).
pub(super) fn snapshot_name(params: Params<'_>) -> Result<&str, Failure> {
    let name = params.string(Key::Name)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        let shown: String = name.chars().take(40).collect();
        let problem = format!("is {shown:?}: 1 to {LONGEST_NAME} letters, digits, '_', '-' and '.' are expected");
        return Err(params.bad(Key::Name, problem));
    }
    Ok(name)
}

/// Where the images of a snapshot go (contract §11.1): volume name -> path. Where another snapshot has that image since one of this name was
/// deleted while the guest ran, a number tells them apart.
pub(super) fn frozen_paths(volumes: &Volumes, snapshot: &str) -> BTreeMap<String, String> {
    let (directory, id) = (volumes.group.system.directory(), volumes.id());
    let taken: BTreeSet<&String> = volumes.group.snapshots.values().flat_map(|snapshot| snapshot.files.values()).collect();
    let path = |(index, volume): (usize, &Volume)| {
        let ending = index.checked_sub(1).map_or_else(|| "sys".to_owned(), |data| data.to_string());
        let mut path = format!("{directory}/{id}_{snapshot}_{ending}.qcow2");
        let mut number = 1;
        while taken.contains(&path) {
            path = format!("{directory}/{id}_{snapshot}_{ending}.{number}.qcow2");
            number += 1;
        }
        (volume.name.clone(), path)
    };
    volumes.group.volumes().enumerate().map(path).collect()
}

/// Name of an image that is being made to take the place of this one.
pub(super) fn new_name(path: &str) -> String {
    format!("{path}.new")
}

/// Name of an image whose place was taken, until the change is complete.
pub(super) fn old_name(path: &str) -> String {
    format!("{path}.old")
}

#[cfg(test)]
mod tests;
