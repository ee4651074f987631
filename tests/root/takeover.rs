//! The captured host of a reference Cell 1.4.1 (`tests/vectors/takeover/`), rebuilt with a real libvirt: our program in its place, and back.

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::StopMode;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::lab::{eventually, Cell, Host, Lab, TestCore, PATIENCE};

#[path = "../takeover/reference.rs"]
mod reference;

const WEB: &str = "99bb8d3d-8561-40bd-87e0-ae0d2d24055e";
const DB: &str = "c7637500-4bb0-4fdd-90ff-207feebd1da0";
const CLOUD: &str = "06d74573-575d-4029-be80-203e97b9344f";
const OLD: &str = "2cbd87a1-c585-4797-876d-4fc821fd85f3";
const WIN: &str = "4531a577-67ed-4c0e-8bbb-f228f798a174";
const NAMES: [&str; 5] = ["manager.cloud", "manager.db", "manager.old", "manager.web", "manager.win"];

const POOL: &str = "/var/lib/libvirt/images/local0";

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/takeover/reference-1.4.1").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

fn id(text: &str) -> GuestId {
    text.parse().unwrap()
}

/// Gives XML to a virsh command that takes a file.
fn define(host: &Host, command: &str, xml: &str) {
    let file = host.home().join("definition.xml");
    std::fs::write(&file, xml).unwrap();
    host.virsh(&[command, file.to_str().unwrap()]);
}

/// The pool with its images, the filters, the domains, as they were; `win` runs. What belongs to the captured machine and not to the reference is this
/// machine's: kind of virtualization, machine version, CPU, path of QEMU.
pub(crate) fn rebuild(host: &Host) {
    std::fs::create_dir_all(host.home()).unwrap();
    define(host, "pool-define", &read("pools/local0.xml"));
    host.virsh(&["pool-build", "local0"]);
    host.virsh(&["pool-start", "local0"]);
    host.virsh(&["pool-autostart", "local0"]);
    for image in read("volumes.txt").split("== ").filter_map(|part| part.split_once('\n')) {
        let image: Value = serde_json::from_str(image.1).unwrap();
        let (path, size) = (format!("{POOL}/{}", image["filename"].as_str().unwrap()), image["virtual-size"].to_string());
        let mut arguments = vec!["create", "-q", "-f", "qcow2"];
        if let Some(backing) = image["backing-filename"].as_str() {
            arguments.extend(["-u", "-F", "qcow2", "-b", backing]); // the file that it names may come later
        }
        host.run("qemu-img", &[&arguments[..], &[&path, &size]].concat());
    }
    host.run("qemu-img", &["create", "-q", "-f", "raw", &format!("{POOL}/{CLOUD}_ci.iso"), "1M"]);
    host.virsh(&["pool-refresh", "local0"]);
    for filter in [WEB, DB, CLOUD, OLD, WIN] {
        define(host, "nwfilter-define", &read(&format!("nwfilters/nano-nwfilter-{filter}.xml")));
    }
    let emulator = host.run("sh", &["-c", "command -v qemu-system-x86_64 || command -v qemu-kvm || echo /usr/libexec/qemu-kvm"]);
    for domain in [WEB, DB, CLOUD, OLD, WIN] {
        let xml = read(&format!("domains/{domain}.xml"));
        assert!(xml.contains("type='kvm'") && xml.contains("pc-i440fx-7.2"));
        let xml = xml.replace("type='kvm'", "type='qemu'").replace("pc-i440fx-7.2", "pc");
        define(host, "define", &xml.replace("/usr/bin/qemu-system-x86_64", emulator.trim()));
    }
    host.virsh(&["autostart", "manager.web"]);
    host.virsh(&["start", "manager.win"]);
}

fn data(cell: &Cell) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &str| (name.to_owned(), std::fs::read(cell.home().join("data").join(name)).unwrap());
    ["instance.data", "storage.data", "network.data"].map(read).into_iter().collect()
}

/// What we leave is something that the reference can start on.
fn assert_sound(cell: &Cell, when: &str) {
    let domains: BTreeSet<String> = cell.host().virsh(&["list", "--all", "--uuid"]).split_whitespace().map(str::to_owned).collect();
    reference::check(&data(cell), &domains).unwrap_or_else(|violations| panic!("{when}: {violations:#?}"));
    let missing = domains.iter().filter(|id| !cell.host().virsh(&["nwfilter-list"]).contains(&format!("nano-nwfilter-{id}")));
    assert_eq!(missing.count(), 0, "{when}: a domain without its filter");
}

fn backing(host: &Host, image: &str) -> String {
    let info = host.run("qemu-img", &["info", "-U", "--output=json", &format!("{POOL}/{image}")]);
    let info: Value = serde_json::from_str(&info).unwrap();
    info["full-backing-filename"].as_str().unwrap_or_default().trim_start_matches(POOL).trim_start_matches('/').to_owned()
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_host_of_a_reference_cell_is_taken_over_with_nothing_restarted() {
    let lab = Lab::up(1);
    let host = lab.cell(1);
    // The name in the Core's books comes from here.
    host.run("ip", &["link", "set", "br0", "address", "46:cb:03:aa:47:c4"]);
    rebuild(&host);
    let qemu = host.qemu_pid("manager.win");
    let definitions = |host: &Host| NAMES.map(|name| host.virsh(&["dumpxml", "--inactive", "--security-info", name]));
    let defined = definitions(&host);
    let core = TestCore::start(&lab);
    let cell = Cell::install(host, "other");
    // Its own, but for the time that a slow machine may need.
    let settings = std::fs::read_to_string(fixture("config/domain.cfg")).unwrap();
    assert!(settings.contains("\"timeout\":10"), "{settings}");
    std::fs::write(cell.home().join("config/domain.cfg"), settings.replace("\"timeout\":10", "\"timeout\":30")).unwrap();
    std::fs::create_dir_all(cell.home().join("data")).unwrap();
    for name in ["instance.data", "storage.data", "network.data"] {
        std::fs::copy(fixture("data").join(name), cell.home().join("data").join(name)).unwrap();
    }
    cell.start();
    core.joined(&cell);

    let (name, host) = (cell.name(), cell.host());
    assert_eq!(name, "Cell_46cb03aa47c4");
    let known = core.cell(&name).unwrap().guests;
    let mut names: Vec<&str> = known.values().map(|guest| guest.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, NAMES);
    for guest in known.values() {
        assert_eq!(guest.running, guest.id == id(WIN), "{}", guest.name);
    }
    assert_eq!(host.qemu_pid("manager.win"), qemu, "win was restarted");
    assert_eq!(definitions(host), defined, "a domain was redefined");
    assert_sound(&cell, "taken over");

    // the legacy hardware starts, and its firmware reads the disk
    core.wait(core.start_guest(&name, id(OLD))).unwrap();
    eventually("old reads its disk", PATIENCE, || {
        let figures = host.virsh(&["domblkstat", "manager.old", "hdc"]);
        figures.lines().any(|line| line.contains("rd_req") && !line.trim_end().ends_with(" 0"))
    });
    assert!(host.virsh(&["dumpxml", "manager.old"]).contains("dev='hdc' bus='ide'"));
    core.halt(&cell, id(OLD), StopMode::Force);

    // snapshots: the tree goes on where the reference left it
    let snapshot = |request: MessageId, name: &str| {
        let message = Message::new(request).string(Key::Instance, DB).string(Key::Name, name).string(Key::Description, "");
        core.wait(core.request(&cell.name(), message)).unwrap_or_else(|error| panic!("{request} {name}: {error}"));
    };
    snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, "s3");
    assert_eq!(backing(host, &format!("{DB}_sys.qcow2")), format!("{DB}_s3_sys.qcow2"));
    snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, "s5");
    snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "s4");
    snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "s3");
    assert_eq!(backing(host, &format!("{DB}_s5_sys.qcow2")), format!("{DB}_s2_sys.qcow2"));
    assert_sound(&cell, "after snapshots");

    // the guest that ran is stopped and started, another gets more processors and starts with them, one is deleted
    core.halt(&cell, id(WIN), StopMode::Force);
    core.wait(core.start_guest(&name, id(WIN))).unwrap();
    let cores = Message::new(MessageId::MODIFY_CORE_REQUEST).string(Key::Guest, DB).uint(Key::Core, 2);
    core.wait(core.request(&name, cores)).unwrap();
    core.wait(core.start_guest(&name, id(DB))).unwrap();
    assert!(host.virsh(&["dumpxml", "--security-info", "manager.db"]).contains("passwd='zg)Auw6z'"), "the VNC password is kept");
    core.halt(&cell, id(DB), StopMode::Force);
    core.remove(&cell, id(WEB));
    let left = host.run("ls", &[POOL]);
    assert!(!left.contains(WEB), "{left}");
    assert_sound(&cell, "after work");

    // a snapshot of the running guest gives its disk another volume, which libvirt has to know once we are gone
    let live = Message::new(MessageId::CREATE_SNAPSHOT_REQUEST).string(Key::Instance, WIN).string(Key::Name, "live");
    core.wait(core.request(&name, live.string(Key::Description, ""))).unwrap();
    assert_sound(&cell, "after a live snapshot");

    // handed back: an orderly stop leaves the guest running and the books whole
    let qemu = host.qemu_pid("manager.win");
    cell.stop();
    assert_eq!(host.qemu_pid("manager.win"), qemu);
    assert_sound(&cell, "handed back");
    for command in ["destroy", "start"] {
        host.virsh(&[command, "manager.win"]);
    }
    assert!(read("data/instance.data").contains(WEB) && !cell.file("data/instance.data").contains(WEB));
}
