//! Disk images: from a guest, to guests, into a guest's place, and what happens when they don't come.

use cell::model::GuestId;
use corelet::images::{BodyFault, Faults, ImageServer, ImageServerConfig};
use corelet::requests::{CreateGuest, ImageSource, StopMode};
use corelet::{CreateError, Event};
use std::net::SocketAddr;

use crate::lab::{eventually, Cell, Lab, TestCore, CORE_ADDRESS, PATIENCE};

const IMAGE: &str = "5e0d4a4e-boots";

/// An image server on the Core's host, with an empty directory.
pub fn image_server(core: &TestCore) -> (ImageServer, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let listen = SocketAddr::new(CORE_ADDRESS.parse().unwrap(), 5801);
    let config = ImageServerConfig { directory: directory.path().to_owned(), listen, tls: true };
    let server = core.inside(async move { ImageServer::start(config).await.unwrap() });
    (server, directory)
}

/// The tests' image on the Core's host.
pub fn source(size: u64) -> ImageSource {
    ImageSource { id: IMAGE.into(), host: CORE_ADDRESS.into(), port: 5801, size }
}

/// A guest cloned from the image, with a system disk of 4 MiB and a data disk.
fn cloned(core: &TestCore, cell: &Cell, name: &str, size: u64) -> Result<GuestId, CreateError> {
    let name = format!("{name}-{}", std::process::id());
    let blank = CreateGuest::blank(&name, 4 << 20);
    let request = CreateGuest { memory: 32 << 20, disks: vec![4 << 20, 1 << 20], image: Some(source(size)), ..blank };
    core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).map(|guest| guest.id)
}

fn volume(guest: GuestId, kind: &str) -> String {
    format!("/var/lib/libvirt/images/local0/{guest}_{kind}.qcow2")
}

/// Hidden files of the pool, but for the cache.
fn left_beside(cell: &Cell) -> String {
    cell.host().run("sh", &["-c", "ls -A /var/lib/libvirt/images/local0 | grep '^\\.' | grep -v image_cache || true"])
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn an_image_made_from_a_guest_boots_in_others_and_replaces_their_system() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let (server, _directory) = image_server(&core);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);

    let original = core.bootable_guest(&cell, "images.original");
    let size = core.wait(core.create_disk_image(&cell.name(), original, &source(0), |_| {})).unwrap();
    let images = server.images().unwrap();
    assert_eq!((images.len(), images[0].size), (1, size));

    let first = cloned(&core, &cell, "images.first", size).unwrap();
    let second = cloned(&core, &cell, "images.second", size).unwrap();
    assert_eq!(left_beside(&cell), "");
    for guest in [first, second] {
        core.boot(&cell, guest);
        core.halt(&cell, guest, StopMode::Force);
        let info = cell.host().run("qemu-img", &["info", "--output=json", &volume(guest, "sys")]);
        assert!(info.contains("\"virtual-size\": 4194304"), "grown: {info}");
        cell.host().run("qemu-img", &["check", "-q", &volume(guest, "sys")]);
    }

    // A reset brings the system back and leaves the data.
    let host = cell.host();
    host.run("qemu-io", &["-c", "write -P 0x5a 0 512", &volume(first, "sys")]);
    host.run("qemu-io", &["-c", "write -P 0xa5 4096 512", &volume(first, "0")]);
    let mut events = core.events();
    core.wait(core.reset_system(&cell.name(), first, &source(size))).unwrap();
    core.expect(&mut events, "reset", |event| matches!(event, Event::SystemReset { guest, failure: None, .. } if *guest == first));
    host.run("qemu-io", &["-c", "read -P 0xa5 4096 512", &volume(first, "0")]);
    core.boot(&cell, first);
    core.halt(&cell, first, StopMode::Force);
    for guest in [original, first, second] {
        core.remove(&cell, guest);
    }
    let listed = host.virsh(&["vol-list", "local0"]);
    assert!(!listed.contains(".qcow2"), "{listed}");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn an_image_that_does_not_come_whole_costs_nothing() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let (server, _directory) = image_server(&core);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "images.kept");
    let size = core.wait(core.create_disk_image(&cell.name(), guest, &source(0), |_| {})).unwrap();

    // damaged on the way: the reason is told, the guest has the disk that it had and can be used at once
    server.set_faults(Faults { body: BodyFault::Corrupt, ..Faults::default() });
    let failed = cloned(&core, &cell, "images.damaged", size).unwrap_err().to_string();
    assert!(failed.contains("SHA-1"), "{failed}");
    let mut events = core.events();
    core.wait(core.reset_system(&cell.name(), guest, &source(size))).unwrap();
    let failure = |event: &Event| matches!(event, Event::SystemReset { guest: of, failure: Some(reason), .. } if *of == guest && reason.contains("SHA-1"));
    core.expect(&mut events, "the failure", failure);
    core.expect(&mut events, "the guest is usable", |event| matches!(event, Event::SystemReset { failure: None, .. }));
    core.boot(&cell, guest);
    core.halt(&cell, guest, StopMode::Force);

    // killed in the middle of a clone and of a reset
    server.set_faults(Faults { body: BodyFault::Stall { after: 4096 }, ..Faults::default() });
    let request = CreateGuest { memory: 32 << 20, image: Some(source(size)), ..CreateGuest::blank("images.killed", 4 << 20) };
    let unfinished = core.wait(core.create(&cell.name(), &request)).unwrap();
    core.wait(core.reset_system(&cell.name(), guest, &source(size))).unwrap();
    eventually("both transfers are under way", PATIENCE, || left_beside(&cell).lines().count() == 2);
    cell.kill();
    cell.start();
    core.joined(&cell);
    eventually("the Core knows what is left", PATIENCE, || core.guest(&cell.name(), unfinished).is_none());
    assert_eq!(left_beside(&cell), "");
    assert!(!cell.host().virsh(&["list", "--all", "--name"]).contains("images.killed"));
    assert!(!cell.file("data/instance.data").contains(&unfinished.to_string()));
    assert!(core.guest(&cell.name(), guest).unwrap().created);
    core.boot(&cell, guest);
    core.halt(&cell, guest, StopMode::Force);

    // deleted in the middle
    let unfinished = core.wait(core.create(&cell.name(), &request)).unwrap();
    eventually("the transfer is under way", PATIENCE, || !left_beside(&cell).is_empty());
    core.remove(&cell, unfinished);
    assert_eq!(left_beside(&cell), "");

    // stopped in the middle
    core.wait(core.create(&cell.name(), &request)).unwrap();
    eventually("the transfer is under way", PATIENCE, || !left_beside(&cell).is_empty());
    cell.stop();
    assert_eq!(left_beside(&cell), "");
    assert!(!cell.file("data/instance.data").contains("images.killed"));
}
