//! A Core and a whole node, joined by the real protocol over a link that loses datagrams, in virtual time: the clock stands still while anything works, and
//! jumps to whatever is due next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use cell::host::sim::SimHost;
use cell::host::HostEvent;
use cell::model::{Guest, GuestConfig, GuestId, InstanceBook, NetworkBook, Resource, StorageBook, Volume, VolumeGroup};
use cell::proto::hub::{Hub, HubConfig, HubEvent};
use cell::proto::member::{Action, LinkStatus, MemberEvent, Membership, MembershipConfig};
use cell::proto::message::Message;
use cell::proto::transport::TransportConfig;
use cell::store::{encode, DataFile, Store};
use cell::txn::monitor::Monitor;
use cell::txn::node::{Books, NodeSettings};
use cell::txn::{Engine, Node, Outbox};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, Instant};
use tokio_util::sync::CancellationToken;

pub const CELL: &str = "Cell_02fce2000101";
const CORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5600);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const DELAY: Duration = Duration::from_micros(200);
const DIRECTORY: &str = "/images/local0";

/// The configured timeout, T_cell.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How the Core's end of the connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreEnd {
    /// As the real one: windows of 32 segments, acknowledged every 100 ms.
    Real,
    /// As quick as our own end: no Core is, and so none can press us more.
    Quick,
}

type Sent = (Option<u64>, Message);

struct Outgoing(mpsc::UnboundedSender<Sent>);

impl Outbox for Outgoing {
    fn send(&self, link: Option<u64>, message: Message) {
        let _ = self.0.send((link, message)); // nobody listens once the test is over
    }
}

/// What the Core got.
pub struct Received {
    pub at: Instant,
    pub message: Message,
}

enum Packet {
    ToCore(Vec<u8>, SocketAddrV4),
    ToCell(Vec<u8>, SocketAddrV4),
}

pub struct Domain {
    pub sim: SimHost,
    pub node: Arc<Node>,
    monitor: Monitor,
    pub engine: Engine,
    pub hub: Hub,
    pub member: Membership,
    /// Datagrams lost, in percent, each way.
    pub loss: u8,
    pub received: Vec<Received>,
    /// When each of the Core's sessions asked something of the engine, and when the engine answered.
    pub arrived: BTreeMap<u32, Instant>,
    pub answered: BTreeMap<u32, Instant>,
    /// Lost, recovered, left: what either end saw and should not have.
    pub troubles: Vec<String>,
    /// When the Core last heard a datagram, and the longest pause between two so far.
    pub heard: Instant,
    pub longest_silence: Duration,
    epoch: Instant,
    lot: fastrand::Rng,
    air: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: BTreeMap<u64, Packet>,
    sent: u64,
    local: Option<SocketAddrV4>,
    port: u16,
    outgoing: mpsc::UnboundedReceiver<Sent>,
    events: mpsc::Receiver<HostEvent>,
    background: JoinSet<()>,
    place: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Domain {
    /// A node with so many guests, which has joined a Core.
    pub async fn new(guests: u32, end: CoreEnd, seed: u64) -> Self {
        let place = tempfile::tempdir().unwrap();
        let sim = with_guests(place.path(), guests).await;
        let host = sim.host();
        let opened = Store::open(place.path(), "br0").unwrap();
        assert!(opened.loaded.notices.is_empty(), "{:?}", opened.loaded.notices);
        let books = Arc::new(Books::new(opened.loaded));
        let stop = CancellationToken::new();
        tokio::spawn(opened.writer.run(books.clone(), stop.clone()));
        let events = host.hypervisor.take_events().unwrap();
        let (sender, outgoing) = mpsc::unbounded_channel();
        let settings = NodeSettings { bridge: "br0".into(), name: CELL.into(), pools_dir: "/pools".into() };
        let node = Arc::new(Node::new(host, books, opened.store, Arc::new(Outgoing(sender)), settings));
        let engine = Engine::new(node.clone(), TIMEOUT);
        let transport = match end {
            CoreEnd::Real => TransportConfig::core(0),
            CoreEnd::Quick => TransportConfig::default(),
        };
        let hub = Hub::new(HubConfig { transport, ..HubConfig::new("Core_000000000001") });
        let mut lot = fastrand::Rng::with_seed(seed);
        let config = MembershipConfig { core_address: Some(CORE), ..MembershipConfig::new(CELL, "nano", lot.u64(..)) };
        let now = Instant::now();
        let mut domain = Self {
            sim,
            monitor: Monitor::new(node.clone()),
            node,
            engine,
            hub,
            member: Membership::new(Duration::ZERO, config),
            loss: 0,
            received: Vec::new(),
            arrived: BTreeMap::new(),
            answered: BTreeMap::new(),
            troubles: Vec::new(),
            heard: now,
            longest_silence: Duration::ZERO,
            epoch: now,
            lot,
            air: BinaryHeap::new(),
            packets: BTreeMap::new(),
            sent: 0,
            local: None,
            port: 30_000,
            outgoing,
            events,
            background: JoinSet::new(),
            place,
            _stop: stop.drop_guard(),
        };
        let joined = domain.until(Duration::from_secs(5), |domain| matches!(domain.member.status(), LinkStatus::Joined { .. }));
        assert!(joined.await, "the Cell has not joined");
        domain
    }

    /// The tasks that a service has running beside its requests.
    pub fn with_background(&mut self) {
        let (usage, guarded, looked) = (self.node.usage.clone(), self.node.clone(), self.node.clone());
        self.background.spawn(async move { usage.keep_fresh().await });
        self.background.spawn(async move { cell::txn::guard::keep(guarded).await.unwrap() });
        self.background.spawn(async move { cell::txn::addresses::detect::run(looked).await });
    }

    /// The Core sends a message.
    pub fn ask(&mut self, message: &Message) {
        self.hub.send(CELL, message).expect("the Core's queue has room");
    }

    /// Runs until the condition holds; false when it does not within `limit`.
    pub async fn until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + limit;
        loop {
            self.settle();
            if condition(self) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            self.wait(end).await;
        }
    }

    /// Lets this time pass.
    pub async fn pass(&mut self, time: Duration) {
        self.until(time, |_| false).await;
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn wait(&mut self, end: Instant) {
        let timers = [self.member.next_timeout(), self.hub.next_timeout()].into_iter().flatten().map(|at| self.epoch + at);
        let arrival = self.air.peek().map(|Reverse((at, _))| *at);
        let next = timers.chain(arrival).min().unwrap_or(end).min(end);
        // A moment that has passed and stays due would stop the clock.
        let next = next.max(Instant::now() + Duration::from_micros(100));
        let sent = tokio::select! {
            biased;
            sent = self.outgoing.recv() => sent,
            () = self.engine.reap() => None,
            Some(event) = self.events.recv() => {
                self.monitor.take(event).await;
                None
            }
            () = sleep_until(next) => None,
        };
        if let Some(sent) = sent {
            self.send(sent);
        }
        let now = self.now();
        while self.air.peek().is_some_and(|Reverse((at, _))| *at <= Instant::now()) {
            let Some(packet) = self.air.pop().and_then(|Reverse((_, number))| self.packets.remove(&number)) else { continue };
            self.deliver(now, packet);
        }
        self.member.handle_timeout(now);
        self.hub.handle_timeout(now);
    }

    fn deliver(&mut self, now: Duration, packet: Packet) {
        match packet {
            Packet::ToCore(datagram, from) => {
                self.longest_silence = self.longest_silence.max(self.heard.elapsed());
                self.heard = Instant::now();
                let _ = self.hub.receive(now, from, &datagram);
            }
            Packet::ToCell(datagram, to) if self.local == Some(to) => self.member.receive(now, &datagram).unwrap(),
            Packet::ToCell(..) => {}
        }
    }

    fn send(&mut self, (link, message): Sent) {
        if link.is_some() {
            self.answered.insert(message.to, Instant::now());
        }
        if let Err(error) = self.member.send(link, &message) {
            self.troubles.push(format!("{} not sent: {error}", message.id));
        }
    }

    /// Carries out what both ends want done now.
    fn settle(&mut self) {
        while let Ok(sent) = self.outgoing.try_recv() {
            self.send(sent);
        }
        let now = self.now();
        while let Some(action) = self.member.poll_action(now) {
            match action {
                Action::Transmit(datagram) => {
                    let from = self.local.expect("a socket is open");
                    self.carry(Packet::ToCore(datagram, from));
                }
                Action::Open(_) => {
                    self.port += 1;
                    let local = SocketAddrV4::new(HOST, self.port);
                    self.local = Some(local);
                    self.member.socket_opened(local);
                }
                Action::CloseSocket => self.local = None,
                Action::Ping(_) => {}
                Action::Event(MemberEvent::Message { link, message }) => {
                    self.arrived.insert(message.from, Instant::now());
                    self.engine.request(link, message);
                }
                Action::Event(MemberEvent::Joined { .. }) => {}
                Action::Event(other) => self.troubles.push(format!("{other:?}")),
            }
        }
        while let Some((to, datagram)) = self.hub.poll_transmit(now) {
            self.carry(Packet::ToCell(datagram, to));
        }
        while let Some(event) = self.hub.poll_event() {
            match event {
                HubEvent::Message { message, .. } => self.received.push(Received { at: Instant::now(), message }),
                HubEvent::Connected { .. } => {}
                other => self.troubles.push(format!("{other:?}")),
            }
        }
    }

    fn carry(&mut self, packet: Packet) {
        if self.lot.u8(..100) < self.loss {
            return;
        }
        self.sent += 1;
        self.packets.insert(self.sent, packet);
        self.air.push(Reverse((Instant::now() + DELAY, self.sent)));
    }

    /// The data directory.
    pub fn directory(&self) -> &std::path::Path {
        self.place.path()
    }
}

/// The guest with this number.
pub fn id(number: u32) -> GuestId {
    GuestId::from_bytes((u128::from(number) | 0x0b5a_7c7e_6f5d_4d6a_9f43_0000_0000_0000).to_be_bytes())
}

/// A host with a pool, volumes and domains of so many guests, and their books in `directory`.
async fn with_guests(directory: &std::path::Path, count: u32) -> SimHost {
    let sim = SimHost::new();
    let host = sim.host();
    let mut pool = host.storage.ensure_local_pool("local0", DIRECTORY).await.unwrap();
    let mut instance = InstanceBook { max_guest: count.max(100) + 100, ..InstanceBook::default() };
    let mut network = NetworkBook { default_bridge: "br0".into(), ..NetworkBook::default() };
    let mut storage = StorageBook { mode: "local".into(), current_pool: pool.name.clone(), ..StorageBook::default() };
    (storage.system_paths, storage.data_paths) = (vec!["/images".into()], vec!["/images".into()]);
    for number in 0..count {
        let guest = guest(number);
        let mut volumes = Vec::new();
        for name in &guest.storage_volumes {
            let made = host.storage.create_volume("local0", name, 64 << 20).await.unwrap();
            pool.volumes.insert(name.clone(), true);
            volumes.push(Volume {
                name: name.clone(),
                format: "qcow2".into(),
                key: made.key,
                path: made.path,
                capacity: 64 << 20,
                pool: "local0".into(),
            });
        }
        host.hypervisor.define(&guest).await.unwrap();
        let resource = Resource {
            monitor_port: guest.monitor_port,
            hardware_address: guest.hardware_address.clone(),
            internal_address: guest.internal_address.clone(),
            external_address: String::new(),
        };
        network.resources.insert(guest.id, resource);
        storage.groups.insert(guest.id, VolumeGroup { system: volumes.remove(0), data: volumes, ..VolumeGroup::default() });
        instance.instances.push(Arc::new(guest));
    }
    storage.pools.insert(pool.name.clone(), pool);
    for (file, content) in [
        (DataFile::Instance, encode(DataFile::Instance, &instance)),
        (DataFile::Storage, encode(DataFile::Storage, &storage)),
        (DataFile::Network, encode(DataFile::Network, &network)),
    ] {
        std::fs::write(directory.join(file.name()), content.unwrap()).unwrap();
    }
    sim
}

/// As large in a report as guests usually are.
fn guest(number: u32) -> GuestConfig {
    let id = id(number);
    let value = serde_json::json!({
        "name": format!("department.server-{number:04}"),
        "id": id,
        "user": "administrator",
        "group": "department",
        "cores": 2,
        "memory": 2_147_483_648_u64,
        "disks": [10_737_418_240_u64, 21_474_836_480_u64],
        "monitor_port": 5901 + number,
        "monitor_secret": "a8bytes!",
        "storage_pool": "local0",
        "storage_volumes": [format!("{id}_sys.qcow2"), format!("{id}_0.qcow2")],
        "network_mode": 1,
        "network_source": "br0",
        "hardware_address": format!("00:16:3e:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 0xff, number & 0xff),
        "auth_user": "root",
        "create_time": "2026-11-20 07:33:32",
        "internal_address": format!("10.1.{}.{}/16", number >> 8, number & 0xff),
        "template": {
            "operating_system": "linux", "disk": "scsi", "network": "virtio", "display": "vga", "control": "vnc", "tablet": "usb"
        }
    });
    let config: GuestConfig = serde_json::from_value(value).unwrap();
    assert!(Guest::new(config.clone()).created);
    config
}
