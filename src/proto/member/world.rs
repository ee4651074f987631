//! A domain in virtual time for tests: one host with a Core, hosts with Cells, strangers, and a network that loses, doubles and reorders.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::{Action, LinkStatus, MemberEvent, Membership, MembershipConfig, SendError};
use crate::proto::discovery;
use crate::proto::hub::{Hub, HubConfig, HubEvent};
use crate::proto::message::{Key, Message, MessageId};

pub(super) const DOMAIN: &str = "nano";
pub(super) const CORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5600);

/// Milliseconds as a duration.
pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Seconds as a duration.
pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Packet {
    Unicast {
        from: SocketAddrV4,
        to: SocketAddrV4,
        datagram: Vec<u8>,
    },
    Ping {
        from: SocketAddrV4,
        datagram: Vec<u8>,
    },
    Echo {
        datagram: Vec<u8>,
    },
    /// "Port unreachable", on its way back to the sender.
    Refusal {
        to: SocketAddrV4,
    },
}

pub(super) struct Cell {
    pub(super) name: String,
    host: Ipv4Addr,
    next_port: u16,
    pub(super) membership: Membership,
    /// Our end and the other end of the open socket.
    pub(super) socket: Option<(SocketAddrV4, SocketAddrV4)>,
    pub(super) events: Vec<MemberEvent>,
    pub(super) opened: usize,
    /// Errors that datagrams and echoes gave.
    pub(super) refused_input: usize,
}

impl Cell {
    pub(super) fn joins(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, MemberEvent::Joined { .. })).count()
    }

    pub(super) fn left_reasons(&self) -> Vec<String> {
        let reason = |event: &'_ MemberEvent| match event {
            MemberEvent::Left { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.events.iter().filter_map(reason).collect()
    }

    pub(super) fn link(&self) -> u64 {
        self.events
            .iter()
            .rev()
            .find_map(|event| match event {
                MemberEvent::Joined { link, .. } => Some(*link),
                _ => None,
            })
            .expect("joined at least once")
    }

    pub(super) fn is_joined(&self) -> bool {
        matches!(self.membership.status(), LinkStatus::Joined { .. })
    }
}

pub(super) struct Core {
    pub(super) address: SocketAddrV4,
    pub(super) domain: String,
    pub(super) hub: Hub,
    pub(super) events: Vec<HubEvent>,
}

impl Core {
    pub(super) fn disconnects(&self) -> Vec<bool> {
        let graceful = |event: &HubEvent| match event {
            HubEvent::Disconnected { graceful, .. } => Some(*graceful),
            _ => None,
        };
        self.events.iter().filter_map(graceful).collect()
    }

    pub(super) fn was_shadowed(&self) -> bool {
        self.events.iter().any(|event| matches!(event, HubEvent::Shadowed { .. }))
    }
}

/// Gives the echo to a ping.
type Stranger = fn(&[u8]) -> Vec<u8>;

pub(super) struct World {
    pub(super) now: Duration,
    rng: fastrand::Rng,
    /// Datagrams lost, in percent; multicast too.
    pub(super) loss: u8,
    pub(super) duplicates: u8,
    pub(super) jitter: Duration,
    air: BinaryHeap<Reverse<(Duration, u64, Packet)>>,
    order: u64,
    pub(super) cells: Vec<Cell>,
    pub(super) core: Option<Core>,
    /// The Core's host answers for closed ports; one that is off does not.
    pub(super) core_host_is_up: bool,
    /// What a stranger sends when it hears a ping.
    pub(super) stranger: Option<Stranger>,
    /// Every datagram that a Core sent to a Cell, for replays.
    pub(super) recorded: Vec<(SocketAddrV4, SocketAddrV4, Vec<u8>)>,
    pub(super) records: bool,
    pub(super) pings: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            loss: 0,
            duplicates: 0,
            jitter: Duration::ZERO,
            air: BinaryHeap::new(),
            order: 0,
            cells: Vec::new(),
            core: None,
            core_host_is_up: true,
            stranger: None,
            recorded: Vec::new(),
            records: false,
            pings: 0,
        }
    }

    /// A world with a Core and one Cell that has joined it.
    pub(super) fn joined(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.start_core(CORE);
        world.start_cell(false);
        world.until(s(5), |world| world.is_served(0));
        world
    }

    pub(super) fn start_core(&mut self, address: SocketAddrV4) {
        let hub = Hub::new(HubConfig::new("Core_000000000001"));
        self.core = Some(Core { address, domain: DOMAIN.into(), hub, events: Vec::new() });
    }

    pub(super) fn config(&mut self) -> MembershipConfig {
        let number = self.cells.len();
        MembershipConfig::new(format!("Cell_{number:012x}"), DOMAIN, self.rng.u64(..))
    }

    pub(super) fn start_cell(&mut self, unclean: bool) {
        let config = MembershipConfig { unclean, ..self.config() };
        self.start_cell_with(config);
    }

    pub(super) fn start_cell_with(&mut self, config: MembershipConfig) {
        let host = Ipv4Addr::new(10, 0, 1, u8::try_from(self.cells.len()).unwrap());
        self.cells.push(Cell {
            name: config.name.clone(),
            host,
            next_port: 30_000,
            membership: Membership::new(self.now, config),
            socket: None,
            events: Vec::new(),
            opened: 0,
            refused_input: 0,
        });
        self.settle();
    }

    /// SIGKILL of the first Cell: nothing is said, the state is gone.
    pub(super) fn kill_cell(&mut self) {
        let mut gone = Membership::new(self.now, self.config());
        gone.leave(self.now);
        while gone.poll_action(self.now).is_some() {}
        self.cells[0].membership = gone;
        self.cells[0].socket = None;
    }

    /// SIGKILL and start of the first Cell: nothing is said, the state is gone.
    pub(super) fn restart_cell(&mut self, unclean: bool) {
        let config = MembershipConfig { unclean, ..self.config() };
        let cell = &mut self.cells[0];
        let config = MembershipConfig { name: cell.name.clone(), ..config };
        cell.membership = Membership::new(self.now, config);
        cell.socket = None;
        cell.events.clear();
        self.settle();
    }

    /// Whether the Core's requests reach this Cell: it is joined, and the Core has its newest connection under its name.
    pub(super) fn is_served(&self, cell: usize) -> bool {
        let cell = &self.cells[cell];
        let (Some(core), Some((local, _))) = (&self.core, cell.socket) else { return false };
        let registered = core.events.iter().rev().find_map(|event| match event {
            HubEvent::Connected { name, remote, .. } if *name == cell.name => Some(Some(*remote)),
            HubEvent::Disconnected { name, .. } if *name == cell.name => Some(None),
            _ => None,
        });
        cell.is_joined() && registered.flatten() == Some(local)
    }

    /// Whether the Core could send to this Cell now.
    pub(super) fn core_knows(&self, cell: usize) -> bool {
        self.core.as_ref().is_some_and(|core| core.hub.is_open(&self.cells[cell].name))
    }

    /// Runs until the condition holds and tells how long that took; panics past the limit.
    pub(super) fn until(&mut self, limit: Duration, condition: impl Fn(&World) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            let waited = self.now - start;
            let status: Vec<_> = self.cells.iter().map(|cell| (cell.membership.status(), &cell.events)).collect();
            assert!(waited <= limit, "not within {limit:?}: {status:#?}");
            self.step(start + limit + ms(1));
        }
        self.now - start
    }

    /// Lets this time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    /// Has the Core send so many requests to the first Cell and counts the answers that came within the limit.
    pub(super) fn ask(&mut self, count: u32, limit: Duration) -> usize {
        let before = self.answers();
        let name = self.cells[0].name.clone();
        for session in 1..=count {
            let request = Message::new(MessageId::GET_GUEST_REQUEST).from_session(session).string(Key::Instance, "x");
            let core = self.core.as_mut().expect("a Core to ask");
            core.hub.send(&name, &request).expect("a connected Cell to ask");
        }
        let end = self.now + limit;
        while self.now < end && self.answers() - before < count as usize {
            self.step(end);
        }
        self.answers() - before
    }

    fn answers(&self) -> usize {
        let is_answer =
            |event: &&HubEvent| matches!(event, HubEvent::Message { message, .. } if message.id == MessageId::GET_GUEST_RESPONSE);
        self.core.as_ref().map_or(0, |core| core.events.iter().filter(is_answer).count())
    }

    /// A datagram that claims to come from `from`.
    pub(super) fn inject(&mut self, from: SocketAddrV4, to: SocketAddrV4, datagram: Vec<u8>) {
        self.carry_one(Packet::Unicast { from, to, datagram });
    }

    pub(super) fn inject_echo(&mut self, datagram: Vec<u8>) {
        self.carry_one(Packet::Echo { datagram });
    }

    /// Goes to the next thing that happens, at the latest to `limit`.
    fn step(&mut self, limit: Duration) {
        let arrival = self.air.peek().map(|Reverse((at, ..))| *at);
        let cells = self.cells.iter().filter_map(|cell| cell.membership.next_timeout());
        let core = self.core.as_ref().and_then(|core| core.hub.next_timeout());
        let next = cells.chain(arrival).chain(core).min().unwrap_or(limit).min(limit);
        // A deadline that lies in the past and stays there would stop the clock.
        self.now = if next <= self.now { self.now + Duration::from_micros(100) } else { next };
        while self.air.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            if let Some(Reverse((_, _, packet))) = self.air.pop() {
                self.deliver(packet);
            }
        }
        for cell in &mut self.cells {
            cell.membership.handle_timeout(self.now);
        }
        if let Some(core) = &mut self.core {
            core.hub.handle_timeout(self.now);
        }
        self.settle();
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Unicast { from, to, datagram } => self.deliver_unicast(from, to, &datagram),
            Packet::Ping { from, datagram } => {
                self.pings += 1;
                if let Some(stranger) = self.stranger {
                    self.inject_echo(stranger(&datagram));
                }
                let Some(core) = &self.core else { return };
                if let Ok(datagram) = discovery::answer(&datagram, *from.ip(), &core.domain, core.address) {
                    self.carry(Packet::Echo { datagram });
                }
            }
            Packet::Echo { datagram } => {
                for cell in &mut self.cells {
                    cell.refused_input += usize::from(cell.membership.handle_echo(self.now, &datagram).is_err());
                }
            }
            Packet::Refusal { to } => {
                for cell in &mut self.cells {
                    if cell.socket.is_some_and(|(local, _)| local == to) {
                        cell.membership.socket_refused(self.now);
                    }
                }
            }
        }
        self.settle();
    }

    fn deliver_unicast(&mut self, from: SocketAddrV4, to: SocketAddrV4, datagram: &[u8]) {
        if let Some(core) = self.core.as_mut().filter(|core| core.address == to) {
            let _ = core.hub.receive(self.now, from, datagram);
            return;
        }
        let mut reached = false;
        for cell in &mut self.cells {
            if cell.socket == Some((to, from)) {
                reached = true;
                cell.refused_input += usize::from(cell.membership.receive(self.now, datagram).is_err());
            }
        }
        let to_core_host = to.ip() == CORE.ip() && self.core_host_is_up;
        if !reached && to_core_host {
            self.carry(Packet::Refusal { to: from });
        }
    }

    /// Carries out what the state machines want done.
    fn settle(&mut self) {
        let mut packets = Vec::new();
        for cell in &mut self.cells {
            while let Some(action) = cell.membership.poll_action(self.now) {
                match action {
                    Action::Ping(datagram) => {
                        packets.push(Packet::Ping { from: SocketAddrV4::new(cell.host, 29_999), datagram });
                    }
                    Action::Open(to) => {
                        cell.next_port += 1;
                        cell.opened += 1;
                        let local = SocketAddrV4::new(cell.host, cell.next_port);
                        cell.socket = Some((local, to));
                        cell.membership.socket_opened(local);
                    }
                    Action::Transmit(datagram) => {
                        let (from, to) = cell.socket.expect("datagrams only while a socket is open");
                        packets.push(Packet::Unicast { from, to, datagram });
                    }
                    Action::CloseSocket => cell.socket = None,
                    Action::Event(event) => {
                        answer(&mut cell.membership, &event);
                        cell.events.push(event);
                    }
                }
            }
        }
        if let Some(core) = &mut self.core {
            while let Some((to, datagram)) = core.hub.poll_transmit(self.now) {
                if self.records {
                    self.recorded.push((core.address, to, datagram.clone()));
                }
                packets.push(Packet::Unicast { from: core.address, to, datagram });
            }
            core.events.extend(std::iter::from_fn(|| core.hub.poll_event()));
        }
        for packet in packets {
            self.carry(packet);
        }
    }

    fn carry(&mut self, packet: Packet) {
        if self.rng.u8(..100) < self.duplicates {
            self.carry_one(packet.clone());
        }
        if self.rng.u8(..100) >= self.loss {
            self.carry_one(packet);
        }
    }

    fn carry_one(&mut self, packet: Packet) {
        let jitter = Duration::from_micros(self.rng.u64(..=u64::try_from(self.jitter.as_micros()).unwrap()));
        self.order += 1;
        self.air.push(Reverse((self.now + ms(1) + jitter, self.order, packet)));
    }
}

/// The Cell answers every request at once.
fn answer(membership: &mut Membership, event: &MemberEvent) {
    let (link, id, session) = match event {
        MemberEvent::Message { link, message } => (*link, message.id, message.from),
        MemberEvent::Invalid { link, id: Some(id), from, .. } => (*link, *id, *from),
        _ => return,
    };
    if id.is_request() {
        let reply = Message::new(id.response()).to_session(session).succeeded();
        match membership.send(Some(link), &reply) {
            Ok(()) | Err(SendError::Stale { .. }) => {} // the request came in one datagram with the farewell
            Err(error) => panic!("the request's own connection takes the answer: {error:?}"),
        }
    }
}
