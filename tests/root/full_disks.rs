//! Disks that fill up: a pool below a guest that writes, the directories of the service itself.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode};
use corelet::RequestError;

use crate::lab::{eventually, eventually_some, Cell, Host, Lab, TestCore, PATIENCE};
use crate::snapshots::{last_number, sector_of};

const POOL: &str = "/var/lib/libvirt/images/local0";
const MIB: u64 = 1 << 20;
/// Longest wait for a guest to go on: the watch looks every ten seconds, and a machine may be busy.
const RELIEF: Duration = Duration::from_secs(60);

/// A file system of so many MiB at this directory.
fn mount(host: &Host, directory: &str, mebibytes: u32) {
    host.run("mkdir", &["-p", directory]);
    host.run("mount", &["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0755"), "tmpfs", directory]);
}

/// Takes the file system's last byte.
fn fill(host: &Host, directory: &str) {
    host.run("sh", &["-c", "cat /dev/zero >\"$0/filler\" 2>/dev/null || true", directory]);
}

fn free(host: &Host, directory: &str) {
    host.run("rm", &[&format!("{directory}/filler")]);
}

fn held(cell: &Cell) -> Vec<String> {
    let status = eventually_some("the service tells how it is", PATIENCE, || cell.status());
    serde_json::from_value(status["service"]["held_guests"].clone()).unwrap_or_default()
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_whose_pool_is_full_is_held_and_told_and_goes_on_when_there_is_space() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    mount(&lab.cell(1), POOL, 8);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (host, name) = (cell.host(), format!("full.pool-{}", std::process::id()));
    let request = CreateGuest { memory: 32 * MIB, ..CreateGuest::blank(&name, MIB) };
    let guest = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap().id;
    let (disk, sector) = (format!("{POOL}/{guest}_sys.qcow2"), host.home().join("writer.sector"));
    std::fs::write(&sector, sector_of(include_str!("../assets/writer.lst"))).unwrap();
    host.run("qemu-io", &["-f", "qcow2", "-c", &format!("write -s {} 0 512", sector.display()), &disk]);
    fill(host, POOL);

    core.boot(&cell, guest);
    eventually("QEMU holds the guest", PATIENCE, || host.virsh(&["domstate", "--reason", &name]).contains("I/O error"));
    eventually("the service tells it", PATIENCE, || held(&cell).len() == 1);
    let told = held(&cell).remove(0);
    assert!(told.starts_with(&name) && told.contains("_sys.qcow2") && told.contains("no space"), "{told}");
    eventually("it is logged", PATIENCE, || cell.file("log/cell.log").contains("QEMU holds the guest"));
    assert!(core.running(&cell, guest).unwrap(), "for the Core it runs");
    let refused = core.wait(core.create_and_wait(&cell.name(), &CreateGuest::blank(&format!("{name}-b"), MIB), PATIENCE));
    assert!(refused.is_err(), "there is no space for another");
    assert_eq!(core.wait(core.get_guest(&cell.name(), guest)).unwrap().name, name);
    let report = cell.cli(&["doctor"]);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("domains.held") && report.contains("host.space"), "{report}");

    // A service that comes up finds it as well.
    cell.stop();
    cell.start();
    core.joined(&cell);
    eventually("the service tells it again", PATIENCE, || held(&cell).len() == 1);
    assert!(core.running(&cell, guest).unwrap());

    free(host, POOL);
    eventually("the guest goes on", RELIEF, || host.state_of(&name) == "running");
    let written = || {
        let figures = host.virsh(&["domblkstat", &name, "sda"]);
        figures.lines().find(|line| line.contains("wr_req")).unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    let before = written();
    eventually("it writes again", PATIENCE, || written() > before + 600);
    eventually("the service tells nothing any more", PATIENCE, || held(&cell).is_empty());
    core.halt(&cell, guest, StopMode::Force);
    let raw = host.home().join("content.raw");
    host.run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &disk, &raw.to_string_lossy()]);
    last_number(&std::fs::read(&raw).unwrap());
    core.remove(&cell, guest);
}

fn set_autostart(core: &TestCore, cell: &Cell, guest: GuestId, enable: bool) -> Result<Message, RequestError> {
    let request = Message::new(MessageId::MODIFY_AUTO_START_REQUEST).string(Key::Guest, guest.to_string()).bool(Key::Enable, enable);
    core.wait(core.request(&cell.name(), request))
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_full_data_directory_and_a_full_log_cost_no_answer() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let home = lab.cell(1).home();
    let (data, log) = (home.join("data").display().to_string(), home.join("log").display().to_string());
    for directory in [&data, &log] {
        mount(&lab.cell(1), directory, 2);
    }
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (host, pid) = (cell.host(), cell.pid());
    let guest = core.blank_guest(&cell, "full.data");
    core.wait(core.start_guest(&cell.name(), guest)).unwrap();
    eventually("the guest runs", PATIENCE, || core.says(&cell, guest, true));
    let instances = || cell.host().run("cat", &[&format!("{data}/instance.data")]);
    let before = instances();
    fill(host, &data);
    fill(host, &log);

    let refused = set_autostart(&core, &cell, guest, true).unwrap_err();
    assert!(matches!(&refused, RequestError::Refused { reason, .. } if reason.contains("space")), "{refused}");
    assert_eq!(instances(), before, "the former file is whole");
    for _ in 0..50 {
        assert!(core.running(&cell, guest).unwrap());
    }
    assert!(cell.cli(&["status"]).status.success());
    assert_eq!(cell.pid(), pid);

    free(host, &data);
    free(host, &log);
    set_autostart(&core, &cell, guest, true).unwrap();
    assert!(instances().contains("\"auto_start\": true"));
    let lines = || host.run("wc", &["-l", &format!("{log}/cell.log")]);
    let written = lines();
    core.halt(&cell, guest, StopMode::Force);
    eventually("the log goes on", PATIENCE, || lines() != written);
    assert_eq!(cell.pid(), pid, "it is the same process");

    // A start that can't write down anything is refused with the reason.
    cell.stop();
    fill(host, &data);
    let refused = cell.cli(&["start"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("free space on this file system"), "{refused:?}");
    free(host, &data);
    cell.start();
    core.joined(&cell);
    core.remove(&cell, guest);
    assert_eq!(cell.cli(&["doctor"]).status.code(), Some(0), "{}", String::from_utf8_lossy(&cell.cli(&["doctor"]).stdout));
}
