//! Files in the directories of pools that no book lists.
//!
//! Only what is ours by its name and unfinished by its name is ever offered for removal. An image that nobody knows may be somebody's only copy: it
//! is told, with the command that would remove it, and left alone.

use std::collections::BTreeSet;

use crate::doctor::finding::{Findings, Remedy, Repair};
use crate::doctor::scene::Scene;
use crate::model::{GuestId, Pool, PoolMode};

/// What a name tells.
enum Kind<'a> {
    /// An image that was being made to take the place of this one.
    New(&'a str),
    /// What this image was before a change.
    Old(&'a str),
    /// A copy that the reference was shrinking this image to.
    Shrunk(&'a str),
    /// What a fetch left beside this disk.
    Part(&'a str),
    /// A cloud-init image that was being written.
    Seed,
    /// Anything else that looks like a file of a guest.
    Image,
    /// None of our business.
    Other,
}

/// Looks at all files in the directories of the pools.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    let known = known(scene);
    for pool in scene.books.storage.pools.values() {
        let directory = pool.target.trim_end_matches('/');
        let Some(Ok(names)) = scene.files.get(directory) else { continue };
        for name in names {
            let path = format!("{directory}/{name}");
            if !known.contains(&path) {
                look(scene, pool, &path, name, names, findings);
            }
        }
    }
}

/// Paths that the books list.
fn known(scene: &Scene) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for group in scene.books.storage.groups.values() {
        known.extend(group.volumes().filter_map(|volume| scene.path_of(volume)));
        known.extend(group.snapshots.values().flat_map(|snapshot| snapshot.files.values().cloned()));
        known.insert(group.boot_image.clone());
    }
    known.extend(scene.guests().map(|guest| guest.boot_image.clone()));
    // A guest without a volume group still has its disks.
    let disks = scene.guests().filter_map(|guest| {
        let target = scene.books.storage.pools.get(&guest.storage_pool)?.target.trim_end_matches('/');
        Some(guest.storage_volumes.iter().map(move |volume| format!("{target}/{volume}")))
    });
    known.extend(disks.flatten());
    known
}

fn kind(name: &str) -> Kind<'_> {
    if let Some(disk) = name.strip_prefix('.') {
        return match disk.strip_suffix(".part") {
            Some(disk) => Kind::Part(disk),
            None if disk.starts_with("seed-") => Kind::Seed,
            None => Kind::Other,
        };
    }
    let after = |ending: &str| name.strip_suffix(ending);
    if let Some(image) = after(".new") {
        Kind::New(image)
    } else if let Some(image) = after(".old") {
        Kind::Old(image)
    } else if let Some(image) = after("_shrink") {
        Kind::Shrunk(image)
    } else if name.ends_with(".qcow2") || owner(name).is_some_and(|_| name.contains('_')) {
        Kind::Image
    } else {
        Kind::Other
    }
}

/// The guest whose file it is by its name.
fn owner(name: &str) -> Option<GuestId> {
    name.trim_start_matches('.').get(..36)?.parse().ok()
}

fn look(scene: &Scene, pool: &Pool, path: &str, name: &str, names: &BTreeSet<String>, findings: &mut Findings) {
    // On a shared pool lie the files of other nodes' guests.
    let others = pool.mode == PoolMode::Nfs
        && owner(name).is_some_and(|id| scene.guest(id).is_none() && names.contains(&format!("{id}.meta")))
        || owner(name).and_then(|id| scene.guest(id)).is_some_and(|guest| scene.other_owner(guest).is_some());
    // What is unfinished belongs to the service while it runs, and on a shared pool perhaps to another one.
    let settled = !scene.running && (pool.mode == PoolMode::Local || owner(name).is_some_and(|id| scene.guest(id).is_some()));
    let beside = |image: &str| names.contains(image);
    let directory = path.strip_suffix(name).unwrap_or_default();
    match kind(name) {
        _ if others => {}
        Kind::Other => {}
        _ if scene.is_used(path) => used(path, findings),
        Kind::New(_) | Kind::Old(_) | Kind::Shrunk(_) | Kind::Part(_) | Kind::Seed if !settled => {}
        Kind::New(image) | Kind::Shrunk(image) if beside(image) && owner(name).is_some() => {
            unfinished(path, "a change of a disk broke off before the image was complete", Repair::RemoveImage(path.into()), findings);
        }
        Kind::Part(disk) if owner(disk).is_some() => {
            unfinished(path, "the fetch of an image broke off", Repair::DiscardPart(format!("{directory}{disk}")), findings);
        }
        Kind::Seed => unfinished(path, "the writing of a cloud-init image broke off", Repair::RemoveImage(path.into()), findings),
        // The missing image itself is told with its repair.
        Kind::Old(image) if !beside(image) && owner(name).is_some_and(|id| scene.guest(id).is_some()) => {}
        Kind::Old(image) if beside(image) => {
            let what = format!("{path} is what {image} was before a change");
            let remedy = Remedy::Manual(format!("once the guest is known to be well: rm '{path}'"));
            findings.drift("disks.old", owner_label(scene, name), what, "the change broke off at its end, or in the middle", remedy);
        }
        _ => unknown(scene, path, name, findings),
    }
}

fn unfinished(path: &str, why: &str, repair: Repair, findings: &mut Findings) {
    findings.drift("disks.unfinished", path, "it is unfinished and of no use", why, Remedy::automatic("remove it", repair));
}

fn used(path: &str, findings: &mut Findings) {
    let remedy = Remedy::Manual("do not remove it; enter the guest that uses it, or find out with `virsh domblklist` whose it is".into());
    findings.drift(
        "disks.unlisted",
        path,
        "a domain uses it, but no book lists it",
        "deleting its guest would leave it, and a clean-up by hand could take it",
        remedy,
    );
}

fn unknown(scene: &Scene, path: &str, name: &str, findings: &mut Findings) {
    let based = scene.images.iter().find(|(_, image)| image.as_ref().is_ok_and(|image| image.backing.as_deref() == Some(path)));
    if let Some((top, _)) = based {
        let remedy = Remedy::Manual("do not remove it".into());
        return findings.drift(
            "disks.unlisted",
            path,
            format!("{top} is based on it, but no book lists it"),
            "without it that disk has lost its content",
            remedy,
        );
    }
    let whose = match owner(name) {
        Some(id) if scene.guest(id).is_some() => format!("it is of {}, which does not need it by its books", scene.label(id)),
        Some(id) => format!("it is of guest {id}, which the books do not know"),
        None => "somebody has put it there".to_owned(),
    };
    let remedy = findings.if_nobodys(Remedy::Manual(format!("see what it holds (`qemu-img info`); if nobody needs it: rm '{path}'")));
    findings.drift("disks.unknown", path, "no book lists it", whose, remedy);
}

fn owner_label(scene: &Scene, name: &str) -> String {
    owner(name).map_or_else(|| name.to_owned(), |id| scene.label(id))
}
