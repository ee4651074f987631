//! Two hosts with one shared pool: guests move, and never run twice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode};
use corelet::{Event, Events};

use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE, SHARED_POOL};

/// Longest wait for a guest to run on another host: the grace of the former one, and a machine that is busy.
const TAKEOVER: Duration = Duration::from_secs(60);

/// Two Cells that share a pool, and a guest on the first that runs.
struct Scene {
    core: TestCore,
    from: Cell,
    to: Cell,
    guest: GuestId,
    name: String,
    copies: Copies,
    _lab: Lab,
}

impl Scene {
    /// The guest runs; with `auto_start` it is one that is started with its host.
    fn set(title: &str, auto_start: bool) -> Self {
        let lab = Lab::up(2);
        let core = TestCore::with_shared_storage(&lab);
        let (from, to) = (Cell::started(lab.cell(1), "nano"), Cell::started(lab.cell(2), "nano"));
        for cell in [&from, &to] {
            core.joined(cell);
            let pools = core.wait(core.get_cell(&cell.name())).unwrap();
            assert_eq!(pools.len(), 1, "{pools:?}");
            assert!(pools[0].attached && pools[0].name == SHARED_POOL && pools[0].error.is_empty(), "{pools:?}");
        }
        let name = format!("{title}-{}", std::process::id());
        let request = CreateGuest { memory: 32 << 20, auto_start, ..CreateGuest::blank(&name, 1 << 20) };
        let guest = core.wait(core.create_and_wait(&from.name(), &request, PATIENCE)).unwrap().id;
        for file in ["_sys.qcow2", ".meta", ".vols", ".claim"] {
            assert!(to.host().run("ls", &[to.mount(SHARED_POOL).to_str().unwrap()]).contains(&format!("{guest}{file}")), "{file}");
        }
        if auto_start {
            eventually("its first start", PATIENCE, || core.says(&from, guest, true));
            core.halt(&from, guest, StopMode::Force);
        }
        let volume = from.mount(SHARED_POOL).join(format!("{guest}_sys.qcow2"));
        from.host().boot_disk(volume.to_str().unwrap());
        core.boot(&from, guest);
        let copies = Copies::watch(&name);
        Self { core, from, to, guest, name, copies, _lab: lab }
    }

    fn runs_on(&self, cell: &Cell) -> bool {
        let running = cell.host().virsh(&["list", "--name"]);
        running.lines().any(|line| line.trim() == self.name)
    }

    fn is_known_to(&self, cell: &Cell) -> bool {
        let known = cell.host().virsh(&["list", "--all", "--name"]);
        known.lines().any(|line| line.trim() == self.name)
    }

    fn list(&self, request: MessageId) -> Message {
        Message::new(request).strings(Key::Instance, [self.guest.to_string()])
    }

    /// As the Core does when it has lost the first host for good: nobody waits for an answer.
    fn fail_over(&self) {
        let request = self.list(MessageId::ATTACH_INSTANCE_REQUEST).bool(Key::Immediate, true).string(Key::Cell, self.from.name());
        let mut events = self.core.events();
        self.core.send(&self.to.name(), request).unwrap();
        let migrated = wait_migrated(&self.core, &mut events);
        assert_eq!(migrated.string_array_params[&Key::Instance], [self.guest.to_string()]);
        assert_eq!(migrated.string_params[&Key::Cell], self.from.name());
        assert!(migrated.bool_params[&Key::Immediate]);
    }

    /// As the Core does when the lost host is back.
    fn purge(&self) {
        let everything = Message::new(MessageId::DETACH_INSTANCE_REQUEST).strings(Key::Instance, []);
        self.core.wait(self.core.request(&self.from.name(), everything)).unwrap();
        assert!(!self.is_known_to(&self.from));
        let data = self.from.file("data/instance.data");
        assert!(!data.contains(&self.guest.to_string()), "{data}");
    }

    /// Waits until the guest has booted on the second host.
    fn wait_taken(&self) {
        eventually("the guest runs on the other host", TAKEOVER, || self.runs_on(&self.to));
        eventually("it has booted there", TAKEOVER, || self.to.boots(self.guest) > 0);
    }

    fn assert_one_copy(self) {
        assert_eq!(self.copies.most(), 1, "the guest ran twice at the same time");
    }
}

fn wait_migrated(core: &TestCore, events: &mut Events) -> Message {
    let found = core.wait(events.find(TAKEOVER, |recorded| match &recorded.event {
        Event::Other { message, .. } if message.id == MessageId::INSTANCE_MIGRATED_EVENT => Some(message.clone()),
        _ => None,
    }));
    found.unwrap_or_else(|error| panic!("the guest was not taken: {error}"))
}

/// Counts the QEMU processes of a guest on all hosts, again and again.
pub struct Copies {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Copies {
    pub fn watch(name: &str) -> Self {
        let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (mark, seen, ending) = (format!("guest={name},"), most.clone(), stop.clone());
        let watcher = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                seen.fetch_max(processes(&mark), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { most, stop, watcher: Some(watcher) }
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// Processes whose command line has this mark and that have guest memory: a child that libvirt has just forked has not.
fn processes(mark: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let is_copy = |path: std::path::PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
            && std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with("qemu"))
            && std::fs::read_link(path.join("exe")).is_ok()
    };
    let found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_copy(path.clone())).collect();
    // One may have ended before the other began, while this looked through the list.
    found.iter().filter(|path| is_copy((*path).clone())).count()
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_running_guest_is_moved_as_planned_and_moved_back() {
    let mut scene = Scene::set("move.planned", false);
    for _ in 0..2 {
        let attach = scene.list(MessageId::ATTACH_INSTANCE_REQUEST).bool(Key::Immediate, false);
        let attached = scene.core.wait(scene.core.request(&scene.to.name(), attach)).unwrap();
        assert!(scene.runs_on(&scene.from) && !scene.runs_on(&scene.to));
        scene.core.wait(scene.core.request(&scene.from.name(), scene.list(MessageId::DETACH_INSTANCE_REQUEST))).unwrap();
        assert!(!scene.is_known_to(&scene.from));
        let order = scene.list(MessageId::MIGRATE_INSTANCE_REQUEST).string(Key::Migration, "m1").to_session(attached.from);
        let mut events = scene.core.events();
        scene.core.send(&scene.to.name(), order).unwrap();
        let migrated = wait_migrated(&scene.core, &mut events);
        assert_eq!(migrated.string_params[&Key::Migration], "m1");
        let port = migrated.uint_array_params[&Key::Monitor][0];
        assert!((5901..=6000).contains(&port), "port {port}");
        scene.wait_taken();
        assert_eq!(scene.core.running(&scene.to, scene.guest).ok(), Some(true));
        let Scene { from, to, .. } = &mut scene;
        std::mem::swap(from, to);
    }
    scene.assert_one_copy();
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_host_that_is_cut_off_from_the_core_ends_its_copy_before_the_other_begins() {
    let scene = Scene::set("move.cut", true);
    scene.from.host().link("down");
    scene.fail_over();
    eventually("the former host has ended its copy", PATIENCE, || !scene.runs_on(&scene.from));
    scene.wait_taken();
    scene.from.host().link("up");
    scene.core.joined(&scene.from);
    assert!(scene.core.wait(scene.core.start_guest(&scene.from.name(), scene.guest)).is_err(), "it is another host's");
    assert!(scene.runs_on(&scene.to) && !scene.runs_on(&scene.from));
    scene.purge();
    assert!(scene.runs_on(&scene.to));
    scene.assert_one_copy();
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_cell_that_died_leaves_its_guest_alone_with_its_disks_until_it_is_back() {
    let scene = Scene::set("move.died", true);
    scene.from.kill();
    scene.fail_over();
    // nobody is there to end the first copy, and the locks of QEMU keep the second from its disks
    let name = scene.to.name();
    assert!(scene.core.wait(scene.core.start_guest(&name, scene.guest)).is_err());
    assert!(scene.runs_on(&scene.from));
    scene.from.start();
    eventually("the former host has ended its copy", PATIENCE, || !scene.runs_on(&scene.from));
    scene.wait_taken();
    scene.core.joined(&scene.from);
    scene.purge();
    assert!(scene.runs_on(&scene.to));
}
