//! Images of disks and snapshots: that they are there, and based on what the books say.

use crate::doctor::finding::{Findings, Remedy, Repair};
use crate::doctor::scene::{told_ref, Scene};
use crate::host::DiskImage;
use crate::model::{GuestConfig, GuestId, Volume, VolumeGroup};

use super::books::change;

/// An image that the books name.
struct Named<'a> {
    /// Its file.
    path: String,
    /// The image below, as the books have it.
    below: Option<&'a str>,
}

/// Looks at all images that the books name.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    for (id, group) in &scene.books.storage.groups {
        let Some(guest) = scene.guest(*id) else { continue };
        // The disks of a guest that another node has taken are that one's, and those of one that is being made are not complete.
        if scene.other_owner(guest).is_some() || guest.unfinished {
            continue;
        }
        group.volumes().enumerate().for_each(|(index, volume)| disk(scene, guest, group, (index, volume), findings));
        frozen(scene, *id, group, findings);
        seed(scene, guest, findings);
    }
}

fn disk(scene: &Scene, guest: &GuestConfig, group: &VolumeGroup, (index, volume): (usize, &Volume), findings: &mut Findings) {
    let Some(path) = scene.path_of(volume) else { return };
    if scene.has_file(&path) == Some(false) {
        let put_back = scene.has_file(&format!("{path}.old")) == Some(true);
        let remedy = if put_back {
            let aside = format!("{path}.old");
            Remedy::automatic(format!("give {aside} its name back"), Repair::PutBack { path: path.clone(), aside })
        } else {
            Remedy::Manual("restore it from a backup, or delete the guest through the Core".into())
        };
        let why = if put_back { "a change of it broke off" } else { "the guest can't be started" };
        return findings.drift("disks.missing", scene.label(guest.id), format!("its disk {path} is not there"), why, remedy);
    }
    let below = group.snapshots.get(&group.active_snapshot).and_then(|snapshot| snapshot.files.get(&volume.name));
    let Some(image) = look(scene, guest.id, &Named { path: path.clone(), below: below.map(String::as_str) }, findings) else { return };
    let Some(size) = guest.disks.get(index).filter(|size| **size != image.capacity) else { return };
    let (id, capacity) = (guest.id, image.capacity);
    let remedy = Remedy::books("take the image's size", move |books| {
        change(books, id, |guest| {
            if let Some(size) = guest.disks.get_mut(index) {
                *size = capacity;
            }
        });
    });
    let what = format!("the books say that {path} has {size} bytes, it has {capacity}");
    findings.drift("disks.size", scene.label(id), what, "the Core shows a wrong size", remedy);
}

/// The images of the snapshots.
fn frozen(scene: &Scene, id: GuestId, group: &VolumeGroup, findings: &mut Findings) {
    for snapshot in group.snapshots.values() {
        for (volume, path) in &snapshot.files {
            if scene.has_file(path) == Some(false) {
                let why = "what is based on it has lost its content";
                let remedy = Remedy::Manual("restore it from a backup; else delete the guest through the Core".into());
                let what = format!("the image {path} of its snapshot '{}' is not there", snapshot.name);
                findings.drift("disks.snapshot-missing", scene.label(id), what, why, remedy);
                continue;
            }
            let below = group.snapshots.get(&snapshot.backing).and_then(|parent| parent.files.get(volume)).map(String::as_str);
            look(scene, id, &Named { path: path.clone(), below }, findings);
        }
    }
}

/// Compares an image that is there with the books.
fn look<'a>(scene: &'a Scene, id: GuestId, named: &Named<'_>, findings: &mut Findings) -> Option<&'a DiskImage> {
    let path = &named.path;
    let image = match scene.images.get(path)? {
        Ok(image) => image,
        Err(error) => {
            let why = "it is damaged, or qemu-img is missing";
            let remedy = Remedy::Manual(format!("see what `qemu-img check {path}` says while the guest is stopped"));
            findings.drift("disks.unreadable", scene.label(id), told_ref(error), why, remedy);
            return None;
        }
    };
    // A running service may be at it.
    if image.half_merged && !scene.running {
        let what = format!("a merge into {path} broke off");
        let remedy = if scene.runs(id) {
            Remedy::Manual("stop the guest and run this again".into())
        } else {
            Remedy::automatic("bring back what it held before", Repair::Unmerge(path.clone()))
        };
        findings.drift("disks.half-merged", scene.label(id), what, "a snapshot was being deleted", remedy);
    }
    if image.backing.as_deref() != named.below {
        let or_nothing = |path: Option<&str>| path.unwrap_or("nothing").to_owned();
        let what = format!("{path} is based on {}, the books say {}", or_nothing(image.backing.as_deref()), or_nothing(named.below));
        let why = "deleting or restoring a snapshot could take the image that it needs";
        let remedy = Remedy::Manual(
            "delete no snapshot of it; correct \"snapshots\" in data/storage.data by what `qemu-img info --backing-chain` says".into(),
        );
        findings.drift("disks.backing", scene.label(id), what, why, remedy);
    }
    Some(image)
}

/// The cloud-init image.
fn seed(scene: &Scene, guest: &GuestConfig, findings: &mut Findings) {
    if !guest.boot_image.is_empty() && scene.has_file(&guest.boot_image) == Some(false) {
        let what = format!("its cloud-init image {} is not there", guest.boot_image);
        let remedy = Remedy::Service("the service makes it when it has started".into());
        findings.drift("disks.seed-missing", scene.label(guest.id), what, "the guest can't be started", remedy);
    }
}
