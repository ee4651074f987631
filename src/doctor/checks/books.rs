//! The books among each other: guests, volume groups, pools and assignments.

use std::collections::{BTreeMap, BTreeSet};

use crate::doctor::finding::{Books, Findings, Remedy};
use crate::doctor::scene::{label, Scene};
use crate::model::{GuestConfig, GuestId, Resource, VolumeGroup};

/// Compares them.
pub(in crate::doctor) fn check(scene: &Scene, findings: &mut Findings) {
    volumes(scene, findings);
    pools(scene, findings);
    assignments(scene, findings);
    twice(scene, findings);
    scene.books.storage.groups.iter().for_each(|(id, group)| snapshots(scene, *id, group, findings));
}

fn names(group: &VolumeGroup) -> Vec<String> {
    group.volumes().map(|volume| volume.name.clone()).collect()
}

/// Guests and their volume groups.
fn volumes(scene: &Scene, findings: &mut Findings) {
    let groups = &scene.books.storage.groups;
    for guest in scene.guests() {
        let Some(group) = groups.get(&guest.id) else {
            let why = "nothing is known of its snapshots, and it can't be changed or deleted with its disks";
            let remedy = Remedy::Manual(format!(
                "restore its entry under \"groups\" of data/storage.data from a backup; its volumes are {}",
                guest.storage_volumes.join(", ")
            ));
            findings.drift("books.no-volumes", label(guest), "data/storage.data has no volumes of it", why, remedy);
            continue;
        };
        if guest.storage_volumes != names(group) {
            differ(scene, guest, group, findings);
        }
    }
    for (id, group) in groups.iter().filter(|(id, _)| scene.guest(**id).is_none()) {
        let paths: Vec<String> = group.volumes().filter_map(|volume| scene.path_of(volume)).collect();
        let gone = !group.snapshots.values().any(|snapshot| !snapshot.files.is_empty())
            && paths.iter().all(|path| scene.has_file(path) == Some(false));
        let (id, why) = (*id, "data/instance.data knows no such guest");
        let remedy = if gone {
            Remedy::books("strike the entry, for none of its files is there any more", move |books| strike(books, id))
        } else {
            Remedy::Manual(format!(
                "see whether the files are still needed ({}); a guest that libvirt has can be entered again",
                paths.join(", ")
            ))
        };
        let remedy = findings.if_nobodys(remedy);
        findings.drift("books.stray-volumes", format!("guest {id}"), "data/storage.data has volumes of it", why, remedy);
    }
}

fn strike(books: &mut Books, id: GuestId) {
    let Some(group) = books.storage.groups.remove(&id) else { return };
    for volume in group.volumes() {
        if let Some(pool) = books.storage.pools.get_mut(&volume.pool) {
            pool.volumes.remove(&volume.name);
        }
    }
}

/// Which of the two is right tells the domain.
fn differ(scene: &Scene, guest: &GuestConfig, group: &VolumeGroup, findings: &mut Findings) {
    let (id, wanted) = (guest.id, names(group));
    let used = scene.domain(id).map(super::domains::volume_names);
    let why = "the two data files disagree about its disks";
    let what = format!("data/instance.data names {}, data/storage.data {}", guest.storage_volumes.join(", "), wanted.join(", "));
    let remedy = if used.as_ref() == Some(&wanted) {
        Remedy::books("take the names of data/storage.data, which its domain uses", move |books| {
            change(books, id, |guest| guest.storage_volumes.clone_from(&wanted));
        })
    } else {
        Remedy::Manual(
            "see with `virsh domblklist` which disks the guest uses, and correct the data files while the service is stopped".into(),
        )
    };
    findings.drift("books.volumes", label(guest), what, why, remedy);
}

/// Changes a guest in the book.
pub(super) fn change(books: &mut Books, id: GuestId, change: impl FnOnce(&mut GuestConfig)) {
    if let Some(guest) = books.instance.instances.iter_mut().find(|guest| guest.id == id) {
        change(std::sync::Arc::make_mut(guest));
    }
}

/// The pools' lists of volumes, and the pool of new guests.
fn pools(scene: &Scene, findings: &mut Findings) {
    let storage = &scene.books.storage;
    for pool in storage.pools.values() {
        let wanted = volumes_in(&scene.books, &pool.name);
        let listed: BTreeSet<String> = pool.volumes.keys().cloned().collect();
        let (more, less): (Vec<_>, Vec<_>) = (listed.difference(&wanted).collect(), wanted.difference(&listed).collect());
        if more.is_empty() && less.is_empty() {
            continue;
        }
        let what = match (more.first(), less.first()) {
            (Some(name), None) => format!("its list of volumes has {name}, which no guest has ({} such)", more.len()),
            (_, Some(name)) => format!("its list of volumes lacks {name} ({} such)", less.len()),
            (None, None) => continue,
        };
        let name = pool.name.clone();
        let remedy = Remedy::books("make the list anew from the volumes of the guests", move |books| {
            let wanted = volumes_in(books, &name);
            if let Some(pool) = books.storage.pools.get_mut(&name) {
                pool.volumes = wanted.into_iter().map(|volume| (volume, true)).collect();
            }
        });
        let remedy = findings.if_nobodys(remedy);
        findings.drift("books.pool-list", format!("pool {}", pool.name), what, "the reference Cell goes by this list", remedy);
    }
    if !storage.pools.is_empty() && !storage.pools.contains_key(&storage.current_pool) {
        let what = format!("new guests would go to the pool {}, which does not exist", storage.current_pool);
        let known: Vec<&str> = storage.pools.keys().map(String::as_str).collect();
        let remedy = Remedy::Manual(format!("name one of {} as \"current_pool\" while the service is stopped", known.join(", ")));
        findings.drift("books.current-pool", "data/storage.data", what, "no guest can be created", remedy);
    }
}

fn volumes_in(books: &Books, pool: &str) -> BTreeSet<String> {
    let all = books.storage.groups.values().flat_map(VolumeGroup::volumes);
    all.filter(|volume| volume.pool == pool && !volume.name.is_empty()).map(|volume| volume.name.clone()).collect()
}

/// What network.data says each guest has, and what instance.data says.
fn assignments(scene: &Scene, findings: &mut Findings) {
    let resources = &scene.books.network.resources;
    for guest in scene.guests() {
        let id = guest.id;
        let wanted = |guest: &GuestConfig| (guest.monitor_port, guest.hardware_address.clone());
        let (what, why) = match resources.get(&id) {
            None => ("data/network.data has no entry of it".to_owned(), "its port and MAC could be given to another guest"),
            Some(held) if (held.monitor_port, held.hardware_address.clone()) != wanted(guest) => (
                format!(
                    "data/network.data says port {} and MAC {}, data/instance.data port {} and MAC {}",
                    held.monitor_port, held.hardware_address, guest.monitor_port, guest.hardware_address
                ),
                "its port or MAC could be given to another guest",
            ),
            Some(_) => continue,
        };
        let remedy = Remedy::books("take port and MAC from data/instance.data", move |books| {
            let Some(guest) = books.instance.instances.iter().find(|guest| guest.id == id).cloned() else { return };
            let fresh = || Resource {
                internal_address: guest.internal_address.clone(),
                external_address: guest.external_address.clone(),
                ..Resource::default()
            };
            let held = books.network.resources.entry(id).or_insert_with(fresh);
            (held.monitor_port, held.hardware_address) = (guest.monitor_port, guest.hardware_address.clone());
        });
        findings.drift("books.assignment", label(guest), what, why, remedy);
    }
    for id in resources.keys().filter(|id| scene.guest(**id).is_none()) {
        let id = *id;
        let remedy = Remedy::books("strike the entry", move |books| drop(books.network.resources.remove(&id)));
        let remedy = findings.if_nobodys(remedy);
        let why = "its port and MAC are not given to any other guest";
        findings.drift(
            "books.stray-assignment",
            format!("guest {id}"),
            "data/network.data has an entry, but there is no such guest",
            why,
            remedy,
        );
    }
}

/// Ports and MACs that two guests have.
fn twice(scene: &Scene, findings: &mut Findings) {
    let mut ports: BTreeMap<u16, Vec<&GuestConfig>> = BTreeMap::new();
    let mut macs: BTreeMap<String, Vec<&GuestConfig>> = BTreeMap::new();
    for guest in scene.guests().filter(|guest| scene.other_owner(guest).is_none()) {
        ports.entry(guest.monitor_port).or_default().push(guest);
        macs.entry(guest.hardware_address.to_lowercase()).or_default().push(guest);
    }
    for (port, guests) in ports.iter().filter(|(_, guests)| guests.len() > 1) {
        let remedy = Remedy::Manual(
            "give all but one of them another port: stopped, in their domains (`virsh edit`) and then with --repair in the books".into(),
        );
        let why = "only one of them can run at a time";
        findings.drift("books.port-twice", labels(guests), format!("they have the same monitor port {port}"), why, remedy);
    }
    for (mac, guests) in macs.iter().filter(|(_, guests)| guests.len() > 1) {
        let remedy = Remedy::Manual(
            "give all but one of them another MAC: stopped, in their domains (`virsh edit`) and then with --repair in the books".into(),
        );
        let why = "they take each other's packets and addresses";
        findings.drift("books.mac-twice", labels(guests), format!("they have the same MAC {mac}"), why, remedy);
    }
}

fn labels(guests: &[&GuestConfig]) -> String {
    guests.iter().map(|guest| label(guest)).collect::<Vec<_>>().join(" and ")
}

/// The tree of a guest's snapshots.
fn snapshots(scene: &Scene, id: GuestId, group: &VolumeGroup, findings: &mut Findings) {
    let known = |name: &str| name.is_empty() || group.snapshots.contains_key(name);
    let parents = group.snapshots.values().map(|snapshot| snapshot.backing.as_str());
    if let Some(missing) = std::iter::once(group.active_snapshot.as_str()).chain(parents).find(|name| !known(name)) {
        let remedy =
            Remedy::Manual("see with `qemu-img info --backing-chain` what its disks are based on, and correct data/storage.data".into());
        let why = "its snapshots can't be restored or deleted safely";
        let what = format!("something is based on the snapshot '{missing}', which is not in the books");
        findings.drift("books.snapshot-missing", scene.label(id), what, why, remedy);
        return;
    }
    let mut settled = group.clone();
    settle(&mut settled);
    if settled != *group {
        let remedy = Remedy::books("set them anew from what is based on what", move |books| {
            if let Some(group) = books.storage.groups.get_mut(&id) {
                settle(group);
            }
        });
        let what = "the marks of its snapshots (root, current, base) contradict what is based on what";
        findings.drift("books.snapshot-marks", scene.label(id), what, "the reference Cell lists them wrongly", remedy);
    }
}

fn settle(group: &mut VolumeGroup) {
    for snapshot in group.snapshots.values_mut() {
        snapshot.is_root = snapshot.backing.is_empty();
    }
    let active = group.active_snapshot.clone();
    group.go_to(&active);
}
