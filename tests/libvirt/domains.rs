//! Domains and filters: definition, life, events, figures.

use cell::host::{Change, ErrorKind, HostEvent, Hypervisor, Storage};
use cell::model::{PowerState, Protocol, Rule, SecurityPolicy};

use super::lab::{pool_directory, power, wait_for, Lab, DISK, PATIENCE, POOL};

/// Prints a line on the serial port and halts.
fn boot_sector(line: &str) -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xC0, 0x8E, 0xD8, // xor ax, ax; mov ds, ax
        0xBE, 0x20, 0x7C, // mov si, text
        0xAC, 0x84, 0xC0, 0x74, 0x11, // next: lodsb; test al, al; jz halt
        0x88, 0xC3, 0xBA, 0xFD, 0x03, // mov bl, al; mov dx, line status
        0xEC, 0xA8, 0x20, 0x74, 0xFB, // wait: in al, dx; test al, empty; jz wait
        0x88, 0xD8, 0xB2, 0xF8, 0xEE, // mov al, bl; mov dl, data; out dx, al
        0xEB, 0xEA, // jmp next
        0xF4, 0xEB, 0xFD, // halt: hlt; jmp halt
    ];
    sector.extend(line.bytes().chain([0]));
    sector.resize(510, 0);
    sector.extend([0x55, 0xAA]);
    sector
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_guest_is_defined_boots_and_goes_without_a_trace() {
    let mut lab = Lab::new().await;
    let guest = lab.defined().await;
    lab.expect(|event| *event == HostEvent::Defined(guest.id)).await;
    let sector = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(sector.path(), boot_sector("here is the guest\r\n")).unwrap();
    let write = format!("write -s {} 0 512", sector.path().display());
    let disk = pool_directory().join(&guest.storage_volumes[0]);
    assert!(std::process::Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(&disk).status().unwrap().success());

    assert_eq!(lab.libvirt.start(guest.id).await.unwrap(), Change::Changed);
    lab.expect(|event| *event == power(guest.id, PowerState::Running)).await;
    let log = lab.logs.path().join(format!("{}.log", guest.id));
    wait_for(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains("here is the guest"))).await;
    assert_eq!(lab.libvirt.start(guest.id).await.unwrap(), Change::Unchanged);
    assert_eq!(lab.libvirt.undefine(guest.id).await.unwrap_err().kind, ErrorKind::Busy);
    lab.libvirt.shutdown(guest.id).await.unwrap();
    lab.libvirt.reboot(guest.id).await.unwrap();
    lab.libvirt.reset(guest.id).await.unwrap();

    assert_eq!(lab.libvirt.destroy(guest.id).await.unwrap(), Change::Changed);
    lab.expect(|event| *event == power(guest.id, PowerState::Stopped)).await;
    assert_eq!(lab.libvirt.destroy(guest.id).await.unwrap(), Change::Unchanged);
    assert_eq!(lab.libvirt.shutdown(guest.id).await.unwrap_err().kind, ErrorKind::Busy);
    assert_eq!(lab.libvirt.undefine(guest.id).await.unwrap(), Change::Changed);
    lab.expect(|event| *event == HostEvent::Undefined(guest.id)).await;
    assert_eq!(lab.libvirt.undefine(guest.id).await.unwrap(), Change::Unchanged);
    assert!(!log.exists());
    assert_eq!(lab.libvirt.start(guest.id).await.unwrap_err().kind, ErrorKind::NotFound);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn what_happens_behind_our_back_is_told() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    lab.told(&["destroy", &guest.name]);
    lab.expect(|event| *event == power(guest.id, PowerState::Stopped)).await;
    lab.told(&["start", &guest.name]);
    lab.expect(|event| *event == power(guest.id, PowerState::Running)).await;
    lab.told(&["suspend", &guest.name]);
    lab.told(&["autostart", &guest.name]);
    let status = lab.libvirt.domain(guest.id).await.unwrap();
    assert_eq!((status.power, status.autostart, status.name.as_str()), (PowerState::Running, true, guest.name.as_str()));
    let listed = lab.libvirt.domains().await.unwrap();
    assert!(listed.contains(&status));
    assert_eq!(lab.libvirt.set_autostart(guest.id, true).await.unwrap(), Change::Unchanged);
    assert_eq!(lab.libvirt.set_autostart(guest.id, false).await.unwrap(), Change::Changed);
    assert!(!lab.libvirt.domain(guest.id).await.unwrap().autostart);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn the_figures_of_a_guest_are_true() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    let first = lab.libvirt.sample(guest.id).await.unwrap();
    assert_eq!(first.cpus, 1);
    assert!(first.memory_available > 0 && first.memory_available <= guest.memory, "{first:?}");
    // A blank disk may grow by nearly all of its size.
    assert!(first.disk_available > DISK - (4 << 20) && first.disk_available <= DISK, "{first:?}");
    // The firmware looks for something to boot.
    let begun = std::time::Instant::now();
    loop {
        let later = lab.libvirt.sample(guest.id).await.unwrap();
        if later.cpu_time_ns > first.cpu_time_ns && later.disk_read > 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{later:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    lab.libvirt.destroy(guest.id).await.unwrap();
    assert_eq!(lab.libvirt.sample(guest.id).await.unwrap_err().kind, ErrorKind::Busy);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_refused_definition_leaves_nothing_and_a_filter_as_it_was() {
    let mut lab = Lab::new().await;
    let first = lab.defined().await;
    let mut second = lab.guest();
    second.name.clone_from(&first.name);
    let error = lab.libvirt.define(&second).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists, "{error}: {:?}", error.source);
    assert!(!lab.told(&["nwfilter-list"]).contains(&second.id.to_string()));

    // The same for a guest that exists: its rules stay.
    let before = lab.told(&["nwfilter-dumpxml", &format!("nano-nwfilter-{}", first.id)]);
    let mut changed = first.clone();
    // libvirt takes no such name, and finds out after the filter was replaced.
    changed.name = "a/b".into();
    changed.security = Some(SecurityPolicy::default());
    let error = lab.libvirt.define(&changed).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}: {:?}", error.source);
    assert_eq!(lab.told(&["nwfilter-dumpxml", &format!("nano-nwfilter-{}", first.id)]), before);
    let told = format!("{error} {:?}", error.source);
    assert!(!told.contains(first.monitor_secret.reveal()), "{told}");
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn rules_are_changed_while_the_guest_runs_and_only_when_they_differ() {
    let mut lab = Lab::new().await;
    let mut guest = lab.running().await;
    let rule = |protocol, port, address: &str| Rule {
        accept: true,
        protocol,
        source_address: address.into(),
        target_address: if address.is_empty() { String::new() } else { "10.9.9.9".into() },
        target_port: port,
        interface: 0,
    };
    let rules =
        vec![rule(Protocol::Tcp, 22, "10.1.2.3"), rule(Protocol::Icmp, 9, ""), rule(Protocol::Udp, 7, ""), rule(Protocol::Tcp, 0, "")];
    assert_eq!(lab.libvirt.update_filter(&guest).await.unwrap(), Change::Unchanged);
    for accept in [false, true] {
        let mut rules = rules.clone();
        rules[1].accept = false;
        guest.security = Some(SecurityPolicy { accept, rules });
        guest.internal_address = "10.9.9.9/24".into();
        assert_eq!(lab.libvirt.update_filter(&guest).await.unwrap(), Change::Changed);
        // libvirt gives back what it was given, or each start would change the filter.
        assert_eq!(lab.libvirt.update_filter(&guest).await.unwrap(), Change::Unchanged);
        let rules = lab.told(&["nwfilter-dumpxml", &format!("nano-nwfilter-{}", guest.id)]);
        assert!(rules.contains("dstportstart='22'") && rules.contains("<icmp/>") && !rules.contains("dstportstart='9'"), "{rules}");
    }
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn every_core_count_and_template_is_taken_by_libvirt() {
    let mut lab = Lab::new().await;
    let mut guest = lab.guest();
    lab.libvirt.create_volume(POOL, &guest.storage_volumes[0], DISK).await.unwrap();
    for cores in [1, 2, 3, 5, 7, 33, 62, 66, 68, 130, 254, 255] {
        guest.cores = cores;
        lab.libvirt.define(&guest).await.unwrap_or_else(|error| panic!("{cores} cores: {error} {:?}", error.source));
    }
    guest.cores = 256;
    assert_eq!(lab.libvirt.define(&guest).await.unwrap_err().kind, ErrorKind::Invalid);
    guest.cores = 2;
    for (disk, network, display, usb, tablet) in [
        ("scsi", "virtio", "vga", "", "usb"),
        ("sata", "e1000", "cirrus", "nec-xhci", "virtio"),
        ("ide", "rtl8139", "none", "", ""),
        ("ide", "e1000", "virtio", "nec-xhci", "usb"),
    ] {
        let template = serde_json::json!({"operating_system": "linux", "disk": disk, "network": network, "display": display, "control": "vnc",
            "usb": usb, "tablet": tablet});
        guest.template = serde_json::from_value(template).unwrap();
        guest.storage_volumes = (0..3).map(|index| format!("{}_{index}.qcow2", guest.id)).collect();
        (guest.read_speed, guest.write_iops) = (10 << 20, 300);
        lab.libvirt.define(&guest).await.unwrap_or_else(|error| panic!("{disk} {network} {display}: {error} {:?}", error.source));
    }
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_domain_of_ours_is_what_the_reference_made_of_the_same_guest() {
    let mut lab = Lab::new().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1");
    let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(format!("{folder}/data/instance.data")).unwrap()).unwrap();
    for guest in file["instances"].as_array().unwrap() {
        let mut guest: cell::model::GuestConfig = serde_json::from_value(guest.clone()).unwrap();
        let theirs = std::fs::read_to_string(format!("{folder}/domains/{}.xml", guest.id)).unwrap();
        // Names of this test, for others may be there.
        let id = lab.guest().id;
        let theirs = theirs.replace(&guest.id.to_string(), &id.to_string());
        guest.storage_volumes.iter_mut().for_each(|volume| *volume = volume.replace(&guest.id.to_string(), &id.to_string()));
        guest.boot_image = guest.boot_image.replace(&guest.id.to_string(), &id.to_string());
        guest.id = id;
        lab.libvirt.define(&guest).await.unwrap();
        let ours = lab.told(&["dumpxml", "--inactive", "--security-info", &guest.id.to_string()]);
        assert_eq!(without_console(&ours), theirs_here(&theirs), "{}", guest.name);
    }
    lab.clean().await;
}

/// The lines of our domain, without the console that the reference does not have and the places on the PCI bus, which libvirt chooses.
fn without_console(document: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut within = None;
    for line in document.lines().map(str::trim) {
        match within {
            None if line.starts_with("<serial") => within = Some("</serial>"),
            None if line.starts_with("<console") => within = Some("</console>"),
            Some(end) if line == end => within = None,
            Some(_) => {}
            None if line.starts_with("<address type='pci'") || line.is_empty() => {}
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

/// The captured domain as this host, without KVM, shows it.
fn theirs_here(document: &str) -> Vec<String> {
    without_console(&document.replace("<domain type='kvm'>", "<domain type='qemu'>"))
}
