//! What breaks, and what must go on.

use std::time::{Duration, Instant};

use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode};
use nix::sys::signal::Signal;

use crate::crash::about;
use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_restart_of_libvirtd_is_survived() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "faults.libvirtd");
    core.boot(&cell, guest);
    let (domain, service) = (core.wait(core.get_guest(&cell.name(), guest)).unwrap().name, cell.pid());
    for how in ["stop", "kill"] {
        let qemu = cell.host().qemu_pid(&domain);
        cell.host().libvirtd(how);
        cell.host().libvirtd("start");
        let again = eventually("status works again", PATIENCE, || core.says(&cell, guest, true));
        println!("usable {again:?} after libvirtd was started again");
        assert_eq!(cell.host().qemu_pid(&domain), qemu, "the guest was touched");

        // everything else works too, and so do events
        core.halt(&cell, guest, StopMode::Force);
        let other = core.blank_guest(&cell, "faults.other");
        core.remove(&cell, other);
        core.boot(&cell, guest);
        let mut events = core.events();
        cell.host().virsh(&["destroy", &domain]);
        core.expect(&mut events, "destroyed behind its back", |event| event.is_stopped(guest));
        core.boot(&cell, guest);
    }
    assert_eq!(cell.pid(), service, "the service was not restarted");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_stopped_while_libvirtd_was_away_is_reported() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "faults.away");
    core.boot(&cell, guest);
    let qemu = cell.host().qemu_pid(&core.wait(core.get_guest(&cell.name(), guest)).unwrap().name);
    let mut events = core.events();
    cell.host().libvirtd("kill");
    cell.host().signal(qemu, Signal::SIGKILL);
    eventually("QEMU is gone", Duration::from_secs(10), || !cell.host().runs(qemu));
    cell.host().libvirtd("start");
    core.expect(&mut events, "the stop is noticed", |event| event.is_stopped(guest));
    assert!(!core.running(&cell, guest).unwrap());
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_service_is_killed_and_comes_back() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "faults.killed");
    core.boot(&cell, guest);
    let domain = core.wait(core.get_guest(&cell.name(), guest)).unwrap().name;
    let qemu = cell.host().qemu_pid(&domain);
    for _ in 0..2 {
        cell.kill();
        let begin = Instant::now();
        cell.start();
        eventually("the Core can use it again", PATIENCE, || core.says(&cell, guest, true));
        println!("usable {:?} after the restart", begin.elapsed());
        assert_eq!(cell.host().qemu_pid(&domain), qemu, "the guest was touched");
    }
    core.halt(&cell, guest, StopMode::Graceful);
    core.remove(&cell, guest);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn stop_and_start_leave_the_guests_running() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "faults.upgrade");
    core.boot(&cell, guest);
    let domain = core.wait(core.get_guest(&cell.name(), guest)).unwrap().name;
    let (qemu, service) = (cell.host().qemu_pid(&domain), cell.pid());

    let again = cell.start();
    assert!(again.contains(&service.to_string()), "start of a running service names its pid: {again}");
    assert_eq!(cell.pid(), service);

    let mut events = core.events();
    cell.stop();
    core.expect(&mut events, "it says goodbye", |event| matches!(event, corelet::Event::CellLeft { graceful: true, .. }));
    assert_eq!(cell.cli(&["status"]).status.code(), Some(3));
    assert_eq!(cell.host().qemu_pid(&domain), qemu);
    assert_eq!(cell.host().state_of(&domain), "running");
    cell.start();
    assert_eq!(cell.cli(&["status"]).status.code(), Some(0));
    core.joined(&cell);
    assert!(core.running(&cell, guest).unwrap());
    assert_eq!(cell.host().qemu_pid(&domain), qemu);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_core_crashes_and_comes_back() {
    let lab = Lab::up(1);
    let cell = Cell::started(lab.cell(1), "nano"); // before there is a Core
    let core = TestCore::start(&lab);
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "faults.core");
    core.boot(&cell, guest);
    core.crash();

    let core = TestCore::start(&lab);
    core.joined(&cell); // 9 s of silence until a peer counts as lost
    let known = core.guest(&cell.name(), guest).expect("the new Core is told of the guest");
    assert!(known.running && known.created);
    assert!(core.running(&cell, guest).unwrap());
    core.halt(&cell, guest, StopMode::Graceful);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_stuck_guest_delays_no_other() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (stuck, other) = (core.bootable_guest(&cell, "faults.stuck"), core.bootable_guest(&cell, "faults.free"));
    core.boot(&cell, stuck);
    core.boot(&cell, other);
    let name = cell.name();
    let qemu = cell.host().qemu_pid(&core.wait(core.get_guest(&name, stuck)).unwrap().name);
    cell.host().signal(qemu, Signal::SIGSTOP);

    // requests for the stuck guest are under way all the time, and each gets an answer of some kind
    let (reset, results) = core.wait(async {
        let held = core.stop_guest(&name, stuck, StopMode::Reset);
        let work = async {
            let mut answers = Vec::new();
            for _ in 0..20 {
                answers.push(core.get_status(&name, other).await.map(|status| status.running));
            }
            let rebooted = core.stop_guest(&name, other, StopMode::Reset).await;
            (answers, rebooted)
        };
        tokio::join!(held, work)
    });
    assert!(results.0.iter().all(|answer| matches!(answer, Ok(true))), "{:?}", results.0);
    assert!(results.1.is_ok(), "{:?}", results.1);
    cell.wait_boots(other, 2);
    println!("the stuck guest's own request ended with {reset:?}");
    assert!(!matches!(reset, Err(corelet::RequestError::Timeout { .. })), "every request gets an answer");

    core.halt(&cell, other, StopMode::Force);
    cell.host().signal(qemu, Signal::SIGCONT);
    eventually("the guest obeys again", Duration::from_secs(30), || core.says(&cell, stuck, true));
    core.halt(&cell, stuck, StopMode::Force);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn read_only_data_refuses_changes_and_nothing_else() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::install(lab.cell(1), "nano");
    let (host, data) = (cell.host(), cell.home().join("data"));
    std::fs::create_dir_all(&data).unwrap();
    let data = data.to_str().unwrap();
    host.run("mount", &["-t", "tmpfs", "-o", "size=16m,mode=0740", "data", data]);
    let remount = |how: &str| {
        // Whoever is just writing is waited for.
        let option = format!("remount,{how}");
        let mount = || host.command("mount").args(["-o", &option, data]).output().unwrap();
        eventually("it is mounted anew", PATIENCE, || mount().status.success());
    };
    cell.start();
    core.joined(&cell);
    let (name, service, guest) = (cell.name(), cell.pid(), core.blank_guest(&cell, "faults.kept"));
    let seen = || {
        let files =
            host.run("sh", &["-c", "find /var/lib/libvirt/images/local0 -type f -exec ls -l {} + && cd $0 && tail -n +1 *.data", data]);
        let definitions = host
            .run("sh", &["-c", "virsh -q nwfilter-list; for id in $(virsh -q list --all --uuid); do virsh dumpxml --inactive $id; done"]);
        [files, definitions]
    };
    eventually("nothing is open", PATIENCE, || cell::store::journal::read(&cell.home().join("data")).unwrap().is_empty());
    let before = seen();

    let create = CreateGuest { memory: 32 << 20, ..CreateGuest::blank(&format!("faults.later-{}", std::process::id()), 1 << 20) };
    let snapshot = || about(MessageId::CREATE_SNAPSHOT_REQUEST, guest).string(Key::Name, "a").string(Key::Description, "");
    let rename =
        || Message::new(MessageId::MODIFY_GUEST_NAME_REQUEST).string(Key::Guest, guest.to_string()).string(Key::Name, "faults.renamed");
    remount("ro");
    for request in [create.to_message(), snapshot(), rename(), about(MessageId::DELETE_GUEST_REQUEST, guest)] {
        let id = request.id;
        let refused = core.wait(core.request(&name, request)).unwrap_err().to_string();
        println!("{id}: {refused}");
        assert!(refused.contains("Read-only file system") && refused.contains("journal.data"), "{id}: {refused}");
        assert!(core.wait(core.get_status(&name, guest)).is_ok());
        assert!(core.wait(core.get_guest(&name, guest)).is_ok());
    }
    assert_eq!(seen(), before);

    remount("rw");
    for request in [snapshot(), rename(), create.to_message()] {
        let id = request.id;
        core.wait(core.request(&name, request)).unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    eventually("it is created", PATIENCE, || core.guest(&name, create.id).is_some_and(|guest| guest.created));
    for guest in [guest, create.id] {
        core.remove(&cell, guest);
    }
    assert_eq!(cell.pid(), service);
    let doctor = cell.cli(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
}
