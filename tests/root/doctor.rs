//! `cell doctor` on a real host: ready before the first start, clean beside the service, and drifts made with other tools found and repaired.

use corelet::requests::StopMode;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use crate::lab::{Cell, Lab, TestCore};
use crate::takeover::{fixture, rebuild};

const POOL: &str = "/var/lib/libvirt/images/local0";

/// Exit status and report of `cell doctor`.
fn look(cell: &Cell, options: &[&str]) -> (i32, Value) {
    let output = cell.cli(&[&["doctor", "--json"], options].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn codes(report: &Value) -> BTreeSet<String> {
    let found = report["findings"].as_array().unwrap().iter().filter(|finding| finding["weight"] == "drift");
    found.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

fn set(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

fn assert_clean((status, report): &(i32, Value)) {
    assert_eq!((*status, report["result"].as_str()), (0, Some("clean")), "{report:#}");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn drifts_made_with_other_tools_are_found_and_repaired_while_guests_run() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::install(lab.cell(1), "nano");
    assert_clean(&look(&cell, &[]));
    cell.start();
    core.joined(&cell);
    let (running, lost, other) =
        (core.bootable_guest(&cell, "doctor.running"), core.bootable_guest(&cell, "doctor.lost"), core.blank_guest(&cell, "doctor.other"));
    core.boot(&cell, running);
    assert_clean(&look(&cell, &[]));
    let refused = cell.cli(&["doctor", "--repair"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cell stop"), "{refused:?}");

    cell.stop();
    assert_clean(&look(&cell, &[]));
    let (host, home) = (cell.host(), cell.host().home());
    let name = |guest| host.virsh(&["domname", &format!("{guest}")]).trim().to_owned();
    let (running_name, lost_name, other_name) = (name(running), name(lost), name(other));
    let qemu = host.qemu_pid(&running_name);
    host.virsh(&["undefine", &lost_name]);
    host.virsh(&["autostart", &other_name]);
    host.virsh(&["setmaxmem", &other_name, "65536", "--config"]);
    host.virsh(&["pool-autostart", "local0", "--disable"]);
    let stray = "0b5a7c7e-6f5d-4d6a-9f43-0c6a5c1d2e3f";
    for (guest, content) in [(stray.to_owned(), ""), (other.to_string(), "<rule action='accept' direction='inout' priority='0'/>")] {
        let file = home.join("filter.xml");
        std::fs::write(&file, format!("<filter name='nano-nwfilter-{guest}' chain='root'><uuid>{guest}</uuid>{content}</filter>")).unwrap();
        host.virsh(&["nwfilter-define", file.to_str().unwrap()]);
    }
    let create = |name: &str| drop(host.run("qemu-img", &["create", "-q", "-f", "qcow2", &format!("{POOL}/{name}"), "1M"]));
    create("stranger.qcow2");
    create(&format!("{other}_sys.qcow2.new"));
    create(&format!(".{other}_sys.qcow2.part"));
    host.run("qemu-img", &["resize", "-q", "-f", "qcow2", &format!("{POOL}/{other}_sys.qcow2"), "2M"]);
    host.run("chmod", &["0644", home.join("data/instance.data").to_str().unwrap()]);
    let network = cell.file("data/network.data");
    let mut book: Value = serde_json::from_str(&network).unwrap();
    book["resources"].as_object_mut().unwrap().remove(&other.to_string());
    std::fs::write(home.join("data/network.data"), book.to_string()).unwrap();
    host.run("ip", &["route", "del", "default"]);

    let by_hand = ["host.default-route", "disks.unknown"];
    let repairable = [
        "data.mode",
        "books.assignment",
        "pools.autostart",
        "disks.unfinished",
        "disks.size",
        "domains.missing",
        "domains.autostart",
        "domains.memory",
        "filters.different",
        "filters.stray",
    ];
    let (status, report) = look(&cell, &[]);
    assert_eq!((status, codes(&report)), (1, set(&[&by_hand[..], &repairable[..]].concat())), "{report:#}");
    let (status, report) = look(&cell, &["--repair"]);
    let repairs = report["repairs"].as_array().unwrap();
    assert!(repairs.len() > repairable.len() && repairs.iter().all(|repair| repair["failure"].is_null()), "{report:#}");
    assert_eq!((status, codes(&report)), (1, set(&by_hand)), "{report:#}");
    let (status, report) = look(&cell, &["--repair"]);
    assert_eq!((status, codes(&report), report["repairs"].as_array().unwrap().len()), (1, set(&by_hand), 0), "{report:#}");

    let files = host.run("ls", &["-A", POOL]);
    assert!(files.contains("stranger.qcow2") && !files.contains(".new") && !files.contains(".part"), "{files}");
    assert!(!host.virsh(&["nwfilter-list"]).contains(stray));
    assert_eq!(host.qemu_pid(&running_name), qemu, "the running guest was left alone");
    host.run("rm", &[&format!("{POOL}/stranger.qcow2")]);
    host.run("ip", &["route", "add", "default", "via", crate::lab::CORE_ADDRESS]);
    assert_clean(&look(&cell, &[]));

    cell.start();
    core.joined(&cell);
    assert_clean(&look(&cell, &[]));
    core.boot(&cell, lost);
    assert_eq!(core.wait(core.get_status(&cell.name(), other)).unwrap().disks, [2 << 20]);
    let host = cell.host();
    let definition = host.virsh(&["dumpxml", "--inactive", "--security-info", &other_name]);
    let open: String = definition.lines().filter(|line| !line.contains("<filterref")).map(|line| format!("{line}\n")).collect();
    assert_ne!(open, definition, "it had a filter");
    let file = host.home().join("open.xml");
    std::fs::write(&file, open).unwrap();
    host.virsh(&["define", file.to_str().unwrap()]);
    let (status, report) = look(&cell, &[]);
    assert_eq!((status, codes(&report)), (1, set(&["domains.unfiltered"])), "{report:#}");
    core.halt(&cell, lost, StopMode::Force);
    core.halt(&cell, running, StopMode::Force);
    for guest in [running, lost, other] {
        core.remove(&cell, guest);
    }
    assert_clean(&look(&cell, &[]));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_host_of_a_reference_cell_is_understood_before_and_after_it_is_taken_over() {
    let lab = Lab::up(1);
    let host = lab.cell(1);
    host.run("ip", &["link", "set", "br0", "address", "46:cb:03:aa:47:c4"]);
    rebuild(&host);
    let core = TestCore::start(&lab);
    let cell = Cell::install(host, "nano");
    let data = cell.host().home().join("data");
    std::fs::create_dir_all(&data).unwrap();
    for name in ["instance.data", "storage.data", "network.data"] {
        std::fs::copy(fixture("data").join(name), data.join(name)).unwrap();
        std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Its filters let a guest send as anybody; everything else is as this program would have it.
    let (status, report) = look(&cell, &[]);
    assert_eq!((status, codes(&report)), (1, set(&["filters.different"])), "{report:#}");
    cell.start();
    core.joined(&cell);
    let (status, report) = look(&cell, &[]);
    assert_eq!((status, codes(&report)), (1, set(&["filters.different"])), "{report:#}");
    cell.stop();
    let (status, report) = look(&cell, &["--repair"]);
    assert_eq!((status, report["repairs"].as_array().unwrap().len()), (0, 5), "{report:#}");
}
