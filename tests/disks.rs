//! Resize, shrink and snapshots on real qcow2 files, asked for as a Core does: the node is real but for its hypervisor, the images are made,
//! written and compared with `qemu-img` and `qemu-io`. No root needed; where the programs are missing the tests say so and do nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cell::host::sim::SimHost;
use cell::host::storage::LocalDisks;
use cell::host::{Disks, Host};
use cell::model::{GuestId, VolumeGroup};
use cell::proto::message::{Key, Message, MessageId};
use cell::store::{DataFile, Store};
use cell::txn::node::{Books, NodeSettings};
use cell::txn::{Engine, Node, Outbox};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
const SIZES: [u64; 2] = [4 * MIB, 3 * MIB];

fn programs_are_missing(test: &str) -> bool {
    let there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let missing = !["qemu-img", "qemu-io"].into_iter().all(there);
    if missing {
        eprintln!("skipped: {test} needs qemu-img and qemu-io");
    }
    missing
}

/// Runs a program that must succeed and gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Answers of the node.
struct Answers(mpsc::UnboundedSender<Message>);

impl Outbox for Answers {
    fn send(&self, link: Option<u64>, message: Message) {
        if link.is_some() {
            self.0.send(message).expect("the test listens");
        }
    }
}

/// A node with one stopped guest of two disks.
struct Rig {
    engine: Engine,
    node: Arc<Node>,
    answers: mpsc::UnboundedReceiver<Message>,
    guest: GuestId,
    place: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Rig {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let sim = SimHost::new();
        let host = Host { disks: Arc::<LocalDisks>::default(), ..sim.host() };
        let mut opened = Store::open(&place.path().join("data"), "br0").unwrap();
        let pool = host.storage.ensure_local_pool("local0", &place.path().join("pool").to_string_lossy()).await.unwrap();
        opened.loaded.storage.pools.insert(pool.name.clone(), pool);
        let books = Arc::new(Books::new(opened.loaded));
        let stop = CancellationToken::new();
        tokio::spawn(opened.writer.run(books.clone(), stop.clone()));
        let (sender, answers) = mpsc::unbounded_channel();
        let settings = NodeSettings { bridge: "br0".into(), name: "Cell_000000000001".into(), pools_dir: "/pools".into() };
        let node = Node::new(host, books, opened.store, Arc::new(Answers(sender)), settings);
        let node = Arc::new(node);
        node.save(&DataFile::ALL).await.unwrap();
        let engine = Engine::new(node.clone(), Duration::from_secs(600));
        let guest = GuestId::from_bytes([5; 16]);
        let mut rig = Self { engine, node, answers, guest, place, _stop: stop.drop_guard() };
        std::fs::create_dir(rig.place.path().join("pool")).unwrap();
        rig.done(create_guest(guest)).await;
        for (disk, size) in rig.disks().iter().zip(SIZES) {
            run("qemu-img", &["create", "-q", "-f", "qcow2", disk, &size.to_string()]);
        }
        rig
    }

    async fn ask(&mut self, request: Message) -> Message {
        self.engine.request(1, request.from_session(9));
        loop {
            tokio::select! {
                answer = self.answers.recv() => return answer.unwrap(),
                () = self.engine.reap() => {}
            }
        }
    }

    async fn done(&mut self, request: Message) {
        let id = request.id;
        let answer = self.ask(request).await;
        assert!(answer.success, "{id}: {}", answer.error);
    }

    async fn fails(&mut self, request: Message, reason: &str) {
        let answer = self.ask(request).await;
        assert!(!answer.success && answer.error.contains(reason), "{reason:?} in {:?}", answer.error);
    }

    fn about(&self, id: MessageId, name: &str) -> Message {
        Message::new(id).string(Key::Instance, self.guest.to_string()).string(Key::Name, name)
    }

    fn create(&self, name: &str) -> Message {
        self.about(MessageId::CREATE_SNAPSHOT_REQUEST, name)
    }

    fn restore(&self, name: &str) -> Message {
        self.about(MessageId::RESTORE_SNAPSHOT_REQUEST, name)
    }

    fn delete(&self, name: &str) -> Message {
        self.about(MessageId::DELETE_SNAPSHOT_REQUEST, name)
    }

    fn shrink(&self, disk: u64) -> Message {
        Message::new(MessageId::SHRINK_DISK_REQUEST).string(Key::Guest, self.guest.to_string()).uint(Key::Disk, disk)
    }

    fn resize(&self, disk: u64, size: u64) -> Message {
        let request = Message::new(MessageId::RESIZE_DISK_REQUEST).string(Key::Guest, self.guest.to_string());
        request.uint(Key::Disk, disk).uint(Key::Size, size)
    }

    fn group(&self) -> VolumeGroup {
        self.node.books.lock().storage.groups[&self.guest].clone()
    }

    /// Files of the current disks.
    fn disks(&self) -> Vec<String> {
        self.group().volumes().map(|volume| volume.file().to_owned()).collect()
    }

    /// Files of a snapshot, in the order of the disks.
    fn frozen(&self, name: &str) -> Vec<String> {
        let group = self.group();
        group.volumes().map(|volume| group.snapshots[name].files[&volume.name].clone()).collect()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.place.path().join("pool"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Writes a pattern to a part of a disk, and the same to its mirror.
    fn write(&self, disk: usize, pattern: u8, offset: u64, length: u64, mirror: &mut [Vec<u8>]) {
        qemu_io(&self.disks()[disk], &format!("write -P {pattern} {offset} {length}"));
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + length).unwrap());
        mirror[disk][start..end].fill(pattern);
    }

    /// Compares images with what they should show, size included, and checks that they are sound.
    fn compare(&self, images: &[String], mirror: &[Vec<u8>], what: &str) {
        for (image, expected) in images.iter().zip(mirror) {
            let raw = self.place.path().join("expected.raw");
            std::fs::write(&raw, expected).unwrap();
            let output = Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw", image]).arg(&raw).output().unwrap();
            assert!(output.status.success(), "{what}: {image}: {}", String::from_utf8_lossy(&output.stdout));
            let info = run("qemu-img", &["info", "--output=json", "-f", "qcow2", image]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"].as_u64(), Some(expected.len() as u64), "{what}: {image}");
            run("qemu-img", &["check", "-q", "-f", "qcow2", image]);
        }
    }
}

fn qemu_io(image: &str, command: &str) {
    let said = run("qemu-io", &["-f", "qcow2", "-c", command, image]);
    assert!(!said.contains("failed"), "{image}: {command}: {said}");
}

fn empty() -> Vec<Vec<u8>> {
    SIZES.iter().map(|size| vec![0; usize::try_from(*size).unwrap()]).collect()
}

fn create_guest(id: GuestId) -> Message {
    Message::new(MessageId::CREATE_GUEST_REQUEST)
        .string(Key::Name, "group.disks")
        .string(Key::Instance, id.to_string())
        .string(Key::User, "admin")
        .string(Key::Group, "manager")
        .string(Key::Admin, "root")
        .uint(Key::Core, 1)
        .uint(Key::Memory, 64 * MIB)
        .bool(Key::Option, false)
        .uints(Key::Disk, SIZES)
        .uints(Key::Flag, [1])
        .uints(Key::Mode, [1, 0])
        .uints(Key::Template, [0, 1, 2, 0, 0, 0, 1])
}

/// Random lives of a guest: whatever was done in between, the disks and every snapshot show what was written, to the byte.
#[tokio::test(flavor = "multi_thread")]
async fn any_tree_of_snapshots_keeps_every_byte() {
    if programs_are_missing("any_tree_of_snapshots_keeps_every_byte") {
        return;
    }
    for seed in [1, 2, 3] {
        let mut lot = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new().await;
        let mut current = empty();
        let mut kept: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for step in 0..30 {
            let what = format!("seed {seed} step {step}");
            let names: Vec<String> = kept.keys().cloned().collect();
            let chosen = lot.choice(&names).cloned().unwrap_or_default();
            match lot.u32(..10) {
                0..=3 => {
                    let disk = lot.usize(..2);
                    let size = current[disk].len() as u64;
                    let length = 512 * lot.u64(1..600);
                    let offset = 512 * lot.u64(..(size - length) / 512);
                    // 0 is what a guest writes when it wipes: it must not show what lies below.
                    let pattern = *lot.choice(&[0, 1, 2, 3, 0xff]).unwrap();
                    rig.write(disk, pattern, offset, length, &mut current);
                }
                4..=5 => {
                    let name = format!("s{step}");
                    rig.done(rig.create(&name)).await;
                    kept.insert(name, current.clone());
                }
                6 if !chosen.is_empty() => {
                    rig.done(rig.restore(&chosen)).await;
                    current.clone_from(&kept[&chosen]);
                    let sizes: Vec<u64> = current.iter().map(|disk| disk.len() as u64).collect();
                    assert_eq!(rig.node.books.guest(rig.guest).unwrap().config.disks, sizes);
                }
                7 if !chosen.is_empty() => {
                    if rig.ask(rig.delete(&chosen)).await.success {
                        kept.remove(&chosen);
                    }
                }
                8 => {
                    let disk = lot.usize(..2);
                    let size = current[disk].len() as u64 + 512 * lot.u64(1..1000);
                    rig.done(rig.resize(disk as u64, size)).await;
                    current[disk].resize(usize::try_from(size).unwrap(), 0);
                }
                _ => rig.done(rig.shrink(lot.u64(..2))).await,
            }
            rig.compare(&rig.disks(), &current, &what);
        }
        for (name, expected) in &kept {
            rig.compare(&rig.frozen(name), expected, &format!("seed {seed}, snapshot {name}"));
            rig.done(rig.restore(name)).await;
            rig.compare(&rig.disks(), expected, &format!("seed {seed}, restored {name}"));
        }
        assert_eq!(rig.files().len(), 2 * (kept.len() + 1), "{:?}", rig.files());
        rig.done(Message::new(MessageId::DELETE_GUEST_REQUEST).string(Key::Instance, rig.guest.to_string())).await;
        assert!(rig.files().is_empty(), "{:?}", rig.files());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shrunk_disk_gives_back_what_it_does_not_need_and_keeps_its_backing() {
    if programs_are_missing("a_shrunk_disk_gives_back_what_it_does_not_need_and_keeps_its_backing") {
        return;
    }
    let mut rig = Rig::new().await;
    let mut current = empty();
    rig.write(0, 1, 0, MIB, &mut current);
    rig.done(rig.create("base")).await;
    rig.write(0, 7, 0, 4 * MIB, &mut current);
    rig.write(0, 0, MIB, 3 * MIB, &mut current);
    let disk = rig.disks()[0].clone();
    let used = |path: &str| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap());
    let before = used(&disk);
    rig.done(rig.shrink(0)).await;
    assert!(used(&disk) < before / 2, "{} blocks of {before}", used(&disk));
    rig.compare(&rig.disks(), &current, "shrunk");
    assert_eq!(LocalDisks::default().inspect(&disk).await.unwrap().backing, Some(rig.frozen("base")[0].clone()));
    assert_eq!(rig.files().len(), 4);
}

/// §14 B14, D15: the first disk was merged already when the second can't be.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_fails_at_the_second_disk_gives_the_first_one_back() {
    if programs_are_missing("a_delete_that_fails_at_the_second_disk_gives_the_first_one_back") {
        return;
    }
    let mut rig = Rig::new().await;
    let mut kept = empty();
    rig.write(0, 1, 0, 2 * MIB, &mut kept);
    rig.done(rig.create("base")).await;
    let mut current = kept.clone();
    rig.write(0, 2, MIB, 2 * MIB, &mut current);
    rig.done(rig.resize(0, 6 * MIB)).await;
    current[0].resize(6 << 20, 0);
    let broken = PathBuf::from(&rig.frozen("base")[1]);
    let whole = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, b"not an image").unwrap();
    let (book, files) = (rig.group(), rig.files());
    rig.fails(rig.delete("base"), "not in qcow2 format").await;
    assert_eq!((rig.group(), rig.files()), (book, files));
    rig.compare(&rig.disks()[..1], &current[..1], "current");
    rig.compare(&rig.frozen("base")[..1], &kept[..1], "base");
    std::fs::write(&broken, whole).unwrap();
    rig.done(rig.delete("base")).await;
    rig.compare(&rig.disks(), &current, "after the second try");
    assert_eq!(rig.files().len(), 2);
    assert!(!run("qemu-img", &["info", "-f", "qcow2", &rig.disks()[0]]).contains("before-merge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_died_with_its_process_is_taken_back_or_repeated() {
    if programs_are_missing("a_merge_that_died_with_its_process_is_taken_back_or_repeated") {
        return;
    }
    for restored in [true, false] {
        let mut rig = Rig::new().await;
        let mut kept = empty();
        rig.write(0, 1, 0, MIB, &mut kept);
        rig.done(rig.create("base")).await;
        let mut current = kept.clone();
        rig.write(0, 2, 512, MIB, &mut current);
        let (top, base) = (rig.disks()[0].clone(), rig.frozen("base")[0].clone());
        LocalDisks::default().merge(&top, &base).await.unwrap();
        rig.compare(&rig.disks(), &current, "the guest's disk shows the same");
        if restored {
            rig.done(rig.restore("base")).await;
            rig.compare(&rig.disks(), &kept, "restored");
        } else {
            rig.done(rig.delete("base")).await;
            rig.compare(&rig.disks(), &current, "deleted");
        }
        rig.compare(&rig.disks(), if restored { &kept } else { &current }, "after all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_else_writes_to_is_left_alone() {
    if programs_are_missing("an_image_that_somebody_else_writes_to_is_left_alone") {
        return;
    }
    let mut rig = Rig::new().await;
    rig.done(rig.create("base")).await;
    let disk = rig.disks()[0].clone();
    // It keeps the image open, with QEMU's locks, until its input ends.
    let mut user = Command::new("qemu-io").args(["-f", "qcow2", &disk]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let locked = || Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", &disk]).output().unwrap();
    while locked().status.success() {
        tokio::task::yield_now().await;
    }
    let (book, files) = (rig.group(), rig.files());
    for request in [rig.shrink(0), rig.delete("base"), rig.resize(0, 8 * MIB)] {
        rig.fails(request, "lock").await;
        assert_eq!((rig.group(), rig.files()), (book.clone(), files.clone()));
    }
    drop(user.stdin.take());
    user.wait().unwrap();
    rig.done(rig.delete("base")).await;
    rig.compare(&rig.disks(), &empty(), "nobody wrote");
}

/// §14 D14: the captured tree of the reference, s1 <- s2 <- s3 and s2 <- s4; the book that stays is one that it can take back.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_snapshot_can_go_and_the_names_stay_the_contracts() {
    if programs_are_missing("the_first_snapshot_can_go_and_the_names_stay_the_contracts") {
        return;
    }
    let mut rig = Rig::new().await;
    for name in ["s1", "s2", "s3"] {
        rig.done(rig.create(name)).await;
    }
    rig.done(rig.restore("s2")).await;
    rig.done(rig.create("s4")).await;
    rig.done(rig.delete("s1")).await;
    let group = rig.group();
    assert_eq!((group.base_snapshot.as_str(), group.active_snapshot.as_str()), ("s2", "s4"));
    let id = rig.guest;
    let mut expected: Vec<String> = ["s2_", "s3_", "s4_", ""]
        .into_iter()
        .flat_map(|snapshot| [format!("{id}_{snapshot}sys.qcow2"), format!("{id}_{snapshot}0.qcow2")])
        .collect();
    expected.sort();
    assert_eq!(rig.files(), expected);
    let backing = |path: &str| run("qemu-img", &["info", "--output=json", "-f", "qcow2", path]);
    assert!(!backing(&rig.frozen("s2")[0]).contains("backing-filename"));
    assert!(backing(&rig.frozen("s3")[1]).contains(&rig.frozen("s2")[1]));
    assert!(backing(&rig.disks()[0]).contains("\"backing-filename-format\": \"qcow2\""));
    assert!(Path::new(&rig.frozen("s4")[0]).exists());
}
