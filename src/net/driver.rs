//! The one task that owns a Cell's sockets in the domain.
//!
//! Contract: reads in batches, hands everything to the [`Membership`], then sends all that came out at once, so that several replies share
//! datagrams. When the rest of the service does not take its events in time, the driver stops reading, and the Core's sending window closes.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::error::NetError;
use super::handle::{DomainConfig, DomainEvent, DomainHandle, DomainStatus, Outbound, Outgoing, OUTBOUND_QUEUE};
use super::interface::Interface;
use super::multicast::Multicast;
use super::socket::{connect, reached, send, MAX_DATAGRAM};
use crate::model::RateLimit;
use crate::proto::member::{Action, MemberEvent, Membership, MembershipConfig, SendError};

/// Datagrams read, and messages taken from the queue, before what came of them is sent.
const BATCH: usize = 64;
/// Events that may wait in the channel and, as many again, in the driver.
const EVENT_QUEUE: usize = 1024;
/// How often the interface is looked at while it is in use.
const INTERFACE_CHECK: Duration = Duration::from_secs(2);

/// A driver, the handle that controls it, and the events that it gives.
pub fn domain(config: DomainConfig) -> (Driver, DomainHandle, mpsc::Receiver<DomainEvent>) {
    let (outgoing, outbound) = mpsc::channel(OUTBOUND_QUEUE);
    let (events, inbound) = mpsc::channel(EVENT_QUEUE);
    let (status, watched) = watch::channel(DomainStatus::default());
    let stop = CancellationToken::new();
    let handle = DomainHandle::new(Outbound::new(outgoing), watched, stop.clone());
    (Driver { config, outbound, events, status, stop }, handle, inbound)
}

/// A driver that has not begun yet.
#[derive(Debug)]
pub struct Driver {
    config: DomainConfig,
    outbound: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<DomainEvent>,
    status: watch::Sender<DomainStatus>,
    stop: CancellationToken,
}

impl Driver {
    /// Joins the domain and stays in it, whatever happens to the network, until [`DomainHandle::leave`] is called.
    ///
    /// Fails only where the system's random generator does.
    pub async fn run(self) -> Result<(), getrandom::Error> {
        let seed = getrandom::u64()?;
        let config = MembershipConfig {
            core_address: self.config.core_address,
            core_name: self.config.core_name.clone(),
            unclean: self.config.unclean,
            ..MembershipConfig::new(&self.config.name, &self.config.domain, seed)
        };
        let DomainConfig { domain, group, port, interface, core_address, .. } = &self.config;
        match core_address {
            Some(core) => info!("domain {domain}: looking for the Core at {core}"),
            None => info!("domain {domain}: looking for a Core in the group {group}:{port} on {interface}"),
        }
        let wiring = Wiring {
            membership: Membership::new(Duration::ZERO, config),
            epoch: Instant::now(),
            socket: None,
            multicast: None,
            checked: None,
            trouble: None,
            pending: VecDeque::new(),
            datagram: vec![0; MAX_DATAGRAM],
            strangers: RateLimit::default(),
            failures: RateLimit::new(1, Duration::from_secs(30)),
            driver: self,
        };
        wiring.run().await;
        Ok(())
    }
}

/// A running driver.
struct Wiring {
    driver: Driver,
    membership: Membership,
    /// Time 0 of the membership.
    epoch: Instant,
    socket: Option<UdpSocket>,
    multicast: Option<Multicast>,
    /// When the interface was last looked at.
    checked: Option<Duration>,
    trouble: Option<String>,
    /// Events that the channel had no room for.
    pending: VecDeque<DomainEvent>,
    datagram: Vec<u8>,
    strangers: RateLimit,
    failures: RateLimit,
}

/// What the driver waited for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Wake {
    Datagrams(io::Result<()>),
    Echoes(io::Result<()>),
    Outgoing(Option<Outgoing>),
    Room,
    Stop,
    Timeout,
}

impl Wiring {
    async fn run(mut self) {
        let mut stopping = false;
        loop {
            self.act();
            self.publish();
            if self.membership.is_finished() {
                break;
            }
            match self.wait(stopping).await {
                Wake::Datagrams(ready) => self.read(ready),
                Wake::Echoes(ready) => self.read_echoes(ready),
                Wake::Outgoing(outgoing) => {
                    stopping |= outgoing.is_none();
                    self.take_outgoing(outgoing);
                }
                Wake::Room => self.deliver(),
                Wake::Stop => {
                    stopping = true;
                    self.drain_outgoing();
                    let now = self.now();
                    self.membership.leave(now);
                }
                Wake::Timeout => {}
            }
            let now = self.now();
            self.membership.handle_timeout(now);
        }
        debug!("left the domain");
    }

    async fn wait(&mut self, stopping: bool) -> Wake {
        let has_room = self.pending.len() < EVENT_QUEUE;
        let deadline = self.membership.next_timeout().map(|at| self.epoch + at);
        tokio::select! {
            ready = readable(self.socket.as_ref()), if has_room => Wake::Datagrams(ready),
            outgoing = self.driver.outbound.recv(), if !stopping => Wake::Outgoing(outgoing),
            room = self.driver.events.reserve(), if !self.pending.is_empty() => {
                drop(room);
                Wake::Room
            }
            ready = echoes(self.multicast.as_ref()) => Wake::Echoes(ready),
            () = self.driver.stop.cancelled(), if !stopping => Wake::Stop,
            () = reached(deadline) => Wake::Timeout,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Carries out what the membership wants done.
    fn act(&mut self) {
        let now = self.now();
        while let Some(action) = self.membership.poll_action(now) {
            match action {
                Action::Transmit(datagram) => self.transmit(now, &datagram),
                Action::Event(event) => self.tell(event),
                Action::Ping(ping) => self.ping(now, &ping),
                Action::CloseSocket => self.socket = None,
                Action::Open(core) => match connect(core) {
                    Ok((socket, local)) => {
                        self.socket = Some(socket);
                        self.membership.socket_opened(local);
                    }
                    Err(error) => {
                        self.socket = None;
                        self.membership.socket_failed(now, &chain(&error));
                    }
                },
            }
        }
    }

    fn transmit(&mut self, now: Duration, datagram: &[u8]) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, datagram) {
            self.socket_error(now, &error);
        }
    }

    fn socket_error(&mut self, now: Duration, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.membership.socket_refused(now);
        } else if let Some(more) = self.failures.pass(now) {
            warn!("the connection's socket reports: {error}{more}");
        }
    }

    fn read(&mut self, ready: io::Result<()>) {
        let now = self.now();
        if let Err(error) = ready {
            return self.socket_error(now, &error);
        }
        for _ in 0..BATCH {
            let Some(socket) = &self.socket else { return };
            match socket.try_recv(&mut self.datagram) {
                Ok(length) => {
                    let datagram = self.datagram.get(..length).unwrap_or_default();
                    if let Err(error) = self.membership.receive(now, datagram) {
                        if let Some(more) = self.strangers.pass(now) {
                            warn!("ignored a datagram on the connection: {}{more}", chain(&error));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.socket_error(now, &error),
            }
        }
    }

    fn read_echoes(&mut self, ready: io::Result<()>) {
        let now = self.now();
        if let Err(error) = ready {
            return self.leave_group(now, &error);
        }
        for _ in 0..BATCH {
            let Some(multicast) = &self.multicast else { return };
            match multicast.try_receive(&mut self.datagram) {
                Ok((length, source)) => {
                    let datagram = self.datagram.get(..length).unwrap_or_default();
                    if let Err(error) = self.membership.handle_echo(now, datagram) {
                        if let Some(more) = self.strangers.pass(now) {
                            warn!("ignored an echo from {source}: {}{more}", chain(&error));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.leave_group(now, &error),
            }
        }
    }

    fn take_outgoing(&mut self, outgoing: Option<Outgoing>) {
        let Some(outgoing) = outgoing else {
            // Nobody is left who could send or ask us to leave.
            let now = self.now();
            return self.membership.leave(now);
        };
        self.send(outgoing);
        for _ in 1..BATCH {
            match self.driver.outbound.try_recv() {
                Ok(outgoing) => self.send(outgoing),
                Err(_) => return,
            }
        }
    }

    /// What was handed over before we were told to leave goes out first.
    fn drain_outgoing(&mut self) {
        while let Ok(outgoing) = self.driver.outbound.try_recv() {
            self.send(outgoing);
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        let (link, message) = match outgoing {
            Outgoing::Message { link, message } => (link, message),
            Outgoing::Probe(answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(());
                return;
            }
        };
        match self.membership.send(link, &message) {
            Ok(()) => {}
            // Normal while there is no Core, and after one is gone.
            Err(error @ (SendError::NotJoined | SendError::Stale { .. })) => debug!("dropped {}: {error}", message.id),
            Err(error) => {
                let now = self.now();
                if let Some(more) = self.failures.pass(now) {
                    warn!("dropped {}: {}{more}", message.id, chain(&error));
                }
            }
        }
    }

    fn ping(&mut self, now: Duration, ping: &[u8]) {
        self.check_interface(now);
        let Some(multicast) = &self.multicast else { return };
        if let Err(error) = multicast.send(ping, self.driver.config.port) {
            if error.kind() != io::ErrorKind::WouldBlock {
                self.leave_group(now, &error);
            }
        }
    }

    /// Joins the group, again when the interface has become another one.
    fn check_interface(&mut self, now: Duration) {
        let fresh = self.checked.is_some_and(|checked| now < checked + INTERFACE_CHECK);
        if fresh {
            return;
        }
        self.checked = Some(now);
        match self.joined_group() {
            Ok(multicast) => {
                if let Some(multicast) = multicast {
                    self.multicast = Some(multicast);
                }
                if self.trouble.take().is_some() {
                    info!("network interface {} is ready, looking for a Core", self.driver.config.interface);
                }
            }
            Err(error) => {
                self.multicast = None;
                self.in_trouble(chain(&error));
            }
        }
    }

    /// A new membership of the group where the present one is no longer right.
    fn joined_group(&self) -> Result<Option<Multicast>, NetError> {
        let DomainConfig { group, port, interface, .. } = &self.driver.config;
        let interface = Interface::find(interface)?;
        if self.multicast.as_ref().is_some_and(|multicast| *multicast.interface() == interface) {
            return Ok(None);
        }
        Multicast::join(*group, port.saturating_sub(1), interface).map(Some)
    }

    fn leave_group(&mut self, now: Duration, error: &io::Error) {
        self.multicast = None;
        self.checked = Some(now);
        self.in_trouble(format!("multicast on {} fails: {error}", self.driver.config.interface));
    }

    fn in_trouble(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!("cannot look for a Core: {trouble}");
            self.trouble = Some(trouble);
        }
    }

    fn tell(&mut self, event: MemberEvent) {
        let event = match event {
            MemberEvent::Joined { link, core_name, core_address, local_address } => {
                info!("joined {core_name} at {core_address} from {local_address}");
                DomainEvent::Joined { link, core_name, core_address, local_address }
            }
            MemberEvent::Message { link, message } => DomainEvent::Request { link, message },
            MemberEvent::Invalid { link, id, from, reason } => DomainEvent::Invalid { link, id, from, reason },
            MemberEvent::Left { link, reason } => {
                info!("the connection to the Core ended: {reason}");
                DomainEvent::Left { link, reason }
            }
            MemberEvent::Lost { .. } => return warn!("the Core is silent"),
            MemberEvent::Recovered { .. } => return info!("the Core is heard again"),
            MemberEvent::AttemptFailed { core_address, reason, failures } => {
                // Attempts go on for ever; so that the log does not, it tells of the 1st, 2nd, 4th, 8th …
                if failures.is_power_of_two() {
                    warn!(failures, "cannot join the Core at {core_address}: {reason}");
                }
                return;
            }
        };
        self.pending.push_back(event);
        self.deliver();
    }

    /// Hands over as many events as there is room for. Nobody may be listening any more, while the service stops.
    fn deliver(&mut self) {
        while let Some(event) = self.pending.pop_front() {
            match self.driver.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => return self.pending.push_front(event),
                Err(mpsc::error::TrySendError::Closed(_)) => self.pending.clear(),
            }
        }
    }

    fn publish(&self) {
        let status = DomainStatus { link: self.membership.status(), trouble: self.trouble.clone() };
        self.driver.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                *current = status;
            }
            changed
        });
    }
}

async fn readable(socket: Option<&UdpSocket>) -> io::Result<()> {
    match socket {
        Some(socket) => socket.readable().await,
        None => std::future::pending().await,
    }
}

async fn echoes(multicast: Option<&Multicast>) -> io::Result<()> {
    match multicast {
        Some(multicast) => multicast.readable().await,
        None => std::future::pending().await,
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
