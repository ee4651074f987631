//! A Linux guest with QEMU's guest agent: its password, and snapshots while it writes to a file system.

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode, TemplateNumbers};
use corelet::{Event, RequestError};

use crate::cloudinit::is_hash_of;
use crate::lab::{eventually, Cell, Lab, TestCore, BOOT, PATIENCE};

const ASSIGNED: &str = "10.226.0.50";
const PASSWORD: &str = "another one";
const POOL: &str = "/var/lib/libvirt/images/local0";
const MIB: u64 = 1 << 20;
/// Size of the disk; most of it is the file system that the guest writes to.
const DISK: u64 = 256 * MIB;

/// What the log says of a snapshot, and of a guest whose agent was late.
const FROZEN: &str = "file systems were frozen for";
const UNFROZEN: &str = "the snapshot is taken without freezing its file systems";
const UNTHAWED: &str = "its agent has not thawed its file systems";
const THAWED: &str = "the guest's file systems are thawed now";

struct Linux<'a> {
    core: &'a TestCore,
    cell: &'a Cell,
    id: GuestId,
    domain: String,
}

impl<'a> Linux<'a> {
    fn new(core: &'a TestCore, cell: &'a Cell, disk: u64) -> Self {
        let request = CreateGuest {
            memory: 192 * MIB,
            // what the kernel of virtual machines has drivers for
            template: TemplateNumbers { disk: 0, network: 0, ..TemplateNumbers::default() },
            modules: vec!["qemu".into(), "cloud-init".into()],
            addresses: [format!("{ASSIGNED}/24"), String::new()],
            ..CreateGuest::blank(&format!("linux.agent-{}", std::process::id()), disk)
        };
        let created = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}"));
        cell.host().linux_disk_of(&format!("{POOL}/{}_sys.qcow2", created.id), disk / MIB);
        Self { core, cell, id: created.id, domain: created.name }
    }

    /// Starts it and waits until it has mounted its file system for the `boot`th time; gives what it said of that: how many journals had to be
    /// replayed, and what had been written.
    fn boot(&self, boot: usize) -> (u32, u32) {
        self.core.wait(self.core.start_guest(&self.cell.name(), self.id)).unwrap();
        let said = |what: &str| self.cell.serial(self.id).matches(what).count() >= boot;
        eventually("the guest is ready and has a file system", BOOT, || said("guest: ready") && said("guest: data "));
        let said = self.cell.serial(self.id).replace('\r', "");
        let line = said.lines().filter_map(|line| line.strip_prefix("guest: data ")).nth(boot - 1).unwrap_or_else(|| panic!("{said}"));
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap_or(0))
    }

    fn ask(&self, request: Message) -> Result<Message, RequestError> {
        self.core.wait(self.core.request(&self.cell.name(), request))
    }

    fn snapshot(&self, request: MessageId, name: &str) -> Result<Message, RequestError> {
        self.ask(Message::new(request).string(Key::Instance, self.id.to_string()).string(Key::Name, name))
    }

    fn done(&self, request: MessageId, name: &str) {
        self.snapshot(request, name).unwrap_or_else(|error| panic!("{request} {name}: {error}"));
    }

    fn agent(&self, command: &str) -> String {
        self.cell.host().virsh(&["qemu-agent-command", "--timeout", "120", &self.domain, command])
    }

    fn book(&self) -> serde_json::Value {
        let storage: serde_json::Value = serde_json::from_str(&self.cell.file("data/storage.data")).unwrap();
        storage["groups"][self.id.to_string()].clone()
    }

    fn current(&self) -> String {
        self.book()["system"]["path"].as_str().unwrap().to_owned()
    }

    fn frozen(&self, snapshot: &str) -> String {
        let book = self.book();
        book["snapshots"][snapshot]["files"][book["system"]["name"].as_str().unwrap()].as_str().unwrap().to_owned()
    }

    /// Waits until it has written for a while.
    fn writes(&self) {
        let written = || {
            let stats = self.cell.host().virsh(&["domblkstat", &self.domain, "sda"]);
            let line = stats.lines().find(|line| line.contains("wr_bytes")).expect("a count of bytes").to_owned();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let before = written();
        eventually("the guest writes", BOOT, || written() > before + 8 * MIB);
    }

    /// How often the log says this.
    fn told(&self, what: &str) -> usize {
        self.cell.file("log/cell.log").matches(what).count()
    }

    /// Asks for something that freezes its file systems until they were frozen: an agent that is late is done without. `take_back` comes before another try.
    fn frozen_for(&self, ask: impl Fn(), take_back: impl Fn()) {
        eventually("its file systems are frozen", BOOT, || {
            let said = || [FROZEN, UNFROZEN, UNTHAWED].map(|what| self.told(what));
            let before = said();
            ask();
            eventually("it is said", PATIENCE, || said() != before);
            let is_frozen = said()[0] > before[0];
            if !is_frozen {
                take_back();
            }
            is_frozen
        });
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_linux_guest_with_an_agent_is_snapshotted_under_load_and_restored_to_the_byte() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = Linux::new(&core, &cell, DISK);
    let (name, host) = (cell.name(), cell.host());
    let mut events = core.events();
    assert_eq!(guest.boot(1), (0, 0));
    let told = |event: &Event| matches!(event, Event::GuestAddress { address, .. } if address == ASSIGNED);
    core.expect(&mut events, "the Core hears of the address", told);

    // its own chpasswd sets what the agent is told
    let change = Message::new(MessageId::MODIFY_AUTH_REQUEST)
        .string(Key::Guest, guest.id.to_string())
        .string(Key::User, "root")
        .string(Key::Secret, PASSWORD);
    // The agent has 5 s for it, which an emulated one may exceed.
    eventually("the agent sets it", BOOT, || core.wait(core.exchange(&name, change.clone())).is_ok_and(|answer| answer.success));
    let hash = || {
        let said = cell.serial(guest.id).replace('\r', "");
        said.lines().filter_map(|line| line.strip_prefix("guest: password ")).next_back().map(str::to_owned)
    };
    eventually("the password is changed", BOOT, || hash().is_some_and(|hash| is_hash_of(&hash, PASSWORD)));

    // with its file systems frozen
    guest.writes();
    guest.frozen_for(|| guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "one"), || guest.done(MessageId::DELETE_SNAPSHOT_REQUEST, "one"));
    let copy = host.home().join("one.raw");
    let copy = copy.to_str().unwrap();
    host.run("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", &guest.frozen("one"), copy]);
    guest.writes();

    // libvirt refuses in the middle: everything is thawed and as it was
    let elsewhere = host.home().join("copy.qcow2");
    host.virsh(&["blockcopy", &guest.domain, "sda", elsewhere.to_str().unwrap(), "--transient-job"]);
    let refused = || {
        let refused = guest.snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, "two").unwrap_err();
        assert!(refused.to_string().contains("block job"), "{refused}");
    };
    guest.frozen_for(refused, || ());
    host.virsh(&["blockjob", &guest.domain, "sda", "--abort"]);
    assert!(guest.agent(r#"{"execute":"guest-fsfreeze-status"}"#).contains("thawed"));
    guest.writes();

    // an agent that hangs in the freeze, and freezes when nobody waits for it any more
    guest.agent(r#"{"execute":"guest-file-open","arguments":{"path":"/run/hang","mode":"w"}}"#);
    let before = [FROZEN, UNFROZEN, THAWED].map(|what| guest.told(what));
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "two");
    eventually("it is said", PATIENCE, || guest.told(UNFROZEN) > before[1]);
    assert_eq!(guest.told(FROZEN), before[0]);
    eventually("it is thawed late", BOOT, || guest.told(THAWED) > before[2]);
    guest.writes();

    // the youngest goes from beneath it
    guest.done(MessageId::DELETE_SNAPSHOT_REQUEST, "two");
    guest.writes();

    // back to the exact bytes: the journal was empty when they were frozen
    core.halt(&cell, guest.id, StopMode::Force);
    host.run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &guest.frozen("one"), copy]);
    guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, "one");
    host.run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &guest.current(), copy]);
    let (replayed, written) = guest.boot(2);
    assert_eq!(replayed, 0, "the file system was not at rest in the snapshot");
    assert!(written > 0);
    core.halt(&cell, guest.id, StopMode::Force);
    core.remove(&cell, guest.id);
}

/// What a guest prints is kept up to a bound: a running file and some older ones, by libvirt's log daemon.
#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_serial_log_of_a_linux_guest_that_prints_a_lot_is_bounded() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = Linux::new(&core, &cell, DISK);
    guest.boot(1);
    let print =
        "yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 6500000 >/dev/ttyS0; echo; echo printed >/dev/ttyS0";
    guest.agent(&format!(r#"{{"execute":"guest-exec","arguments":{{"path":"/bin/sh","arg":["-c","{print}"]}}}}"#));
    eventually("everything is printed", 2 * BOOT, || cell.serial(guest.id).contains("printed"));
    let directory = cell.host().home().join("log/guests");
    let sizes: Vec<u64> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() > 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 2 * MIB + 4096), "{sizes:?}");
    core.halt(&cell, guest.id, StopMode::Force);
    core.remove(&cell, guest.id);
}
