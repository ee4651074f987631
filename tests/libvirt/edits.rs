//! Changes of domains that are there: what is asked for, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use cell::host::{Applied, Change, DomainEdit, ErrorKind, HostEvent, Hypervisor, Storage};
use cell::model::{GuestConfig, PowerState, Secret};

use super::lab::{pool_directory, power, Lab, DISK, POOL};

fn dump(lab: &Lab, guest: &GuestConfig, flags: &[&str]) -> BTreeSet<String> {
    let id = guest.id.to_string();
    let text = lab.told(&[&["dumpxml", "--security-info"], flags, &[id.as_str()]].concat());
    // A line may come up twice; its number keeps both.
    text.lines().enumerate().map(|(number, line)| (number, line.trim().to_owned())).fold(BTreeSet::new(), |mut lines, (_, line)| {
        let count = lines.iter().filter(|other: &&String| other.split(" #").next() == Some(line.as_str())).count();
        lines.insert(if count == 0 { line } else { format!("{line} #{count}") });
        lines
    })
}

/// Lines that went and lines that came.
fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    (before.difference(after).cloned().collect(), after.difference(before).cloned().collect())
}

fn limits(values: [u64; 4]) -> DomainEdit {
    let [read_speed, write_speed, read_iops, write_iops] = values;
    DomainEdit::DiskLimits { read_speed, write_speed, read_iops, write_iops }
}

fn bandwidth(receive_speed: u64, send_speed: u64) -> DomainEdit {
    DomainEdit::NetworkLimits { receive_speed, send_speed }
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn e1_e2_a_definition_changes_in_what_was_asked_for_alone() {
    let mut lab = Lab::new().await;
    let guest = lab.defined().await;
    // Something that we know nothing of.
    let id = guest.id.to_string();
    lab.told(&["metadata", &id, "--config", "--uri", "urn:test", "--key", "t", "--set", "<note who='me'>keep &lt;this&gt;</note>"]);
    let present = dump(&lab, &guest, &["--inactive"]);
    assert!(present.iter().any(|line| line.contains("keep &lt;this&gt;")));
    for cores in [3, 66, 130, 7, 1] {
        assert_eq!(lab.libvirt.reconfigure(guest.id, &DomainEdit::Cores(cores)).await.unwrap(), Applied::Now);
        let (gone, come) = difference(&present, &dump(&lab, &guest, &["--inactive"]));
        let about = |line: &String| line.contains("<vcpu ") || line.contains("<topology ");
        assert!(gone.iter().chain(&come).all(about), "{gone:?} {come:?}");
        assert_eq!(come.iter().filter(|line| line.contains(&format!(">{cores}</vcpu>"))).count(), usize::from(cores != 1));
    }
    assert_eq!(dump(&lab, &guest, &["--inactive"]), present, "back to one core");
    let cases: [(DomainEdit, DomainEdit, &[&str]); 5] = [
        (DomainEdit::Memory(96 << 20), DomainEdit::Memory(64 << 20), &["emory unit='KiB'>98304<"]),
        (DomainEdit::Priority(2), DomainEdit::Priority(0), &["<shares>500<", "<quota>250000<"]),
        (
            limits([1 << 20, 2 << 20, 300, 400]),
            limits([0; 4]),
            &["<read_bytes_sec>1048576<", "<write_bytes_sec>2097152<", "<read_iops_sec>300<", "<write_iops_sec>400<"],
        ),
        (bandwidth(4 << 20, 0), bandwidth(0, 0), &["<inbound average='4096' peak='8192' burst='4096'/>"]),
        (
            DomainEdit::MonitorSecret(Secret::new("a'<&\">cd")),
            DomainEdit::MonitorSecret(guest.monitor_secret.clone()),
            &["passwd='a&apos;&lt;&amp;&quot;&gt;cd'"],
        ),
    ];
    for (there, back, expected) in cases {
        lab.libvirt.reconfigure(guest.id, &there).await.unwrap_or_else(|error| panic!("{there:?}: {error} {:?}", error.source));
        let (_, come) = difference(&present, &dump(&lab, &guest, &["--inactive"]));
        for line in expected {
            assert!(come.iter().any(|found| found.contains(line)), "{there:?}: {line} {come:?}");
        }
        assert!(come.len() <= expected.len() + 3, "{come:?}");
        lab.libvirt.reconfigure(guest.id, &back).await.unwrap();
        assert_eq!(dump(&lab, &guest, &["--inactive"]), present, "{back:?}");
    }
    let error = lab.libvirt.reconfigure(guest.id, &DomainEdit::Cores(256)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_running_guest_feels_a_change_and_can_be_started_again_with_it() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    let id = guest.id.to_string();
    for edit in [DomainEdit::Cores(4), DomainEdit::Memory(96 << 20)] {
        assert_eq!(lab.libvirt.reconfigure(guest.id, &edit).await.unwrap(), Applied::AtNextStart);
    }
    let live = dump(&lab, &guest, &[]);
    assert!(live.iter().any(|line| line.contains(">1</vcpu>")) && live.iter().any(|line| line.contains(">65536</memory>")));
    assert_eq!(lab.libvirt.reconfigure(guest.id, &DomainEdit::Priority(1)).await.unwrap(), Applied::Now);
    let schedule = lab.told(&["schedinfo", &id, "--live"]);
    assert!(schedule.contains("500000") && schedule.contains("1000\n"), "{schedule}");
    for values in [[1 << 20, 2 << 20, 300, 400], [0, 3 << 20, 0, 0], [0; 4]] {
        assert_eq!(lab.libvirt.reconfigure(guest.id, &limits(values)).await.unwrap(), Applied::Now);
        let told = lab.told(&["blkdeviotune", &id, "sda", "--live"]);
        for (name, value) in ["read_bytes_sec", "write_bytes_sec", "read_iops_sec", "write_iops_sec"].iter().zip(values) {
            let line = told.lines().find(|line| line.split(':').next().map(str::trim) == Some(name)).unwrap();
            assert_eq!(line.split(':').nth(1).unwrap().trim(), value.to_string(), "b4: {told}");
        }
    }
    let secret = DomainEdit::MonitorSecret(Secret::new("new~word"));
    assert_eq!(lab.libvirt.reconfigure(guest.id, &secret).await.unwrap(), Applied::Now);
    assert!(dump(&lab, &guest, &[]).iter().any(|line| line.contains("passwd='new~word'")));
    assert!(dump(&lab, &guest, &["--inactive"]).iter().any(|line| line.contains("passwd='new~word'")));
    let error = lab.libvirt.reconfigure(guest.id, &DomainEdit::Name(format!("{}.new", guest.name))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    lab.libvirt.destroy(guest.id).await.unwrap();
    lab.libvirt.start(guest.id).await.unwrap();
    let live = dump(&lab, &guest, &[]);
    assert!(live.iter().any(|line| line.contains(">4</vcpu>")) && live.iter().any(|line| line.contains(">98304</memory>")));
    assert_eq!(lab.libvirt.sample(guest.id).await.unwrap().cpus, 4, "d25: the figures follow");
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn e3_network_limits_of_a_running_guest_are_set_and_lifted_or_refused_as_a_whole() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    let id = guest.id.to_string();
    // libvirt limits with a queueing discipline that not every kernel has.
    let sfq = std::process::Command::new("tc").args(["qdisc", "add", "dev", "lo", "root", "sfq"]).output().unwrap().status.success();
    let present = dump(&lab, &guest, &["--inactive"]);
    let set = lab.libvirt.reconfigure(guest.id, &bandwidth(4 << 20, 1 << 20)).await;
    if sfq {
        assert!(std::process::Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]).status().unwrap().success());
        assert_eq!(set.unwrap(), Applied::Now);
        let interfaces = lab.told(&["domiflist", &id]);
        let device = interfaces.split_whitespace().next().unwrap();
        let tune = lab.told(&["domiftune", &id, device]);
        assert!(tune.contains("4096") && tune.contains("1024"), "{tune}");
        assert_eq!(lab.libvirt.reconfigure(guest.id, &bandwidth(0, 0)).await.unwrap(), Applied::Now);
        let tune = lab.told(&["domiftune", &id, device]);
        assert!(!tune.contains("4096") && !tune.contains("1024"), "{tune}");
    } else {
        set.unwrap_err();
    }
    assert_eq!(dump(&lab, &guest, &["--inactive"]), present);
    assert!(!dump(&lab, &guest, &[]).iter().any(|line| line.contains("bandwidth")));
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_renamed_domain_is_the_same_and_never_gone() {
    let mut lab = Lab::new().await;
    let (guest, other) = (lab.defined().await, lab.defined().await);
    lab.libvirt.set_autostart(guest.id, true).await.unwrap();
    let present = dump(&lab, &guest, &["--inactive"]);
    let error = lab.libvirt.reconfigure(guest.id, &DomainEdit::Name(other.name.clone())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists, "{error}");
    let name = format!("{}.new", guest.name);
    for _ in 0..2 {
        assert_eq!(lab.libvirt.reconfigure(guest.id, &DomainEdit::Name(name.clone())).await.unwrap(), Applied::Now);
    }
    let status = lab.libvirt.domain(guest.id).await.unwrap();
    assert_eq!((status.name.as_str(), status.autostart, status.power), (name.as_str(), true, PowerState::Stopped));
    let (gone, come) = difference(&present, &dump(&lab, &guest, &["--inactive"]));
    assert_eq!((gone, come), (vec![format!("<name>{}</name>", guest.name)], vec![format!("<name>{name}</name>")]));
    lab.libvirt.start(guest.id).await.unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&power(guest.id, PowerState::Running)) {
        told.push(tokio::time::timeout(Duration::from_secs(30), lab.events.recv()).await.unwrap().unwrap());
    }
    assert!(!told.contains(&HostEvent::Undefined(guest.id)), "{told:?}");
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn a_guest_without_an_agent_is_told_as_such() {
    let mut lab = Lab::new().await;
    let guest = lab.running().await;
    let error = lab.libvirt.agent(guest.id, "{\"execute\":\"guest-ping\"}", Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}: {:?}", error.source);
    lab.clean().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn d23_media_are_in_the_drive_of_what_runs_and_never_in_the_definition() {
    let mut lab = Lab::new().await;
    let guest = lab.defined().await;
    let present = dump(&lab, &guest, &["--inactive"]);
    let directory = pool_directory().join(".media");
    std::fs::create_dir_all(&directory).unwrap();
    let image = directory.join("cd.iso");
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let file = image.to_str().unwrap();
    assert_eq!(lab.libvirt.media(guest.id).await.unwrap_err().kind, ErrorKind::Busy);
    lab.libvirt.start_with_media(guest.id, "/nonexistent.iso").await.unwrap_err();
    assert_eq!(lab.libvirt.domain(guest.id).await.unwrap().power, PowerState::Stopped);
    assert_eq!(dump(&lab, &guest, &["--inactive"]), present, "a failed start leaves nothing");

    assert_eq!(lab.libvirt.start_with_media(guest.id, file).await.unwrap(), Change::Changed);
    assert_eq!(lab.libvirt.start_with_media(guest.id, file).await.unwrap(), Change::Unchanged);
    assert_eq!(lab.libvirt.media(guest.id).await.unwrap().as_deref(), Some(file));
    assert_eq!(dump(&lab, &guest, &["--inactive"]), present);
    lab.libvirt.reset(guest.id).await.unwrap();
    assert_eq!(lab.libvirt.media(guest.id).await.unwrap().as_deref(), Some(file));
    assert_eq!(lab.libvirt.set_media(guest.id, None).await.unwrap(), Change::Changed);
    assert_eq!(lab.libvirt.media(guest.id).await.unwrap(), None);
    for expected in [Change::Changed, Change::Unchanged] {
        assert_eq!(lab.libvirt.set_media(guest.id, Some(file)).await.unwrap(), expected);
    }
    assert!(lab.libvirt.set_media(guest.id, Some("/nonexistent.iso")).await.is_err());
    // A change of the definition meanwhile does not carry the medium into it.
    lab.libvirt.reconfigure(guest.id, &DomainEdit::Priority(2)).await.unwrap();
    lab.libvirt.reconfigure(guest.id, &DomainEdit::Priority(0)).await.unwrap();
    lab.libvirt.destroy(guest.id).await.unwrap();
    assert_eq!(dump(&lab, &guest, &["--inactive"]), present);
    lab.libvirt.start(guest.id).await.unwrap();
    assert_eq!(lab.libvirt.media(guest.id).await.unwrap(), None, "the next run begins with an empty drive");
    std::fs::remove_dir_all(directory).unwrap();
    lab.clean().await;
}

/// A guest that never flushes: what it wrote is in its QEMU's memory, and would go with it.
#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn what_qemu_holds_back_is_on_the_disk_after_a_flush() {
    let mut lab = Lab::new().await;
    for bus in ["scsi", "sata", "ide"] {
        let mut guest = lab.guest();
        guest.template.disk = bus.into();
        lab.libvirt.create_volume(POOL, &guest.storage_volumes[0], DISK).await.unwrap();
        lab.libvirt.define(&guest).await.unwrap();
        let file = pool_directory().join(&guest.storage_volumes[0]);
        let path = file.to_str().unwrap();
        // One whose tables have to be written.
        let made = std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", path, &DISK.to_string()]).status();
        assert!(made.unwrap().success());
        assert_eq!(lab.libvirt.flush_disk(guest.id, path).await.unwrap_err().kind, ErrorKind::Busy);
        lab.libvirt.start(guest.id).await.unwrap();
        let nodes: serde_json::Value =
            serde_json::from_str(&lab.told(&["qemu-monitor-command", &guest.name, "{\"execute\":\"query-block\"}"])).unwrap();
        let mut devices = nodes["return"].as_array().unwrap().iter();
        let device = devices.find(|device| device["inserted"]["file"] == path).unwrap()["qdev"].as_str().unwrap();
        let write = format!("qemu-io -d {device} \"write -P 7 0 64k\"");
        assert_eq!(lab.told(&["qemu-monitor-command", "--hmp", &guest.name, &write]).trim(), "");
        assert!(!is_written(path), "{bus}: it is there without a flush, which then proves nothing");
        lab.libvirt.flush_disk(guest.id, path).await.unwrap();
        assert!(is_written(path), "{bus}");
        assert_eq!(lab.libvirt.flush_disk(guest.id, "/nonexistent.qcow2").await.unwrap_err().kind, ErrorKind::NotFound);
    }
    lab.clean().await;
}

/// Whether somebody else who opens the image finds anything in it.
fn is_written(image: &str) -> bool {
    let output = std::process::Command::new("qemu-img").args(["map", "-U", "--output=json", "-f", "qcow2", image]).output().unwrap();
    let map: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    map.as_array().unwrap().iter().any(|extent| extent["data"] == true)
}
