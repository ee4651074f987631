//! Building the service, its main loop, and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::guests_net;
use super::health::{self, Questions};
use super::prepare::prepare_pools;
use super::report::send_reports;
use super::supervisor::Supervisor;
use super::{AppError, Settings, Started};
use crate::host::libvirt::{Libvirt, LibvirtConfig};
use crate::host::network::HostNetwork;
use crate::host::storage::{ImageClient, ImageSettings, ImageTls, LocalDisks, SharedFiles};
use crate::host::{Bridge, ErrorKind, Host, HostError};
use crate::model::ServiceStatus;
use crate::net::{self, DomainConfig, DomainEvent, DomainHandle, Outbound};
use crate::observe::StatusSocket;
use crate::process::signals::{Shutdown, Signals};
use crate::process::trail::Trail;
use crate::process::{notify, Home};
use crate::proto::member::LinkStatus;
use crate::proto::message::Message;
use crate::store::{DataFile, Identity, RunMarker, Store};
use crate::txn::audit::{Asker, AuditLog, Record};
use crate::txn::monitor::Monitor;
use crate::txn::node::{Books, Load, NodeSettings};
use crate::txn::{answer_time, guard, held, recovery, thaws, Engine, Node, Outbox};
use crate::{config, host};

/// Longest time that a call of libvirt gets, whatever the domain's timeout is.
const LONGEST_CALL: Duration = Duration::from_secs(60);
/// How long a start waits for a Core before it says that none has answered yet.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
/// What transactions that are under way get at the end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// What libvirt gets to take notice of the newest volumes.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// What the tasks get to end by themselves.
const TASK_PATIENCE: Duration = Duration::from_secs(3);

/// The tasks that end by themselves.
pub(super) const DRIVER: &str = "the domain's driver";
pub(super) const WRITER: &str = "the writer of the data files";
const MONITOR: &str = "the host's events";

/// The main loop, which hands every request to the engine.
const ENGINE: &str = "the engine of transactions";

/// Builds the service, runs it, ends it.
pub(super) async fn run(settings: Settings, on_ready: impl FnOnce(&Started)) -> Result<(), AppError> {
    // From here on a signal ends the service in order.
    let mut signals = Signals::listen().map_err(AppError::System)?;
    let mut service = tokio::select! {
        service = Service::build(&settings) => service?,
        _ = signals.shutdown() => return Ok(()),
    };
    let result = service.serve(&mut signals, on_ready).await;
    notify::stopping();
    service.end(&mut signals).await;
    result
}

/// Answers and events of transactions go to the domain's driver.
struct DomainOutbox(Outbound);

impl Outbox for DomainOutbox {
    fn send(&self, link: Option<u64>, message: Message) {
        let id = message.id;
        if let Err(error) = self.0.send(link, message) {
            tracing::warn!("{id} can't be sent: {error}");
        }
    }
}

/// Records of the audit trail become lines of `log/audit.log`.
struct AuditTrail(Trail);

impl AuditLog for AuditTrail {
    fn note(&self, record: &Record) -> oneshot::Receiver<()> {
        match serde_json::to_string(record) {
            Ok(line) => self.0.write(line),
            Err(error) => {
                tracing::error!("a record of the audit trail can't be written: {error}");
                oneshot::channel().1
            }
        }
    }
}

struct Service {
    engine: Engine,
    domain: DomainHandle,
    inbound: mpsc::Receiver<DomainEvent>,
    tasks: Supervisor,
    started: Started,
    marker: RunMarker,
    stop_following: CancellationToken,
    stop_writing: CancellationToken,
    node: Arc<Node>,
    /// Asked by the watch over the service's health.
    questions: Questions,
}

impl Service {
    async fn build(settings: &Settings) -> Result<Self, AppError> {
        let trail = Trail::open(&settings.home.audit_file()).map_err(AppError::System)?;
        let network = HostNetwork::new(&settings.cell.bridge);
        let bridge = host::Network::bridge(&network).map_err(|source| AppError::Host { what: "the bridge is not ready", source })?;
        let mut opened = Store::open(&settings.home.data_dir(), &settings.cell.bridge).map_err(AppError::Store)?;
        for notice in &opened.loaded.notices {
            match notice.is_loss() {
                true => tracing::error!("{notice}"),
                false => tracing::warn!("{notice}"),
            }
        }
        let name = identity(&settings.home, &opened.store, &bridge)?;
        let libvirt = Libvirt::connect(libvirt_config(settings)).await;
        let libvirt = Arc::new(libvirt.map_err(|source| AppError::Host { what: "libvirt is not ready", source })?);
        let images = ImageClient::new(&image_settings(settings));
        let images = images.map_err(|source| AppError::Host { what: "disk images can't be fetched as configured", source })?;
        let host = Host {
            hypervisor: libvirt.clone(),
            storage: libvirt,
            disks: Arc::<LocalDisks>::default(),
            network: Arc::new(network),
            images: Arc::new(images),
            shared: Arc::new(SharedFiles::default()),
        };
        let lost = opened.loaded.lost;
        let prepared = prepare_pools(&host, &mut opened.loaded.storage, lost).await;
        prepared.map_err(|source| AppError::Host { what: "the storage pool can't be made", source })?;
        let marker = opened.store.mark_running().map_err(AppError::Store)?;
        if marker.unclean() {
            tracing::warn!("the last run did not end in order");
        }
        let (driver, domain, inbound) = net::domain(DomainConfig {
            group: *settings.domain.group.ip(),
            port: settings.domain.group.port(),
            domain: settings.domain.domain.clone(),
            interface: settings.cell.bridge.clone(),
            name: name.clone(),
            core_address: settings.cell.core_address,
            core_name: settings.cell.core_name.clone(),
            unclean: marker.unclean(),
        });
        let books = Arc::new(Books::new(opened.loaded));
        let outbox = Arc::new(DomainOutbox(domain.outbound()));
        let pools_dir = settings.home.pools_dir().to_string_lossy().into_owned();
        let node_settings = NodeSettings { bridge: settings.cell.bridge.clone(), name: name.clone(), pools_dir };
        let node = Node::new(host, books.clone(), opened.store, outbox, node_settings);
        let node = Arc::new(node);
        let trail: Arc<dyn AuditLog> = Arc::new(AuditTrail(trail));
        // Nobody has set it before.
        let _ = node.trail.set(trail.clone());
        let stop_writing = CancellationToken::new();
        let mut tasks = Supervisor::default();
        tasks.spawn(WRITER, opened.writer.run(books, stop_writing.clone()));
        recovery::clean_up(&node).await;
        if lost {
            recovery::rebuild(&node).await;
        }
        let stop_following = CancellationToken::new();
        follow_host(&node, &mut tasks, &stop_following).await;
        node.store.flush(&DataFile::ALL).await.map_err(AppError::Store)?;
        let started = Started {
            name,
            local_address: bridge.address,
            group: settings.domain.group,
            domain: settings.domain.domain.clone(),
            core: None,
        };
        tasks.spawn(DRIVER, driver.run());
        tasks.spawn("the status report", send_reports(node.clone()));
        let usage = node.usage.clone();
        tasks.spawn("the sampler of guests", async move {
            usage.keep_fresh().await;
            Ok::<(), String>(())
        });
        tasks.spawn("the watch over full disks", held::keep(node.clone()));
        tasks.spawn("the thawing of file systems", thaws::keep(node.clone()));
        tasks.spawn("the guard of shared pools", guard::keep(node.clone()));
        guests_net::serve(&node, &mut tasks);
        serve_status(settings, &node, &domain, &started, &mut tasks);
        let engine = Engine::new(node.clone(), settings.domain.timeout).audited(trail);
        let (engine_probe, questions) = Questions::new(ENGINE);
        let probes = vec![engine_probe, health::driver(&domain), health::writer(&node.store)];
        tasks.spawn("the watch over the service's health", async move {
            health::watch(probes, notify::watchdog_interval(), notify::alive).await;
            Ok::<(), String>(())
        });
        Ok(Self { engine, domain, inbound, tasks, started, marker, stop_following, stop_writing, node, questions })
    }

    /// The main loop, until a signal or the end of a task.
    async fn serve(&mut self, signals: &mut Signals, on_ready: impl FnOnce(&Started)) -> Result<(), AppError> {
        let mut on_ready = Some(on_ready);
        let patience = tokio::time::sleep(JOIN_PATIENCE);
        tokio::pin!(patience);
        loop {
            let announce = tokio::select! {
                event = self.inbound.recv() => match event {
                    Some(event) => self.take(event),
                    // The driver's task has ended; its end is told below.
                    None => return Err(self.tasks.failure().await),
                },
                () = self.engine.reap() => false,
                () = &mut patience, if on_ready.is_some() => true,
                () = self.questions.answer() => false,
                _ = signals.shutdown() => return Ok(()),
                error = self.tasks.failure() => return Err(error),
            };
            if announce {
                if let Some(on_ready) = on_ready.take() {
                    on_ready(&self.started);
                }
            }
        }
    }

    /// Takes what the domain has for us; true when a Core has just taken us.
    fn take(&mut self, event: DomainEvent) -> bool {
        match event {
            DomainEvent::Request { link, message } => self.engine.request(link, message),
            DomainEvent::Invalid { link, id, from, reason } => self.engine.invalid(link, id, from, &reason),
            DomainEvent::Left { reason, .. } => {
                tracing::warn!("lost the Core, looking for it: {reason}");
                self.engine.left();
                self.started.core = None;
                notify::status(&self.started.line());
            }
            DomainEvent::Joined { core_name, core_address, local_address, .. } => {
                tracing::info!("joined {core_name} at {core_address} from {local_address}");
                self.started.local_address = Some(*local_address.ip());
                self.engine.joined(Asker { name: core_name.clone(), address: core_address });
                self.started.core = Some(core_name);
                notify::status(&self.started.line());
                return true;
            }
        }
        false
    }

    /// The orderly end; a second signal makes it quick.
    async fn end(mut self, signals: &mut Signals) {
        let drained = self.drain(signals).await;
        if drained > 0 {
            let Load { jobs, waiting, transfers, .. } = self.node.load();
            tracing::warn!(
                "{drained} transactions had not ended and are left behind: {jobs} guests in work, {transfers} transfers, {waiting} waiting for the Core"
            );
        }
        // What it cleans up is written to the journal: it ends before the writer does.
        self.stop_following.cancel();
        let settled = tokio::time::timeout(SETTLE_PATIENCE, self.node.host.storage.settle());
        let (left, settled, straggler) = tokio::join!(self.domain.leave(), settled, self.tasks.wait(&[MONITOR], TASK_PATIENCE));
        for straggler in straggler {
            tracing::warn!("{straggler} had not ended");
        }
        if !left {
            tracing::warn!("the Core did not confirm our leaving in time");
        }
        if settled.is_err() {
            tracing::warn!("libvirt has not read its storage pools again in time; it may not know the newest volumes yet");
        }
        self.stop_writing.cancel();
        for straggler in self.tasks.finish(&[DRIVER, WRITER], TASK_PATIENCE).await {
            tracing::warn!("{straggler} had not ended");
        }
        if let Err(error) = self.marker.clear() {
            tracing::warn!("{}", crate::process::error_chain(&error));
        }
    }

    /// Lets transactions end while new requests are refused, those that wait in line too; gives the number of transactions left.
    async fn drain(&mut self, signals: &mut Signals) -> usize {
        let Self { engine, inbound, .. } = self;
        engine.close();
        let deadline = tokio::time::Instant::now() + DRAIN_PATIENCE;
        loop {
            while let Ok(event) = inbound.try_recv() {
                refuse(engine, event);
            }
            if engine.active() == 0 {
                break;
            }
            tokio::select! {
                () = engine.reap() => {}
                Some(event) = inbound.recv() => refuse(engine, event),
                shutdown = signals.shutdown() => {
                    if shutdown == Shutdown::Quick {
                        break;
                    }
                }
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        engine.active()
    }
}

/// Has a closed engine answer what the Core still sends.
fn refuse(engine: &mut Engine, event: DomainEvent) {
    if let DomainEvent::Request { link, message } = event {
        engine.request(link, message);
    }
}

/// The node's name: from the bridge's MAC on the first start, kept ever after.
fn identity(home: &Home, store: &Store, bridge: &Bridge) -> Result<String, AppError> {
    if bridge.mac == [0; 6] && !Identity::is_fixed(&home.data_dir()) {
        let reason =
            format!("bridge {} has no MAC address that could name this node: give it a port, or set one with 'ip link set'", bridge.name);
        return Err(AppError::Host { what: "the bridge is not ready", source: HostError::new(ErrorKind::Unsupported, reason) });
    }
    let identity = store.identity(bridge.mac).map_err(AppError::Store)?;
    if let Some(warning) = &identity.warning {
        tracing::error!("{warning}");
    }
    Ok(identity.name)
}

pub(super) fn libvirt_config(settings: &Settings) -> LibvirtConfig {
    let standard = LibvirtConfig::default();
    LibvirtConfig {
        uri: settings.cell.libvirt_uri.clone(),
        virtualization: settings.cell.virtualization,
        guest_log_dir: Some(settings.home.log_dir().join("guests")),
        call_timeout: answer_time(settings.domain.timeout).clamp(standard.call_timeout, LONGEST_CALL),
        ..standard
    }
}

pub(super) fn image_settings(settings: &Settings) -> ImageSettings {
    let images = &settings.cell.images;
    let tls = match images.tls {
        config::ImageTls::Insecure => ImageTls::Insecure,
        config::ImageTls::Verify => ImageTls::Verify,
    };
    ImageSettings { tls, ca: images.ca.clone(), cache_bytes: images.cache_bytes, ..ImageSettings::default() }
}

/// Takes the first full list in before anything else happens, then follows the host's events.
async fn follow_host(node: &Arc<Node>, tasks: &mut Supervisor, stop: &CancellationToken) {
    let Some(mut events) = node.host.hypervisor.take_events() else {
        return;
    };
    let mut monitor = Monitor::new(node.clone());
    if let Some(event) = events.recv().await {
        monitor.take(event).await;
    }
    let stop = stop.clone();
    tasks.spawn(MONITOR, async move {
        monitor.follow(events, stop).await;
        Ok::<(), String>(())
    });
}

/// `cell status` asks here. A socket that can't be made costs only the details.
fn serve_status(settings: &Settings, node: &Arc<Node>, domain: &DomainHandle, started: &Started, tasks: &mut Supervisor) {
    let socket = match StatusSocket::bind(&settings.home.status_socket()) {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!("'cell status' will show no details: {error}"),
    };
    let (node, link, started, since) = (node.clone(), domain.status(), started.clone(), Instant::now());
    let snapshot = move || status(&node, &link.borrow().link, &started, since);
    tasks.spawn("the status socket", async move {
        socket.serve(snapshot).await;
        Ok::<(), String>(())
    });
}

fn status(node: &Node, link: &LinkStatus, started: &Started, since: Instant) -> ServiceStatus {
    let (guests, running, lost) = node.guest_counts();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (core, core_address) = match link {
        LinkStatus::Joined { core_name, core_address, .. } => (Some(core_name.clone()), Some(*core_address)),
        _ => (None, None),
    };
    ServiceStatus {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: started.name.clone(),
        uptime_s: since.elapsed().as_secs(),
        domain: started.domain.clone(),
        group: started.group,
        local_address: node.bridge_address(),
        core,
        core_address,
        guests: count(guests),
        running_guests: count(running),
        lost_guests: count(lost),
        requests: node.count(&node.counters.received),
        failed_requests: node.count(&node.counters.failed),
        late_requests: node.count(&node.counters.expired),
        held_guests: [node.held.lines(), node.thaws.lines()].concat(),
    }
}
