//! Real kills: the service dies by SIGKILL right before or right after a write to its data or a change of the host, and is started again. Host and
//! data are then as before or as after the request, and nothing in between.
//!
//! Every place of each request is a lot of restarts: by default a share of them is walked, another one each day. `CELL_TEST_ALL_CRASHES=1` walks all.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{reset_system, CreateGuest};
use serde_json::Value;

use crate::images::{image_server, source};
use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

pub const POOL: &str = "/var/lib/libvirt/images/local0";
const MIB: u64 = 1 << 20;
/// The first byte of the image.
pub const FILLED: u8 = 0x5a;

/// Of so many places one is walked by default.
const SHARE: u64 = 14;

/// Of a request with few places.
const SHORT_SHARE: u64 = 7;

/// The places of today: the first of them, and how far the next is.
pub fn share_of_today(share: u64) -> (u64, usize) {
    if std::env::var_os("CELL_TEST_ALL_CRASHES").is_some() {
        return (1, 1);
    }
    let days = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    (1 + days % share, usize::try_from(share).unwrap())
}

/// The node under test.
pub struct Stage {
    pub core: TestCore,
    pub cell: Cell,
    /// Holds the number of the place at which the service dies, or stops.
    pub doom: PathBuf,
    /// Kinds of places that count.
    kinds: &'static [&'static str],
    /// Guests made so far: names are not used again.
    made: u32,
    // Taken down last.
    _lab: Lab,
}

/// What is asked for, and whether it is done, by the books.
pub struct Act {
    pub name: &'static str,
    pub request: Message,
    /// A success says that it is done, and not only that it goes on.
    pub binding: bool,
    pub done: Box<dyn Fn(&Stage) -> bool>,
}

impl Act {
    pub fn new(name: &'static str, request: Message, done: impl Fn(&Stage) -> bool + 'static) -> Self {
        Self { name, request, binding: true, done: Box::new(done) }
    }
}

impl Stage {
    fn new() -> Self {
        Self::with(&["data", "host"])
    }

    /// With these kinds of places.
    pub fn with(kinds: &'static [&'static str]) -> Self {
        let lab = Lab::up(1);
        let core = TestCore::start(&lab);
        let cell = Cell::install(lab.cell(1), "nano");
        let doom = cell.home().join("doom");
        let stage = Self { core, cell, doom, kinds, made: 0, _lab: lab };
        stage.start();
        stage
    }

    pub fn start(&self) {
        let _ = std::fs::remove_file(&self.doom);
        let doom = self.doom.display();
        let places: Vec<String> = self.kinds.iter().map(|kind| format!("{kind}=return({doom})")).collect();
        self.cell.start_mortal(&places.join(";"));
        self.core.joined(&self.cell);
    }

    /// Asks with death at the `place`th place; whether a success was told, and whether it died.
    fn ask(&self, request: Message, place: u64) -> (bool, bool) {
        let (pid, host) = (self.cell.pid(), self.cell.host());
        std::fs::write(&self.doom, place.to_string()).unwrap();
        let name = self.cell.name();
        let told = self.core.wait(async {
            let death = async {
                while host.runs(pid) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                biased;
                answer = self.core.request(&name, request) => answer.is_ok(),
                () = death => false,
            }
        });
        // It may die in what follows the answer.
        eventually("the transaction is over", PATIENCE, || !host.runs(pid) || self.is_idle());
        let died = !host.runs(pid);
        let _ = std::fs::remove_file(&self.doom);
        (told, died)
    }

    /// Nothing is open in the journal.
    pub fn is_idle(&self) -> bool {
        cell::store::journal::read(&self.cell.home().join("data")).unwrap().is_empty()
    }

    pub fn book(&self, file: &str) -> Value {
        serde_json::from_str(&self.cell.file(&format!("data/{file}"))).unwrap()
    }

    pub fn group(&self, guest: GuestId) -> Value {
        self.book("storage.data")["groups"][guest.to_string()].clone()
    }

    /// Whether the books have the guest.
    pub fn has(&self, guest: GuestId) -> bool {
        self.book("instance.data")["instances"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == guest.to_string()))
    }

    /// A name that no guest has had.
    pub fn next_name(&mut self) -> String {
        self.made += 1;
        format!("crash.{}-{}", self.made, std::process::id())
    }

    /// A new guest.
    pub fn guest(&mut self) -> GuestId {
        let name = self.next_name();
        let request = CreateGuest { memory: 32 * MIB, disks: vec![MIB, 2 * MIB], ..CreateGuest::blank(&name, MIB) };
        self.core.wait(self.core.create_and_wait(&self.cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id
    }

    pub fn done(&self, request: Message) {
        let id = request.id;
        self.core.wait(self.core.request(&self.cell.name(), request)).unwrap_or_else(|error| panic!("{id}: {error}"));
    }

    /// Deletes a guest; one that is busy with what follows an answer is waited for.
    pub fn remove(&self, guest: GuestId) {
        let name = self.cell.name();
        let request = || about(MessageId::DELETE_GUEST_REQUEST, guest);
        eventually("the guest can be deleted", PATIENCE, || {
            self.core.wait(self.core.request(&name, request())).is_ok() || !self.has(guest)
        });
    }

    /// Fills the image server's image; its size.
    pub fn make_image(&mut self) -> u64 {
        let original = self.guest();
        let system = format!("{POOL}/{original}_sys.qcow2");
        self.cell.host().run("qemu-io", &["-f", "qcow2", "-c", &format!("write -P {FILLED} 0 512"), &system]);
        let size = self.core.wait(self.core.create_disk_image(&self.cell.name(), original, &source(0), |_| {})).unwrap();
        self.remove(original);
        size
    }

    /// The first byte of the guest's system disk.
    pub fn system(&self, guest: GuestId) -> u8 {
        let path = format!("{POOL}/{guest}_sys.qcow2");
        let dump = self.cell.host().run("qemu-io", &["-r", "-f", "qcow2", "-c", "read -v 0 512", &path]);
        let byte = dump.strip_prefix("00000000:").and_then(|line| line.split_whitespace().next());
        byte.and_then(|byte| u8::from_str_radix(byte, 16).ok()).unwrap_or_else(|| panic!("{dump}"))
    }

    /// libvirt, the pool's directory and the books say the same.
    pub fn check(&self, at: &str) {
        eventually("the journal is empty", PATIENCE, || self.is_idle());
        let lines = |arguments: &[&str]| -> BTreeSet<String> {
            self.cell.host().virsh(arguments).lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        let instances = self.book("instance.data")["instances"].clone();
        let guests: Vec<Value> = instances.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ids: BTreeSet<String> = guests.iter().map(|guest| text(&guest["id"])).collect();
        assert_eq!(lines(&["list", "--all", "--uuid"]), ids, "{at}: domains");
        let storage = self.book("storage.data");
        let keys = |value: &Value| -> BTreeSet<String> { value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default() };
        assert_eq!(keys(&storage["groups"]), ids, "{at}: volume groups");
        assert_eq!(keys(&self.book("network.data")["resources"]), ids, "{at}: assignments");
        let filters = lines(&["nwfilter-list"]);
        for filter in filters.iter().filter(|line| line.contains("nano")) {
            assert!(ids.iter().any(|id| filter.contains(id.as_str())), "{at}: {filter} belongs to nobody");
        }
        let mut files = BTreeSet::new();
        for group in storage["groups"].as_object().into_iter().flat_map(|groups| groups.values()) {
            let data = group["data"].as_array().cloned().unwrap_or_default();
            for volume in data.iter().chain([&group["system"]]) {
                files.insert(text(&volume["path"]));
            }
            for snapshot in group["snapshots"].as_object().into_iter().flat_map(|snapshots| snapshots.values()) {
                files.extend(snapshot["files"].as_object().into_iter().flat_map(|files| files.values()).map(text));
            }
        }
        let listed = self.cell.host().run("find", &[POOL, "-maxdepth", "1", "-type", "f"]);
        assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<String>>(), files, "{at}: files");
        for file in &files {
            self.cell.host().run("qemu-img", &["info", "-U", "--backing-chain", file]);
        }
    }

    /// Lets the service die at one in `share` places of what `prepare` gives; how often it did.
    fn walk(&mut self, share: u64, prepare: impl Fn(&mut Self) -> (GuestId, Act)) -> u64 {
        let (first, step) = share_of_today(share);
        let mut deaths = 0;
        for place in (first..).step_by(step) {
            let (guest, Act { name, request, binding, done }) = prepare(self);
            let (told, died) = self.ask(request, place);
            if died {
                self.start();
                deaths += 1;
            }
            let at = format!("{name}, dead at place {place}");
            self.check(&at);
            let is_done = done(self);
            assert!(is_done || !told || !binding, "{at}: it was told, and is not done");
            if self.has(guest) {
                self.remove(guest);
                self.check(&format!("{at}, guest deleted"));
            }
            if !died {
                assert!(is_done, "{at}");
                println!("{name}: {} places, died at {deaths}", place - 1);
                break;
            }
        }
        deaths
    }
}

/// A request with nothing but the guest.
pub fn about(request: MessageId, guest: GuestId) -> Message {
    Message::new(request).string(Key::Instance, guest.to_string())
}

pub fn snapshot(request: MessageId, guest: GuestId, name: &str) -> Message {
    about(request, guest).string(Key::Name, name).string(Key::Description, "")
}

pub fn disk(request: MessageId, guest: GuestId) -> Message {
    Message::new(request).string(Key::Guest, guest.to_string()).uint(Key::Disk, 0)
}

pub fn has_snapshot(guest: GuestId, name: &'static str, wanted: bool) -> impl Fn(&Stage) -> bool {
    move |stage| stage.group(guest)["snapshots"].get(name).is_some() == wanted
}

/// The system of a guest is replaced by the image of this size.
pub fn reset(guest: GuestId, size: u64) -> Act {
    let replaced = move |stage: &Stage| match stage.system(guest) {
        FILLED => true,
        0 => false,
        other => panic!("neither the old nor the new system: {other}"),
    };
    Act { binding: false, ..Act::new("system reset", reset_system(guest, &source(size)), replaced) }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn killed_at_its_writes_the_service_leaves_nothing_half_done() {
    let mut stage = Stage::new();
    let mut deaths = 0;
    deaths += stage.walk(SHARE, |stage| {
        let name = stage.next_name();
        let guest = GuestId::from_bytes([u8::try_from(stage.made % 250).unwrap() + 1; 16]);
        let request = Message::new(MessageId::CREATE_GUEST_REQUEST)
            .string(Key::Name, name)
            .string(Key::Instance, guest.to_string())
            .string(Key::User, "admin")
            .string(Key::Group, "manager")
            .string(Key::Admin, "root")
            .string(Key::Secret, "")
            .string(Key::Path, "")
            .uint(Key::Core, 1)
            .uint(Key::Memory, 32 * MIB)
            .bool(Key::Option, false)
            .uints(Key::Disk, [MIB, 2 * MIB])
            .uints(Key::Flag, [1])
            .uints(Key::Mode, [1, 0])
            .uints(Key::Template, [0, 1, 2, 0, 0, 0, 1])
            .strings(Key::Module, []);
        (guest, Act::new("create", request, move |stage| stage.has(guest)))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        stage.done(snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, "a"));
        let request = about(MessageId::DELETE_GUEST_REQUEST, guest);
        (guest, Act::new("delete", request, move |stage| !stage.has(guest)))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        let request = disk(MessageId::RESIZE_DISK_REQUEST, guest).uint(Key::Size, 4 * MIB);
        let size = move |stage: &Stage| {
            let all = stage.book("instance.data")["instances"].clone();
            all.as_array().unwrap().iter().any(|one| one["id"] == guest.to_string() && one["disks"][0] == 4 * MIB)
        };
        (guest, Act::new("resize", request, size))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        (guest, Act::new("shrink", disk(MessageId::SHRINK_DISK_REQUEST, guest), |_| true))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        let request = snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("snapshot", request, has_snapshot(guest, "a", true)))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        for name in ["a", "b"] {
            stage.done(snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, name));
        }
        let request = snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("restore", request, move |stage| stage.group(guest)["active_snapshot"] == "a"))
    });
    deaths += stage.walk(SHARE, |stage| {
        let guest = stage.guest();
        for name in ["a", "b"] {
            stage.done(snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, name));
        }
        let request = snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("delete of a snapshot", request, has_snapshot(guest, "a", false)))
    });
    println!("{deaths} deaths");
    assert!(deaths >= 7, "only {deaths}");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn killed_while_an_image_comes_the_service_leaves_nothing_half_done() {
    let mut stage = Stage::new();
    let (_server, _directory) = image_server(&stage.core);
    let size = stage.make_image();

    let mut deaths = stage.walk(SHARE, |stage| {
        let name = stage.next_name();
        let disks = vec![MIB, 2 * MIB];
        let request = CreateGuest { memory: 32 * MIB, disks, image: Some(source(size)), ..CreateGuest::blank(&name, MIB) };
        let guest = request.id;
        let whole = move |stage: &Stage| {
            // One that is there is one that is complete.
            stage.has(guest) && {
                assert_eq!(stage.system(guest), FILLED);
                assert!(stage.core.wait(stage.core.get_status(&stage.cell.name(), guest)).is_ok());
                true
            }
        };
        (guest, Act { binding: false, ..Act::new("clone of an image", request.to_message(), whole) })
    });
    deaths += stage.walk(SHORT_SHARE, |stage| {
        let guest = stage.guest();
        (guest, reset(guest, size))
    });
    println!("{deaths} deaths");
    assert!(deaths >= 2, "only {deaths}");
}
