//! What a Core asks for, from joining to deleting.

use std::time::Instant;

use cell::model::GuestId;
use corelet::requests::{CreateGuest, ImageSource, StopMode, TemplateNumbers};
use corelet::{Event, RequestError};

use crate::lab::{eventually_some, Cell, Lab, TestCore, PATIENCE};

/// No trace of any guest on the host: domains, filters, volumes, and the ids in `data/`.
fn assert_nothing_left(cell: &Cell, ids: &[GuestId]) {
    let host = cell.host();
    assert_eq!(host.virsh(&["list", "--all", "--name"]).trim(), "", "domains");
    assert!(!host.virsh(&["nwfilter-list"]).contains("nano-nwfilter"), "filters");
    assert_eq!(host.virsh(&["vol-list", "local0"]).trim(), "", "volumes");
    assert_eq!(host.run("ls", &["/var/lib/libvirt/images/local0"]).trim(), "", "files");
    for name in ["instance.data", "storage.data", "network.data"] {
        let text = cell.file(&format!("data/{name}"));
        assert!(ids.iter().all(|id| !text.contains(&id.to_string())), "{name} still holds a guest: {text}");
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_is_created_booted_looked_at_stopped_and_deleted() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (name, host) = (cell.name(), cell.host());

    let guest = core.bootable_guest(&cell, "life.whole");
    let stopped = core.wait(core.get_status(&name, guest)).unwrap();
    assert!(stopped.created && !stopped.running);
    assert_eq!((stopped.cores, stopped.memory, stopped.disks.as_slice()), (1, 32 << 20, [1 << 20].as_slice()));
    assert!((5901..=6000).contains(&stopped.monitor_port), "port {}", stopped.monitor_port);
    assert_eq!(stopped.monitor_secret.chars().count(), 8);
    let usage = stopped.usage.unwrap();
    assert_eq!((usage.memory_available, usage.disk_available, usage.bytes_read), (0, 0, 0), "a stopped guest uses nothing");

    core.boot(&cell, guest);
    let domain = core.wait(core.get_guest(&name, guest)).unwrap().name;
    assert_eq!(host.state_of(&domain), "running");
    let running = eventually_some("the guest's figures are known", PATIENCE, || {
        let status = core.wait(core.get_status(&name, guest)).unwrap();
        status.usage.filter(|usage| usage.bytes_read > 0).map(|usage| (status.running, usage))
    });
    assert!(running.0);
    assert!((0.0..=100.0).contains(&running.1.cpu), "CPU {} %", running.1.cpu);
    assert!(running.1.memory_available <= 32 << 20);

    // reboot and reset: the same process boots again
    let qemu = host.qemu_pid(&domain);
    core.wait(core.stop_guest(&name, guest, StopMode::Reboot)).unwrap();
    cell.wait_boots(guest, 2);
    core.wait(core.stop_guest(&name, guest, StopMode::Reset)).unwrap();
    cell.wait_boots(guest, 3);
    assert_eq!(host.qemu_pid(&domain), qemu);

    // refused while it runs, and said why
    let refused = core.wait(core.delete_guest(&name, guest)).unwrap_err();
    assert!(matches!(&refused, RequestError::Refused { reason, .. } if !reason.is_empty()), "{refused}");
    let refused = core.wait(core.start_guest(&name, guest)).unwrap_err();
    assert!(matches!(&refused, RequestError::Refused { .. }), "{refused}");

    core.halt(&cell, guest, StopMode::Graceful);
    assert_eq!(host.state_of(&domain), "shut off");
    core.boot(&cell, guest);
    core.halt(&cell, guest, StopMode::Force);
    core.remove(&cell, guest);
    assert_nothing_left(&cell, &[guest]);

    let answer = core.wait(core.get_status(&name, guest)).unwrap_err();
    assert!(matches!(answer, RequestError::Refused { .. }), "{answer}");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_creation_that_fails_leaves_nothing_behind() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let blank = CreateGuest { memory: 32 << 20, ..CreateGuest::blank("life.refused", 1 << 20) };
    let image = ImageSource { id: "none".into(), host: "10.226.0.1".into(), port: 5801, size: 1 << 20 };
    let with_bus =
        |disk| CreateGuest { id: GuestId::random(), template: TemplateNumbers { disk, ..TemplateNumbers::default() }, ..blank.clone() };
    // this one fails late, when the volumes are there already
    let taken = format!("life.taken-{}", std::process::id());
    let foreign = cell.host().home().join("foreign.xml");
    let definition =
        format!("<domain type='qemu'><name>{taken}</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os></domain>");
    std::fs::write(&foreign, definition).unwrap();
    cell.host().virsh(&["define", foreign.to_str().unwrap()]);
    let attempts = [
        ("an image that nobody serves", CreateGuest { id: GuestId::random(), image: Some(image), ..blank.clone() }),
        ("no cores", CreateGuest { id: GuestId::random(), cores: 0, ..blank.clone() }),
        ("no disk", CreateGuest { id: GuestId::random(), disks: Vec::new(), ..blank.clone() }),
        ("a disk bus that does not exist", with_bus(9)),
        ("a name that libvirt has already", CreateGuest { id: GuestId::random(), name: taken.clone(), ..blank.clone() }),
        ("more memory than libvirt takes", CreateGuest { id: GuestId::random(), memory: 1 << 62, ..blank.clone() }),
    ];
    for (what, request) in &attempts {
        let outcome = core.wait(core.create_and_wait(&cell.name(), request, PATIENCE));
        assert!(outcome.is_err(), "{what}: it was created");
    }
    let ids: Vec<_> = attempts.iter().map(|(_, request)| request.id).collect();
    cell.host().virsh(&["undefine", &taken]);
    assert_nothing_left(&cell, &ids);

    // and it still creates
    let guest = core.blank_guest(&cell, "life.after");
    core.remove(&cell, guest);
    assert_nothing_left(&cell, &[guest]);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_stopped_or_started_behind_its_back_is_reported() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "life.behind");
    let domain = core.wait(core.get_guest(&cell.name(), guest)).unwrap().name;

    for (action, is_expected) in [("start", true), ("destroy", false), ("start", true), ("shutdown", false)] {
        let (boots, mut events) = (cell.boots(guest), core.events());
        cell.host().virsh(&[action, &domain]);
        core.expect(&mut events, action, |event| if is_expected { event.is_started(guest) } else { event.is_stopped(guest) });
        assert_eq!(core.running(&cell, guest).unwrap(), is_expected, "after virsh {action}");
        if is_expected {
            cell.wait_boots(guest, boots + 1); // only then it hears the power button
        }
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_host_is_reported_every_two_seconds() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let begun = Instant::now();
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let mut events = core.events();
    for _ in 0..3 {
        let report = core
            .wait(events.find(PATIENCE, |recorded| match &recorded.event {
                Event::StatusReport { report, .. } => Some(*report),
                _ => None,
            }))
            .unwrap();
        assert!(report.cores >= 1 && report.memory_total > 0 && report.disk_total > 0, "{report:?}");
        assert!(report.memory_available <= report.memory_total && report.disk_available <= report.disk_total, "{report:?}");
        assert!((0.0..=100.0).contains(&report.cpu), "{report:?}");
    }
    let mut all = core.all_events();
    let reports = std::iter::from_fn(|| all.try_next()).filter(|recorded| matches!(recorded.event, Event::StatusReport { .. })).count();
    let periods = usize::try_from(begun.elapsed().as_secs()).unwrap() / 2;
    assert!(reports <= periods + 2, "{reports} reports in {periods} periods");
}
