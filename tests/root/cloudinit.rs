//! A whole Debian that boots, with the cloud-init and the guest agent of its packages, and takes what it was created with.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode, TemplateNumbers};
use corelet::Event;

use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

/// Longest wait for a whole system to boot under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(900);
const PASSWORD: &str = "pässw0rd: 12:30 #\"x\"";

/// Whether a hash `$6$salt$…` is the password's.
pub fn is_hash_of(hash: &str, password: &str) -> bool {
    let salt = hash.split('$').nth(2).unwrap_or_default();
    let rounds = sha_crypt::Sha512Params::new(sha_crypt::ROUNDS_DEFAULT).unwrap();
    let digest = sha_crypt::sha512_crypt_b64(password.as_bytes(), salt.as_bytes(), &rounds).unwrap();
    hash == format!("$6${salt}${digest}")
}

/// Creates the guest in a pool of this mode and starts it; gives its id once the Core has heard of its address.
fn start_debian(core: &TestCore, cell: &Cell) -> GuestId {
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
    let guest = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id;
    cell.host().debian_disk(&format!("/var/lib/libvirt/images/local0/{guest}_sys.qcow2"));
    let mut events = core.events();
    core.wait(core.start_guest(&cell.name(), guest)).unwrap();
    let told = |event: &Event| matches!(event, Event::GuestAddress { address, .. } if address == "10.226.0.50");
    core.wait(events.wait(BOOT, told)).unwrap_or_else(|error| panic!("{error}\n{}", cell.serial(guest)));
    guest
}

/// What the guest says of itself after its boot with this number.
fn report(cell: &Cell, guest: GuestId, boot: usize) -> String {
    let ended = || cell.serial(guest).matches("report: end").count() >= boot;
    eventually(&format!("report {boot} of the guest"), BOOT, ended);
    let said = cell.serial(guest).replace('\r', "");
    let report = said.split("report: status ").nth(boot).unwrap();
    report.split("report: end").next().unwrap().to_owned()
}

fn check(report: &str, lines: &[&str]) {
    for line in lines {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    assert!(!report.contains("complaint"), "cloud-init complains: {report}");
    let account = report.lines().find(|line| line.contains("report: account nano ")).unwrap();
    assert!(account.contains(" sudo") && account.contains("shell /bin/bash"), "{account}");
}

fn hash_in(report: &str) -> &str {
    report.split_whitespace().find(|word| word.starts_with('$')).unwrap()
}

const ADDRESSED: [&str; 4] =
    ["status: done", "address 10.226.0.50/24", "router 10.226.0.1", "mount /dev/mapper/nano-data /srv/my\\x20data ext4"];

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_debian_guest_takes_its_cloud_configuration_and_answers_through_its_agent() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (name, guest) = (cell.name(), start_debian(&core, &cell));
    let first = report(&cell, guest, 1);
    check(&first, &ADDRESSED);
    check(&first, &[&format!("hostname debian-{}\n", std::process::id()), "fstab 1", "permitrootlogin yes", "passwordauthentication yes"]);
    let root = first.split("report: root ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(root.parse::<u64>().unwrap() > 1700, "the root did not grow: {root} MiB");
    assert!(is_hash_of(hash_in(&first), PASSWORD));
    assert!(!is_hash_of(hash_in(&first), "something else"));

    // the agent: another password
    let change = Message::new(MessageId::MODIFY_AUTH_REQUEST)
        .string(Key::Guest, guest.to_string())
        .string(Key::User, "nano")
        .string(Key::Secret, "another one");
    let answer = core.wait(core.exchange(&name, change)).unwrap();
    assert!(answer.success, "{}", answer.error);

    // the next boot keeps everything and formats nothing
    core.wait(core.stop_guest(&name, guest, StopMode::Reboot)).unwrap();
    let second = report(&cell, guest, 2);
    check(&second, &ADDRESSED);
    // the guest's own chpasswd hashed it, in a way of its own
    assert_ne!(hash_in(&second), hash_in(&first), "the agent's password did not outlive the boot");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_debian_guest_gets_its_network_from_its_seed_where_nobody_answers_dhcp() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "cloudinit");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = start_debian(&core, &cell);
    let first = report(&cell, guest, 1);
    check(&first, &ADDRESSED);
    assert!(is_hash_of(hash_in(&first), PASSWORD));
}
