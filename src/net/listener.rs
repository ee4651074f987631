//! The Core's side: one UDP socket for all its Cells, and the answers to their pings.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::driver::chain;
use super::error::{NetError, SendError};
use super::interface::Interface;
use super::multicast::Multicast;
use super::socket::{bind, local_v4, reached, send_to, MAX_DATAGRAM};
use crate::model::RateLimit;
use crate::proto::discovery;
use crate::proto::hub::{Hub, HubConfig, HubEvent};
use crate::proto::message::Message;

/// Ports that a Core tries in turn (contract §2.2).
pub const PORTS: RangeInclusive<u16> = 5600..=5799;

const BATCH: usize = 64;
const OUTBOUND_QUEUE: usize = 4096;
const EVENT_QUEUE: usize = 1024;

/// How a Core is found.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The domain's multicast group.
    pub group: Ipv4Addr,
    /// The port that pings come to; echoes go to the one below.
    pub port: u16,
    /// The domain's name.
    pub domain: String,
    /// The interface on which pings are heard and answered.
    pub interface: Interface,
}

/// What a Core needs to know to listen.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// The address to listen on, which the echoes give.
    pub address: Ipv4Addr,
    /// Ports to try in turn; 0 lets the system choose.
    pub ports: RangeInclusive<u16>,
    /// Without it, Cells must know the address.
    pub discovery: Option<Discovery>,
    /// Name, intervals and behaviour.
    pub hub: HubConfig,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Command {
    Send { name: String, message: Message },
    Disconnect { name: String },
}

/// Control over a listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ListenerHandle {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

impl ListenerHandle {
    /// Queues a message to the node of this name; dropped when it is not connected.
    pub fn send(&self, name: &str, message: Message) -> Result<(), SendError> {
        self.command(Command::Send { name: name.into(), message })
    }

    /// Says "closed" to the node of this name.
    pub fn disconnect(&self, name: &str) -> Result<(), SendError> {
        self.command(Command::Disconnect { name: name.into() })
    }

    /// Says "closed" to everybody; the listener's task ends within 3 s.
    pub fn close(&self) {
        self.stop.cancel();
    }

    fn command(&self, command: Command) -> Result<(), SendError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Ended,
        })
    }
}

/// A listener: bound, and ready to run.
#[derive(Debug)]
pub struct Listener {
    hub: Hub,
    epoch: Instant,
    socket: UdpSocket,
    address: SocketAddrV4,
    discovery: Option<(Discovery, Multicast)>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<HubEvent>,
    pending: VecDeque<HubEvent>,
    stop: CancellationToken,
    datagram: Vec<u8>,
    strangers: RateLimit,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Wake {
    Datagrams,
    Pings,
    Command(Option<Command>),
    Room,
    Stop,
    Timeout,
}

impl Listener {
    /// Takes the first free port and joins the discovery group.
    pub fn bind(config: ListenerConfig) -> Result<(Self, ListenerHandle, mpsc::Receiver<HubEvent>), NetError> {
        let (socket, address) = first_free(config.address, config.ports)?;
        let discovery = match config.discovery {
            Some(discovery) => {
                let multicast = Multicast::join(discovery.group, discovery.port, discovery.interface.clone())?;
                Some((discovery, multicast))
            }
            None => None,
        };
        let (sender, commands) = mpsc::channel(OUTBOUND_QUEUE);
        let (events, inbound) = mpsc::channel(EVENT_QUEUE);
        let stop = CancellationToken::new();
        let handle = ListenerHandle { commands: sender, stop: stop.clone() };
        let listener = Self {
            hub: Hub::new(config.hub),
            epoch: Instant::now(),
            socket,
            address,
            discovery,
            commands,
            events,
            pending: VecDeque::new(),
            stop,
            datagram: vec![0; MAX_DATAGRAM],
            strangers: RateLimit::default(),
        };
        Ok((listener, handle, inbound))
    }

    /// Where connections are taken.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Serves until [`ListenerHandle::close`] is called or every handle is gone.
    pub async fn run(mut self) {
        let mut stopping = false;
        loop {
            self.flush();
            if stopping && self.hub.is_idle() {
                break;
            }
            match self.wait(stopping).await {
                Wake::Datagrams => self.read(),
                Wake::Pings => self.answer_pings(),
                Wake::Command(Some(command)) => self.carry_out(command),
                Wake::Command(None) | Wake::Stop => {
                    stopping = true;
                    let now = self.now();
                    self.hub.close(now);
                }
                Wake::Room | Wake::Timeout => {}
            }
            let now = self.now();
            self.hub.handle_timeout(now);
        }
        debug!("the listener on {} is closed", self.address);
    }

    async fn wait(&mut self, stopping: bool) -> Wake {
        let has_room = self.pending.len() < EVENT_QUEUE;
        let deadline = self.hub.next_timeout().map(|at| self.epoch + at);
        tokio::select! {
            _ = self.socket.readable(), if has_room => Wake::Datagrams,
            command = self.commands.recv(), if !stopping => Wake::Command(command),
            room = self.events.reserve(), if !self.pending.is_empty() => {
                drop(room);
                Wake::Room
            }
            () = pings(self.discovery.as_ref()), if !stopping => Wake::Pings,
            () = self.stop.cancelled(), if !stopping => Wake::Stop,
            () = reached(deadline) => Wake::Timeout,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn read(&mut self) {
        let now = self.now();
        for _ in 0..BATCH {
            let (length, remote) = match self.socket.try_recv_from(&mut self.datagram) {
                Ok((length, SocketAddr::V4(remote))) => (length, remote),
                Ok(_) => continue,
                Err(_) => return, // nothing more, or a refusal by some peer's host: its silence will tell
            };
            let datagram = self.datagram.get(..length).unwrap_or_default();
            if let Err(error) = self.hub.receive(now, remote, datagram) {
                if let Some(more) = self.strangers.pass(now) {
                    warn!("ignored a datagram from {remote}: {}{more}", chain(&error));
                }
            }
        }
    }

    fn answer_pings(&mut self) {
        let now = self.now();
        let Some((discovery, multicast)) = &self.discovery else { return };
        for _ in 0..BATCH {
            let (length, source) = match multicast.try_receive(&mut self.datagram) {
                Ok((length, SocketAddr::V4(source))) => (length, source),
                Ok(_) => continue,
                Err(_) => return,
            };
            let datagram = self.datagram.get(..length).unwrap_or_default();
            let answer = discovery::answer(datagram, *source.ip(), &discovery.domain, self.address);
            let sent = match &answer {
                Ok(echo) => multicast.send(echo, discovery.port.saturating_sub(1)).map_err(|error| chain(&error)),
                Err(error) => Err(chain(error)),
            };
            if let Err(reason) = sent {
                if let Some(more) = self.strangers.pass(now) {
                    warn!("no echo for the ping from {source}: {reason}{more}");
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        self.apply(command);
        for _ in 1..BATCH {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command),
                Err(_) => return,
            }
        }
    }

    fn apply(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Disconnect { name } => self.hub.disconnect(now, &name),
            Command::Send { name, message } => {
                if let Err(error) = self.hub.send(&name, &message) {
                    warn!("dropped {} to {name}: {}", message.id, chain(&error));
                }
            }
        }
    }

    fn flush(&mut self) {
        let now = self.now();
        while let Some((remote, datagram)) = self.hub.poll_transmit(now) {
            let _ = send_to(&self.socket, &datagram, remote); // what is lost is sent again
        }
        while let Some(event) = self.pending.pop_front().or_else(|| self.hub.poll_event()) {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.pending.push_front(event);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.pending.clear(),
            }
        }
        while let Some(event) = self.hub.poll_event() {
            self.pending.push_back(event);
        }
    }
}

fn first_free(address: Ipv4Addr, ports: RangeInclusive<u16>) -> Result<(UdpSocket, SocketAddrV4), NetError> {
    let (first, last) = (*ports.start(), *ports.end());
    let mut failure = io::Error::other("no port to try");
    for port in ports {
        let attempt = bind(SocketAddrV4::new(address, port)).and_then(|socket| {
            let local = local_v4(&socket)?;
            Ok((socket, local))
        });
        match attempt {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = error,
        }
    }
    Err(NetError::Listen { address, first, last, source: failure })
}

async fn pings(discovery: Option<&(Discovery, Multicast)>) {
    match discovery {
        Some((_, multicast)) => {
            let _ = multicast.readable().await; // reading tells what is wrong
        }
        None => std::future::pending().await,
    }
}
