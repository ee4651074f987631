//! Disks and snapshots of guests that run under QEMU and write all the time.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode};
use corelet::RequestError;

use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

const POOL: &str = "/var/lib/libvirt/images/local0";
const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Number of the sectors that the guest writes in turn, and the first of them; see the asset.
const SLOTS: usize = 256;
const FIRST: usize = 2;

/// A guest that writes, and who asks about it.
struct Writer<'a> {
    core: &'a TestCore,
    cell: &'a Cell,
    id: GuestId,
}

impl<'a> Writer<'a> {
    /// A stopped guest of two disks.
    fn new(core: &'a TestCore, cell: &'a Cell, name: &str) -> Self {
        let disks = vec![MIB, 2 * MIB];
        let request = CreateGuest { memory: 32 * MIB, disks, ..CreateGuest::blank(&format!("{name}-{}", std::process::id()), MIB) };
        let id = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id;
        let sector = cell.host().home().join("writer.sector");
        std::fs::write(&sector, sector_of(include_str!("../assets/writer.lst"))).unwrap();
        let write = format!("write -s {} 0 {SECTOR}", sector.display());
        cell.host().run("qemu-io", &["-f", "qcow2", "-c", &write, &format!("{POOL}/{id}_sys.qcow2")]);
        Self { core, cell, id }
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

    fn resize(&self, disk: u64, size: u64) {
        let request = Message::new(MessageId::RESIZE_DISK_REQUEST).string(Key::Guest, self.id.to_string());
        self.ask(request.uint(Key::Disk, disk).uint(Key::Size, size)).unwrap();
    }

    fn boot(&self) {
        self.core.boot(self.cell, self.id);
    }

    fn halt(&self) {
        self.core.halt(self.cell, self.id, StopMode::Force);
    }

    fn domain(&self) -> String {
        self.core.wait(self.core.get_guest(&self.cell.name(), self.id)).unwrap().name
    }

    fn disks(&self) -> Vec<u64> {
        self.core.wait(self.core.get_guest(&self.cell.name(), self.id)).unwrap().disks
    }

    /// The book of its volumes.
    fn book(&self) -> serde_json::Value {
        let storage: serde_json::Value = serde_json::from_str(&self.cell.file("data/storage.data")).unwrap();
        storage["groups"][self.id.to_string()].clone()
    }

    fn current(&self) -> String {
        self.book()["system"]["path"].as_str().unwrap().to_owned()
    }

    fn frozen(&self, snapshot: &str) -> String {
        let book = self.book();
        let volume = book["system"]["name"].as_str().unwrap();
        book["snapshots"][snapshot]["files"][volume].as_str().unwrap().to_owned()
    }

    /// What an image shows, byte by byte.
    fn content(&self, image: &str) -> Vec<u8> {
        let raw = self.cell.host().home().join("content.raw");
        self.cell.host().run("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", image, &raw.to_string_lossy()]);
        std::fs::read(&raw).unwrap()
    }

    fn files(&self) -> usize {
        self.cell.host().run("ls", &[POOL]).lines().filter(|name| name.starts_with(&self.id.to_string())).count()
    }

    /// Waits until the guest has written all its sectors since it booted.
    fn writes(&self) {
        let domain = self.domain();
        let written = || {
            let stats = self.cell.host().virsh(&["domblkstat", &domain, "sda"]);
            let line = stats.lines().find(|line| line.contains("wr_req")).expect("a count of writes").to_owned();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let before = written();
        eventually("the guest writes", Duration::from_secs(60), || written() > before + 2 * SLOTS as u64);
    }
}

pub(crate) fn sector_of(listing: &str) -> Vec<u8> {
    let code = listing.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('|'));
    let bytes = code.flat_map(|(bytes, _)| bytes.split_whitespace()).map(|byte| u8::from_str_radix(byte, 16).unwrap());
    let mut sector: Vec<u8> = bytes.collect();
    sector.resize(SECTOR - 2, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// The last number that the guest had written; all before it are there, none after it.
pub(crate) fn last_number(content: &[u8]) -> u32 {
    let number = |slot: usize| u32::from_le_bytes(content[(FIRST + slot) * SECTOR..][..4].try_into().unwrap());
    let last = (0..SLOTS).map(number).max().unwrap();
    assert!(last > SLOTS as u32, "only {last} numbers were written");
    for past in 0..SLOTS as u32 {
        let expected = last - past;
        assert_eq!(number(expected as usize % SLOTS), expected, "the last number is {last}");
    }
    last
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_is_snapshotted_while_it_writes_and_restored_to_the_byte() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = Writer::new(&core, &cell, "snapshots.live");
    let host = cell.host();
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "cold");
    guest.boot();
    guest.writes();
    let domain = guest.domain();
    let (qemu, secret) = (host.qemu_pid(&domain), |xml: &str| xml.lines().find(|line| line.contains("passwd")).map(str::to_owned));
    let before = host.virsh(&["dumpxml", "--inactive", "--security-info", &domain]);

    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "first");
    let first = guest.content(&guest.frozen("first"));
    guest.writes();
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "second");
    let second = guest.content(&guest.frozen("second"));
    guest.writes();
    assert_eq!(guest.content(&guest.frozen("first")), first, "nobody writes to a snapshot");
    assert!(last_number(&first) < last_number(&second));

    // the disk that nobody writes to, and the one that the guest writes to, grow under it
    guest.resize(0, 3 * MIB);
    guest.resize(1, 4 * MIB);
    assert_eq!(guest.disks(), [3 * MIB, 4 * MIB]);
    assert!(host.virsh(&["domblkinfo", &domain, "sda"]).contains(&(3 * MIB).to_string()));
    guest.writes();

    // the definition names volumes of the pool, and has lost nothing
    let after = host.virsh(&["dumpxml", "--inactive", "--security-info", &domain]);
    assert!(after.contains(&format!("volume='{}_sys.2.qcow2'", guest.id)), "{after}");
    assert_eq!(secret(&after), secret(&before));
    assert!(secret(&before).is_some());
    assert_eq!(after.replace("_sys.2.qcow2", "_sys.qcow2").replace("_0.2.qcow2", "_0.qcow2"), before);
    assert_eq!(host.qemu_pid(&domain), qemu, "the guest was not restarted");

    let answer = guest.snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, "first").unwrap_err();
    assert!(matches!(&answer, RequestError::Refused { reason, .. } if reason.contains("stop it first")), "{answer}");
    guest.halt();
    let stopped = guest.content(&guest.current());
    assert!(last_number(&stopped) > last_number(&second));

    // what was written last is there after a start
    guest.boot();
    guest.writes();
    guest.halt();
    for (name, content) in [("first", &first), ("second", &second), ("first", &first)] {
        guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, name);
        assert_eq!(&guest.content(&guest.current()), content, "{name}");
        assert_eq!(guest.disks(), [MIB, 2 * MIB], "{name}");
        guest.boot();
        guest.writes();
        guest.halt();
    }
    guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, "second");
    for name in ["cold", "first", "second"] {
        guest.done(MessageId::DELETE_SNAPSHOT_REQUEST, name);
        assert_eq!(guest.content(&guest.current()), second, "without {name}");
    }
    assert_eq!(guest.files(), 2);
    guest.boot();
    guest.halt();
    core.remove(&cell, guest.id);
    assert_eq!(guest.files(), 0);
}

/// The service dies right after a snapshot: what it told is what its successor and libvirt know.
#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_live_snapshot_outlives_the_service_and_libvirtd() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = Writer::new(&core, &cell, "snapshots.crash");
    guest.boot();
    guest.writes();
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "live");
    let frozen = guest.content(&guest.frozen("live"));
    cell.kill();
    cell.host().libvirtd("kill");
    cell.host().libvirtd("start");
    cell.start();
    eventually("status works again", PATIENCE, || core.says(&cell, guest.id, true));
    guest.writes();
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "after");
    guest.writes();
    guest.halt();
    assert!(last_number(&guest.content(&guest.current())) > last_number(&frozen));
    guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, "live");
    assert_eq!(guest.content(&guest.current()), frozen);
    guest.boot();
    guest.halt();
    core.remove(&cell, guest.id);
    assert_eq!(guest.files(), 0);
}

/// A guest that writes, on the tree cold <- first <- second and first <- third, current on third; with what the snapshots hold.
fn running_tree<'a>(core: &'a TestCore, cell: &'a Cell, name: &str) -> (Writer<'a>, Vec<(&'static str, Vec<u8>)>) {
    let guest = Writer::new(core, cell, name);
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "cold");
    guest.boot();
    for name in ["first", "second"] {
        guest.writes();
        guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, name);
    }
    guest.halt();
    guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, "first");
    guest.boot();
    guest.writes();
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "third");
    guest.writes();
    let contents = ["cold", "first", "second", "third"].map(|name| (name, guest.content(&guest.frozen(name)))).to_vec();
    (guest, contents)
}

impl Writer<'_> {
    /// The last numbers on the disk of the guest, which has stopped and not been started again, and in the youngest snapshot.
    fn went_on(&self, contents: &[(&'static str, Vec<u8>)]) -> (u32, u32) {
        let third = &contents.iter().find(|(name, _)| *name == "third").expect("the youngest").1;
        (last_number(&self.content(&self.current())), last_number(third))
    }

    /// Every snapshot that is left holds what it did, by its file and after a restore. The guest is stopped, and is so afterwards.
    fn keeps(&self, contents: &[(&'static str, Vec<u8>)], left: &[&str]) {
        let kept = || contents.iter().filter(|(name, _)| left.contains(name));
        for (name, content) in kept() {
            assert_eq!(&self.content(&self.frozen(name)), content, "{name}");
        }
        assert_eq!(self.files(), 2 * (left.len() + 1), "a file that no book knows");
        for (name, content) in kept() {
            self.done(MessageId::RESTORE_SNAPSHOT_REQUEST, name);
            assert_eq!(&self.content(&self.current()), content, "{name}");
            self.cell.host().run("qemu-img", &["check", "-q", "-f", "qcow2", &self.current()]);
        }
        self.boot();
        self.writes();
        self.halt();
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn snapshots_are_deleted_while_the_guest_writes() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (guest, contents) = running_tree(&core, &cell, "snapshots.delete");
    let (host, domain) = (cell.host(), guest.domain());
    let qemu = host.qemu_pid(&domain);
    let before = host.virsh(&["dumpxml", "--inactive", "--security-info", &domain]);
    for (gone, left) in [("cold", 4), ("third", 3)] {
        guest.done(MessageId::DELETE_SNAPSHOT_REQUEST, gone);
        assert_eq!(guest.files(), 2 * left, "after {gone}");
        guest.writes();
    }
    let answer = guest.snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "first").unwrap_err();
    assert!(answer.to_string().contains("the current disks and 'second' are based on it"), "{answer}");
    assert_eq!(host.qemu_pid(&domain), qemu, "the guest was not restarted");
    assert_eq!(host.virsh(&["dumpxml", "--inactive", "--security-info", &domain]), before);
    assert!(guest.frozen("first").ends_with("_cold_sys.qcow2"), "QEMU knows it by this name");
    guest.halt();
    let (last, third) = guest.went_on(&contents);
    assert!(last > third, "what was written last is lost: {last} after {third}");
    guest.keeps(&contents, &["first", "second"]);

    // what is left can go as well, live, and the name that is taken can be used
    guest.done(MessageId::RESTORE_SNAPSHOT_REQUEST, "second");
    guest.done(MessageId::CREATE_SNAPSHOT_REQUEST, "cold");
    guest.boot();
    guest.writes();
    for name in ["first", "second", "cold"] {
        guest.done(MessageId::DELETE_SNAPSHOT_REQUEST, name);
        guest.writes();
    }
    guest.halt();
    assert_eq!(guest.files(), 2);
    assert!(last_number(&guest.content(&guest.current())) > 0);
    core.remove(&cell, guest.id);
    assert_eq!(guest.files(), 0);
}

/// The service, libvirtd or QEMU dies while QEMU merges.
#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_deletion_that_breaks_off_in_a_running_guest_is_completed() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (guest, contents) = running_tree(&core, &cell, "snapshots.break");
    // Returns when QEMU has begun.
    let delete = |name: &str| {
        let begun = || cell.file("log/cell.log").matches("a merge of images begins").count();
        let before = begun();
        let request = Message::new(MessageId::DELETE_SNAPSHOT_REQUEST).string(Key::Instance, guest.id.to_string());
        core.send(&cell.name(), request.string(Key::Name, name)).unwrap();
        eventually("QEMU begins to merge", PATIENCE, || begun() > before);
    };

    delete("cold");
    cell.kill();
    cell.host().libvirtd("kill");
    cell.host().libvirtd("start");
    cell.start();
    core.joined(&cell);
    eventually("the deletion is completed", PATIENCE, || guest.files() == 8);
    guest.writes();

    delete("third");
    let qemu = cell.host().qemu_pid(&guest.domain());
    cell.host().signal(qemu, nix::sys::signal::Signal::SIGKILL);
    eventually("it is completed without the guest", PATIENCE, || guest.files() == 6);
    eventually("the guest is known to be stopped", PATIENCE, || core.says(&cell, guest.id, false));
    // A QEMU that is killed loses what its guest never flushed, and this one flushes nothing; a snapshot does.
    let (last, third) = guest.went_on(&contents);
    assert!(last >= third, "{last} after {third}");
    guest.boot();
    guest.writes();
    guest.halt();
    guest.keeps(&contents, &["first", "second"]);
}
