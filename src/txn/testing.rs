//! A node on a simulated host with the domain's end in the test's hands.

pub(super) mod pair;
mod reboot;
mod record;
mod table;

pub(super) use reboot::Remains;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::monitor::Monitor;
use super::node::Books;
use super::node::NodeSettings;
use super::{Engine, Node, Outbox};
use crate::host::sim::{SimHost, SimProcess};
use crate::host::HostEvent;
use crate::model::{GuestId, LOCAL_POOL};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::testing::TestDisk;
use crate::store::{self, DataFile, Opened};
use record::{Record, RecordedEngine};

/// The configured timeout of the tests.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The number that the test's connection has.
pub(super) const LINK: u64 = 7;

pub(super) struct Recorder {
    /// Whose messages these are: a dead process sends none.
    process: SimProcess,
    sent: Mutex<Vec<(Option<u64>, Message)>>,
    /// What was told first under each id: true but for a failure.
    told: Mutex<BTreeMap<MessageId, bool>>,
    news: Notify,
    record: Arc<Record>,
}

impl Outbox for Recorder {
    fn send(&self, link: Option<u64>, message: Message) {
        if self.process.is_dead() {
            return;
        }
        self.told.lock().entry(message.id).or_insert_with(|| message.error.is_empty());
        self.record.see(link, &message);
        self.sent.lock().push((link, message));
        self.news.notify_waiters();
    }
}

pub(super) struct Rig {
    pub(super) sim: SimHost,
    pub(super) node: Arc<Node>,
    pub(super) engine: RecordedEngine,
    pub(super) monitor: Monitor,
    pub(super) disk: TestDisk,
    pub(super) directory: tempfile::TempDir,
    outbox: Arc<Recorder>,
    events: Option<tokio::sync::mpsc::Receiver<HostEvent>>,
    _stop: tokio_util::sync::DropGuard,
}

impl Rig {
    /// A node with an empty pool `local0`, as after the first start.
    pub(super) async fn new() -> Self {
        Self::named("Cell_a").await
    }

    /// The same, with this name in the domain.
    pub(super) async fn named(name: &str) -> Self {
        let sim = SimHost::new();
        let directory = tempfile::tempdir().unwrap();
        let disk = TestDisk::new(sim.process());
        let mut opened = store::testing::open(&disk, directory.path()).unwrap();
        let pool = sim.host().storage.ensure_local_pool(LOCAL_POOL, "/images/local0").await.unwrap();
        opened.loaded.storage.pools.insert(pool.name.clone(), pool);
        opened.loaded.storage.mode = "local".into();
        opened.loaded.storage.system_paths = vec!["/images".into()];
        opened.loaded.storage.data_paths = vec!["/images".into()];
        let mut rig = Self::build(sim, directory, disk, name, opened);
        rig.node.save(&DataFile::ALL).await.unwrap();
        rig.listen();
        rig.take_host_events().await;
        rig
    }

    fn build(sim: SimHost, directory: tempfile::TempDir, disk: TestDisk, name: &str, opened: Opened) -> Self {
        let books = Arc::new(Books::new(opened.loaded));
        let stop = CancellationToken::new();
        tokio::spawn(opened.writer.run(books.clone(), stop.clone()));
        let record = Arc::new(Record::new(&sim));
        let (process, recorded) = (sim.process(), record.clone());
        let outbox = Arc::new(Recorder { process, sent: Mutex::default(), told: Mutex::default(), news: Notify::new(), record: recorded });
        let settings = NodeSettings { bridge: "br0".into(), name: name.into(), pools_dir: "/pools".into() };
        let node = Arc::new(Node::new(sim.host(), books, opened.store, outbox.clone(), settings));
        let engine = RecordedEngine::new(Engine::new(node.clone(), TIMEOUT), &node, record);
        let monitor = Monitor::new(node.clone());
        Self { sim, node, engine, monitor, disk, directory, outbox, events: None, _stop: stop.drop_guard() }
    }

    fn listen(&mut self) {
        self.events = self.sim.host().hypervisor.take_events();
    }

    /// Everything sent since the last call.
    pub(super) fn sent(&self) -> Vec<Message> {
        self.outbox.sent.lock().drain(..).map(|(_, message)| message).collect()
    }

    /// Hands what the host told so far to the monitor.
    pub(super) async fn take_host_events(&mut self) {
        while let Some(Ok(event)) = self.events.as_mut().map(tokio::sync::mpsc::Receiver::try_recv) {
            self.monitor.take(event).await;
        }
    }

    /// Waits until the host tells something, and hands it to the monitor.
    pub(super) async fn next_host_event(&mut self) {
        let event = self.events.as_mut().unwrap().recv().await.unwrap();
        self.monitor.take(event).await;
    }

    /// Sends a request as the Core and waits for its answer; what comes besides stays in [`Rig::sent`].
    pub(super) async fn ask(&mut self, request: Message) -> Message {
        let session = 900;
        self.engine.request(LINK, request.from_session(session));
        self.answer(session).await
    }

    /// The answer for one of the Core's sessions.
    pub(super) async fn answer(&mut self, session: u32) -> Message {
        loop {
            let news = self.outbox.news.notified();
            let found = {
                let mut sent = self.outbox.sent.lock();
                let at = sent.iter().position(|(link, message)| *link == Some(LINK) && message.to == session);
                at.map(|at| sent.remove(at).1)
            };
            if let Some(answer) = found {
                return answer;
            }
            tokio::select! {
                () = news => {}
                () = self.engine.reap() => {}
            }
        }
    }

    /// True when the first that was told under this id was a success, or an event that knows no failure.
    pub(super) fn told(&self, id: MessageId) -> bool {
        self.outbox.told.lock().get(&id).is_some_and(|success| *success)
    }

    /// What was told before does not count.
    pub(super) fn forget(&self) {
        self.outbox.told.lock().clear();
    }

    /// Sends a message as the Core, and waits until all transactions have ended.
    pub(super) async fn tell(&mut self, message: Message) {
        self.engine.request(LINK, message);
        self.settle().await;
    }

    /// Waits until no transaction runs.
    pub(super) async fn settle(&mut self) {
        while self.engine.active() > 0 {
            self.engine.reap().await;
        }
    }

    /// The data files as they are on disk.
    pub(super) fn files(&self) -> BTreeMap<&'static str, String> {
        let read = |file: DataFile| (file.name(), std::fs::read_to_string(self.directory.path().join(file.name())).unwrap());
        DataFile::ALL.map(read).into_iter().collect()
    }

    /// Creates a guest and forgets the messages about it.
    pub(super) async fn with_guest(&mut self, number: u8) -> GuestId {
        let id = GuestId::from_bytes([number; 16]);
        self.outbox.record.setup(true);
        let answer = self.ask(create_request(id, &format!("group.guest{number}"))).await;
        assert!(answer.success, "{}", answer.error);
        self.settle().await;
        self.take_host_events().await;
        self.sent();
        self.outbox.record.setup(false);
        id
    }
}

/// A request for a guest with two blank disks, as the Core sends it (vectors, lifecycle t≈4.11).
pub(super) fn create_request(id: GuestId, name: &str) -> Message {
    Message::new(MessageId::CREATE_GUEST_REQUEST)
        .string(Key::Name, name)
        .string(Key::Instance, id.to_string())
        .string(Key::User, "admin")
        .string(Key::Group, "manager")
        .string(Key::Admin, "root")
        .string(Key::Secret, "")
        .string(Key::Path, "")
        .string(Key::Pool, "default")
        .uint(Key::Core, 1)
        .uint(Key::Memory, 64 << 20)
        .uint(Key::Priority, 1)
        .bool(Key::Option, false)
        .uints(Key::Disk, [64 << 20, 32 << 20])
        .uints(Key::Flag, [1])
        .uints(Key::Limit, [0, 0, 600, 500, 0, 0])
        .uints(Key::Mode, [1, 0])
        .uints(Key::Template, [0, 1, 2, 0, 0, 0, 1])
        .strings(Key::Address, [String::new(), String::new()])
        .strings(Key::Module, [])
}

/// A request about one guest.
pub(super) fn about(request: MessageId, id: GuestId) -> Message {
    Message::new(request).string(Key::Instance, id.to_string())
}

/// A start without media.
pub(super) fn start_request(id: GuestId) -> Message {
    about(MessageId::START_INSTANCE_REQUEST, id).uint(Key::Option, 0)
}

/// A stop with `[reboot, force]`.
pub(super) fn stop_request(id: GuestId, flags: [u64; 2]) -> Message {
    about(MessageId::STOP_INSTANCE_REQUEST, id).uints(Key::Option, flags)
}

/// A request for a guest whose system disk is cloned from [`IMAGE`].
pub(super) fn clone_request(id: GuestId, name: &str) -> Message {
    with_image(create_request(id, name)).uint(Key::Size, IMAGE_SIZE)
}

/// A new system disk from [`IMAGE`].
pub(super) fn reset_request(id: GuestId) -> Message {
    let request = Message::new(MessageId::RESET_SYSTEM_REQUEST).string(Key::Guest, id.to_string());
    with_image(request).uint(Key::Size, IMAGE_SIZE)
}

/// An image from a guest's system disk.
pub(super) fn export_request(id: GuestId) -> Message {
    with_image(Message::new(MessageId::CREATE_DISK_IMAGE_REQUEST).string(Key::Guest, id.to_string()))
}

/// The image that requests of the tests name, and its size in bytes.
pub(super) const IMAGE: &str = "c13b15ea-9d3c-458f-8b1e-853fe09e9b9c";
pub(super) const IMAGE_SIZE: u64 = 25_493_504;

fn with_image(request: Message) -> Message {
    request.string(Key::Image, IMAGE).string(Key::Host, "10.226.0.1").uint(Key::Port, 5801)
}
