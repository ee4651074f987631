//! A whole Debian that boots, with the cloud-init and the guest agent of its packages, and takes what it was created with.

use std::time::Duration;

use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode, TemplateNumbers};
use corelet::Event;

use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

/// Longest wait for a whole system to boot under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(900);
const PASSWORD: &str = "pässw0rd: 12:30 #\"x\"";

/// Whether a hash `$6$salt$…` is the password's.
fn is_hash_of(hash: &str, password: &str) -> bool {
    let salt = hash.split('$').nth(2).unwrap_or_default();
    let rounds = sha_crypt::Sha512Params::new(sha_crypt::ROUNDS_DEFAULT).unwrap();
    let digest = sha_crypt::sha512_crypt_b64(password.as_bytes(), salt.as_bytes(), &rounds).unwrap();
    hash == format!("$6${salt}${digest}")
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_debian_guest_takes_its_cloud_configuration_and_answers_through_its_agent() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell, PATIENCE);
    let request = CreateGuest {
        memory: 768 << 20,
        disks: vec![2 << 30, 64 << 20, 64 << 20],
        template: TemplateNumbers { disk: 0, network: 0, ..TemplateNumbers::default() },
        modules: vec!["qemu".into(), "cloud-init".into()],
        addresses: ["10.226.0.50/24".into(), String::new()],
        admin: "nano".into(),
        secret: PASSWORD.into(),
        data_path: "/srv/my data".into(),
        root_login: true,
        ..CreateGuest::blank(&format!("net.debian-{}", std::process::id()), 2 << 30)
    };
    let name = cell.name();
    let guest = core.wait(core.create_and_wait(&name, &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id;
    cell.host().debian_disk(&format!("/var/lib/libvirt/images/local0/{guest}_sys.qcow2"));
    let mut events = core.events();
    core.wait(core.start_guest(&name, guest)).unwrap();
    let reports = |count| {
        let what = format!("report {count} of the guest");
        eventually(&what, BOOT, || cell.serial(guest).matches("report: end").count() >= count);
        let said = cell.serial(guest);
        let report = said.split("report: status").nth(count).unwrap().to_owned();
        eprintln!("report: status{report}");
        report
    };
    let report = reports(1);
    let says = |line: &str| assert!(report.contains(line), "{line:?} is not in {report}");
    core.wait(events.wait(PATIENCE, |event| matches!(event, Event::GuestAddress { address, .. } if address == "10.226.0.50"))).unwrap();
    says(" status: done");
    says(&format!("report: hostname debian-{}", std::process::id()));
    says("report: address 10.226.0.50/24");
    says("report: router 10.226.0.1");
    says("report: mount /dev/mapper/nano-data /srv/my\\x20data ext4");
    says("report: fstab 1");
    says("permitrootlogin yes");
    says("passwordauthentication yes");
    assert!(!report.contains("complaint"), "cloud-init complains: {report}");
    let root = report.split("report: root ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(root.parse::<u64>().unwrap() > 1700, "the root did not grow: {root} MiB");
    let account = report.lines().find(|line| line.contains("report: account nano ")).unwrap();
    assert!(account.contains(" sudo") && account.contains("shell /bin/bash"), "{account}");
    let hash = account.split(' ').find(|word| word.starts_with("$6$")).unwrap();
    assert!(is_hash_of(hash, PASSWORD), "{hash}");
    assert!(!is_hash_of(hash, "something else"));

    // the agent: another password
    let change = Message::new(MessageId::MODIFY_AUTH_REQUEST)
        .string(Key::Guest, guest.to_string())
        .string(Key::User, "nano")
        .string(Key::Secret, "another one");
    let answer = core.wait(core.exchange(&name, change)).unwrap();
    assert!(answer.success, "{}", answer.error);

    // the next boot keeps everything and formats nothing
    core.wait(core.stop_guest(&name, guest, StopMode::Reboot)).unwrap();
    let report = reports(2);
    assert!(report.contains("report: mount /dev/mapper/nano-data /srv/my\\x20data ext4"), "{report}");
    let hash = report.split_whitespace().find(|word| word.starts_with("$6$")).unwrap();
    assert!(!is_hash_of(hash, PASSWORD), "the agent's password did not outlive the boot");
}
