//! The captured directory on a simulated host that holds what its libvirt held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cell::host::sim::{SimHost, SimState};
use cell::host::HostEvent;
use cell::model::{GuestConfig, GuestId};
use cell::proto::message::{Key, Message, MessageId};
use cell::store::{DataFile, Store};
use cell::txn::monitor::Monitor;
use cell::txn::node::{Books, NodeSettings};
use cell::txn::{recovery, Engine, Node, Outbox};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The captured guests.
pub const WEB: GuestId = guest(0x99bb_8d3d_8561_40bd_87e0_ae0d_2d24_055e);
pub const DB: GuestId = guest(0xc763_7500_4bb0_4fdd_90ff_207f_eebd_1da0);
pub const CLOUD: GuestId = guest(0x06d7_4573_575d_4029_be80_203e_97b9_344f);
pub const OLD: GuestId = guest(0x2cbd_87a1_c585_4797_876d_4fc8_21fd_85f3);
pub const WIN: GuestId = guest(0x4531_a577_67ed_4c0e_8bbb_f228_f798_a174);

/// The data files of the reference.
pub const FILES: [&str; 3] = ["instance.data", "storage.data", "network.data"];

const POOL: &str = "local0";
const DIRECTORY: &str = "/var/lib/libvirt/images/local0";

const fn guest(number: u128) -> GuestId {
    GuestId::from_bytes(number.to_be_bytes())
}

/// A file of the captured directory.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/takeover/reference-1.4.1").join(name)
}

/// One blank of indent, no newline at the end (contract §8).
pub fn as_the_reference_writes(value: &Value) -> Vec<u8> {
    let mut content = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut content, formatter)).unwrap();
    content
}

/// A request about an instance.
pub fn about(request: MessageId, guest: GuestId) -> Message {
    Message::new(request).string(Key::Instance, guest.to_string())
}

/// A request about a guest's settings or disks.
pub fn setting(request: MessageId, guest: GuestId) -> Message {
    Message::new(request).string(Key::Guest, guest.to_string())
}

struct Answers(mpsc::UnboundedSender<Message>);

impl Outbox for Answers {
    fn send(&self, link: Option<u64>, message: Message) {
        if link.is_some() {
            let _ = self.0.send(message); // nobody listens once the test is over
        }
    }
}

/// A node that has taken the captured directory over.
pub struct Takeover {
    pub sim: SimHost,
    pub node: Arc<Node>,
    monitor: Monitor,
    /// The host before.
    pub before: SimState,
    engine: Engine,
    answers: mpsc::UnboundedReceiver<Message>,
    events: mpsc::Receiver<HostEvent>,
    place: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Takeover {
    /// As it was captured.
    pub async fn begin() -> Self {
        Self::prepared(|_| {}).await
    }

    /// With changes to the files, by name, before we see them.
    pub async fn prepared(change: impl FnOnce(&mut Value)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut files = Value::Object(serde_json::Map::new());
        for file in FILES {
            files[file] = serde_json::from_slice(&std::fs::read(fixture(&format!("data/{file}"))).unwrap()).unwrap();
        }
        change(&mut files);
        for file in FILES {
            std::fs::write(place.path().join(file), as_the_reference_writes(&files[file])).unwrap();
        }
        let sim = captured_host(&files).await;
        let before = sim.state();
        let host = sim.host();
        let opened = Store::open(place.path(), "br0").unwrap();
        let lost: Vec<_> = opened.loaded.notices.iter().filter(|notice| notice.is_loss()).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let books = Arc::new(Books::new(opened.loaded));
        let stop = CancellationToken::new();
        tokio::spawn(opened.writer.run(books.clone(), stop.clone()));
        let events = host.hypervisor.take_events().unwrap();
        let (sender, answers) = mpsc::unbounded_channel();
        let settings = NodeSettings { bridge: "br0".into(), name: "Cell_46cb03aa47c4".into(), pools_dir: "/pools".into() };
        let node = Arc::new(Node::new(host, books, opened.store, Arc::new(Answers(sender)), settings));
        let engine = Engine::new(node.clone(), Duration::from_secs(10));
        let mut cell =
            Self { sim, monitor: Monitor::new(node.clone()), node, before, engine, answers, events, place, _stop: stop.drop_guard() };
        cell.take_host_events().await;
        recovery::clean_up(&cell.node).await;
        cell.node.save(&DataFile::ALL).await.unwrap();
        cell
    }

    /// Sends a request and gives its answer once the transaction has ended.
    pub async fn ask(&mut self, request: Message) -> Message {
        self.engine.request(1, request.from_session(9));
        while self.engine.active() > 0 {
            self.engine.reap().await;
        }
        self.take_host_events().await;
        self.answers.try_recv().unwrap()
    }

    /// The same, for a request that must succeed.
    pub async fn done(&mut self, request: Message) -> Message {
        let id = request.id;
        let answer = self.ask(request).await;
        assert!(answer.success, "{id}: {}", answer.error);
        answer
    }

    async fn take_host_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.monitor.take(event).await;
        }
    }

    /// The data files as they are now.
    pub fn data(&self) -> BTreeMap<String, Vec<u8>> {
        FILES.map(|file| (file.to_owned(), std::fs::read(self.place.path().join(file)).unwrap())).into_iter().collect()
    }

    /// One of them.
    pub fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&self.data()[name]).unwrap()
    }

    /// Ids of all domains on the host.
    pub fn domains(&self) -> BTreeSet<String> {
        self.sim.state().domains.keys().map(GuestId::to_string).collect()
    }
}

/// Pool, images with what they are based on, domains and their filters; `win` runs.
async fn captured_host(files: &Value) -> SimHost {
    let sim = SimHost::new();
    let host = sim.host();
    host.storage.ensure_local_pool(POOL, DIRECTORY).await.unwrap();
    for image in images() {
        let (name, size) = (image["filename"].as_str().unwrap(), image["virtual-size"].as_u64().unwrap());
        match image["backing-filename"].as_str() {
            Some(backing) => host.disks.overlay(&format!("{DIRECTORY}/{name}"), backing, size).await.unwrap(),
            None => drop(host.storage.create_volume(POOL, name, size).await.unwrap()),
        }
    }
    for guest in files["instance.data"]["instances"].as_array().unwrap() {
        let config: GuestConfig = serde_json::from_value(guest.clone()).unwrap();
        host.hypervisor.define(&config).await.unwrap();
        host.hypervisor.set_autostart(config.id, config.auto_start).await.unwrap();
    }
    sim.set_power_behind(WIN, true);
    sim
}

/// What `qemu-img info` said of each image.
fn images() -> Vec<Value> {
    let text = std::fs::read_to_string(fixture("volumes.txt")).unwrap();
    let parts = text.split("== ").filter_map(|part| part.split_once('\n'));
    let images: Vec<Value> = parts.map(|(_, json)| serde_json::from_str(json).unwrap()).collect();
    assert_eq!(images.len(), 11, "the five guests' seven disks and four snapshots");
    images
}
