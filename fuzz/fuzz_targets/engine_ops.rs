//! A node on a simulated host with any messages, events and faults in any order: each request gets its one answer, no handler panics, nothing outside
//! of the pools is touched, and when all is quiet no session is left.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use cell::host::sim::{SimHost, SimImage};
use cell::host::{ErrorKind, HostEvent};
use cell::model::{GuestId, LOCAL_POOL};
use cell::proto::message::{Key, Message, MessageId};
use cell::store::Store;
use cell::txn::addresses::detect;
use cell::txn::handlers::{find, HANDLED};
use cell::txn::monitor::Monitor;
use cell::txn::node::{Books, NodeSettings};
use cell::txn::{Engine, Node, Outbox};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const LINK: u64 = 3;

/// Texts that a Core could send, and some that it never would.
const TEXTS: [&str; 24] = [
    "",
    "01010101-0101-0101-0101-010101010101",
    "02020202-0202-0202-0202-020202020202",
    "group.vm1",
    "local0",
    "root",
    "10.0.0.5/24",
    "10.0.0.1",
    "nfs",
    "/share",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "x\0y",
    "line\nbreak",
    "\"'<>&]]>",
    "<![CDATA[x]]>",
    "${HOME}`id`",
    "--option",
    "nbd:localhost:1",
    "json:{}",
    "\u{202e}\u{feff}é",
    "qemu",
    "cloud-init",
];

#[derive(Debug)]
struct Text(String);

impl<'a> Arbitrary<'a> for Text {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        cell_fuzz::text(u, &TEXTS).map(Self)
    }
}

/// An agent's answer, or something like one.
#[derive(Arbitrary, Debug)]
enum Addresses {
    Raw(Text),
    Listed(Vec<(Text, Text, u8)>),
}

impl Addresses {
    fn json(&self) -> String {
        match self {
            Self::Raw(Text(text)) => text.clone(),
            Self::Listed(list) => {
                let entry = |(Text(mac), Text(address), prefix): &(Text, Text, u8)| {
                    serde_json::json!({ "name": "eth0", "hardware-address": mac,
                        "ip-addresses": [{ "ip-address-type": "ipv4", "ip-address": address, "prefix": prefix }] })
                };
                serde_json::json!({ "return": list.iter().map(entry).collect::<Vec<_>>() }).to_string()
            }
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Param {
    Bool(u8, bool),
    Text(u8, Text),
    Uint(u8, u64),
    Small(u8, u8),
    Int(u8, i64),
    Float(u8, f64),
    Uints(u8, Vec<u8>),
    Large(u8, Vec<u64>),
    Texts(u8, Vec<Text>),
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A message with nothing but what the fuzzer gives it.
    Message {
        which: u8,
        from: u8,
        to: u8,
        params: Vec<Param>,
    },
    /// A request that a Core would send, with some of it changed.
    Create {
        guest: u8,
        has_agent: bool,
        params: Vec<Param>,
    },
    Start {
        guest: u8,
        params: Vec<Param>,
    },
    Invalid {
        id: u32,
        from: u8,
        reason: Text,
    },
    Pass(u16),
    Fail {
        nth: u8,
        kind: u8,
    },
    Hang(u8),
    Release,
    Power(u8, bool),
    Undefine(u8),
    Disconnect,
    Connect,
    /// What the guest's agent says from now on when it is asked for a password or for addresses: guests are hostile too.
    AgentAnswer(u8, Text),
    AgentAddresses(u8, Addresses),
    DiskSize(u32),
    Close,
}

fn guest(number: u8) -> GuestId {
    GuestId::from_bytes([number % 3 + 1; 16])
}

fn with(mut message: Message, params: Vec<Param>) -> Message {
    for param in params.into_iter().take(32) {
        // The keys of the contract are below 100.
        let key = |number: u8| Key(u32::from(number % 100));
        message = match param {
            Param::Bool(k, value) => message.bool(key(k), value),
            Param::Text(k, Text(value)) => message.string(key(k), value),
            Param::Uint(k, value) => message.uint(key(k), value),
            Param::Small(k, value) => message.uint(key(k), value.into()),
            Param::Int(k, value) => message.int(key(k), value),
            Param::Float(k, value) => message.float(key(k), value),
            Param::Uints(k, values) => message.uints(key(k), values.into_iter().map(u64::from).collect::<Vec<_>>()),
            Param::Large(k, values) => message.uints(key(k), values),
            Param::Texts(k, values) => message.strings(key(k), values.into_iter().map(|Text(text)| text).collect::<Vec<_>>()),
        };
    }
    message
}

fn create(id: GuestId) -> Message {
    let message = Message::new(MessageId::CREATE_GUEST_REQUEST).string(Key::Name, format!("group.{id}"));
    let texts = [(Key::User, "admin"), (Key::Group, "manager"), (Key::Admin, "root"), (Key::Secret, ""), (Key::Path, ""), (Key::Pool, "p")];
    let message = texts.into_iter().fold(message, |message, (key, text)| message.string(key, text)).string(Key::Instance, id.to_string());
    let message = message.uint(Key::Core, 1).uint(Key::Memory, 64 << 20).uint(Key::Priority, 1).bool(Key::Option, false);
    let message = message.uints(Key::Disk, [64 << 20, 32 << 20]).uints(Key::Flag, [1]).uints(Key::Limit, [0; 6]).uints(Key::Mode, [1, 0]);
    message.uints(Key::Template, [0, 1, 2, 0, 0, 0, 1]).strings(Key::Address, ["".into(), "".into()]).strings(Key::Module, [])
}

#[derive(Default)]
struct Answers {
    wanted: HashMap<u32, Option<MessageId>>,
    given: HashMap<u32, u32>,
}

#[derive(Default)]
struct Core(Mutex<Answers>);

impl Outbox for Core {
    fn send(&self, link: Option<u64>, message: Message) {
        assert!(!message.error.contains("internal error"), "{}", message.error);
        let Some(link) = link else { return };
        assert_eq!(link, LINK);
        let mut answers = self.0.lock();
        // Progress and further steps of a transaction carry other ids.
        if answers.wanted.get(&message.to).is_some_and(|id| *id == Some(message.id)) {
            *answers.given.entry(message.to).or_default() += 1;
        }
    }
}

struct Rig {
    sim: SimHost,
    engine: Engine,
    monitor: Monitor,
    core: Arc<Core>,
    events: mpsc::Receiver<HostEvent>,
    next_session: u32,
}

impl Rig {
    async fn new(directory: &std::path::Path, stop: CancellationToken) -> Self {
        let sim = SimHost::new();
        sim.put_image(TEXTS[1], SimImage { size: 1 << 20, capacity: 1 << 20 });
        sim.put_media(TEXTS[1], 1 << 20);
        let mut opened = Store::open(directory, "br0").expect("an empty directory");
        let host = sim.host();
        let pool = host.storage.ensure_local_pool(LOCAL_POOL, "/images/local0").await.expect("a pool");
        opened.loaded.storage.pools.insert(pool.name.clone(), pool);
        opened.loaded.storage.system_paths = vec!["/images".into()];
        opened.loaded.storage.data_paths = vec!["/images".into()];
        let books = Arc::new(Books::new(opened.loaded));
        tokio::spawn(opened.writer.run(books.clone(), stop));
        let events = host.hypervisor.take_events().expect("taken once");
        let core = Arc::new(Core::default());
        let settings = NodeSettings { bridge: "br0".into(), name: "Cell_a".into(), pools_dir: "/pools".into() };
        let node = Arc::new(Node::new(host, books, opened.store, core.clone(), settings));
        tokio::spawn(detect::run(node.clone()));
        let engine = Engine::new(node.clone(), Duration::from_secs(10));
        let monitor = Monitor::new(node);
        Self { sim, engine, monitor, core, events, next_session: 1000 }
    }

    fn ask(&mut self, message: Message, is_asked: bool) {
        let session = if is_asked { self.next_session } else { 0 };
        self.next_session += 1;
        let entry = find(message.id).filter(|_| message.to == 0);
        let answer = entry.map_or(message.id.is_request().then(|| message.id.response()), |entry| entry.answer);
        // A message into a session may be what a transaction waits for, which answers in its own name.
        if is_asked && message.to == 0 {
            self.core.0.lock().wanted.insert(session, answer);
        }
        self.engine.request(LINK, message.from_session(session));
    }

    async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => self.monitor.take(event.expect("the host lives")).await,
                () = self.engine.reap() => {}
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    async fn act(&mut self, operation: Operation) {
        match operation {
            Operation::Message { which, from, to, params } => {
                let id = HANDLED[usize::from(which) % HANDLED.len()];
                let to = if to < 224 { 0 } else { u32::from(to) - 222 };
                self.ask(with(Message::new(id).to_session(to), params), from != 0);
            }
            Operation::Create { guest: number, has_agent, params } => {
                let modules = if has_agent { vec!["qemu".into()] } else { Vec::new() };
                self.ask(with(create(guest(number)).strings(Key::Module, modules), params), true);
            }
            Operation::Start { guest: number, params } => {
                let start = Message::new(MessageId::START_INSTANCE_REQUEST).string(Key::Instance, guest(number).to_string());
                self.ask(with(start.uint(Key::Option, 0), params), true);
            }
            Operation::Invalid { id, from, reason: Text(reason) } => {
                self.engine.invalid(LINK, Some(MessageId(id)), u32::from(from), &reason);
            }
            Operation::Pass(millis) => self.pass(Duration::from_millis(u64::from(millis) % 30_000)).await,
            Operation::Fail { nth, kind } => {
                let kinds = [ErrorKind::Failed, ErrorKind::NoSpace, ErrorKind::Unknown, ErrorKind::NotFound, ErrorKind::Busy];
                self.sim.fail_at(u64::from(nth) + 1, kinds[usize::from(kind) % kinds.len()]);
            }
            Operation::Hang(number) => self.sim.hang(guest(number)),
            Operation::Release => (1..=3).for_each(|number| self.sim.release(guest(number))),
            Operation::Power(number, running) => self.sim.set_power_behind(guest(number), running),
            Operation::Undefine(number) => self.sim.undefine_behind(guest(number)),
            Operation::Disconnect => self.sim.disconnect("the fuzzer says so"),
            Operation::Connect => self.sim.connect(),
            Operation::AgentAnswer(number, Text(answer)) => self.sim.set_agent_answer(guest(number), "guest-set-user-password", &answer),
            Operation::AgentAddresses(number, answer) => {
                self.sim.set_agent_answer(guest(number), "guest-network-get-interfaces", &answer.json());
            }
            Operation::DiskSize(mib) => self.sim.set_disk_size(u64::from(mib) << 20),
            Operation::Close => self.engine.close(),
        }
    }

    async fn finish(&mut self) {
        self.sim.clear_faults();
        self.sim.connect();
        (1..=3).for_each(|number| self.sim.release(guest(number)));
        self.engine.close();
        let begun = tokio::time::Instant::now();
        while self.engine.active() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(3600), "a transaction never ends");
            self.pass(Duration::from_secs(20)).await;
        }
        let answers = self.core.0.lock();
        for (session, id) in answers.wanted.iter().filter_map(|(session, id)| Some((session, (*id)?))) {
            assert_eq!(answers.given.get(session), Some(&1), "answers to session {session}, {id}");
        }
        self.check_paths();
    }

    /// Everything lies in a directory of a pool, under a name that leads nowhere else.
    fn check_paths(&self) {
        let state = self.sim.state();
        let is_inside = |path: &String| {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name);
            let in_pool = state.directories.keys().any(|directory| parent.starts_with(directory.as_str()));
            in_pool && !path.split('/').any(|part| part == "..") && !name.is_empty() && !path.contains('\0')
        };
        for path in state.files.keys().chain(state.layers.keys()).chain(state.contents.keys()).chain(state.parts.keys()) {
            assert!(is_inside(path), "{path:?} is outside of {:?}", state.directories.keys());
        }
        for name in state.directories.values().flat_map(|volumes| volumes.keys()) {
            assert!(!name.contains('/') && !name.contains('\0') && name != ".." && !name.is_empty(), "volume {name:?}");
        }
    }
}

fuzz_target!(|operations: Vec<Operation>| {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut rig = Rig::new(directory.path(), stop.clone()).await;
        for operation in operations.into_iter().take(60) {
            rig.act(operation).await;
        }
        rig.finish().await;
        stop.cancel();
    });
});
