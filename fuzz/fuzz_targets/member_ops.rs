//! A Cell's life with everything that a network and a Core can do to it: no panic, no transmission without a socket, no unbounded growth, and
//! leaving always comes to an end.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use arbitrary::Arbitrary;
use cell::proto::discovery;
use cell::proto::hub::{Hub, HubConfig};
use cell::proto::member::{Action, MemberEvent, Membership, MembershipConfig};
use cell::proto::message::{Message, MessageId};
use libfuzzer_sys::fuzz_target;

const CORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5600);
const CELL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Let time pass, with the Core reachable or not.
    Run {
        millis: u16,
        is_cut: bool,
    },
    /// Restart the Core: it forgets all connections.
    RestartCore,
    CloseCore,
    Request,
    Event,
    Datagram(Vec<u8>),
    /// A datagram that the Core sent before.
    Replay(u8),
    Echo(Vec<u8>),
    /// Answer the last ping with this port.
    Answer {
        port: u16,
    },
    Refuse,
    FailToOpen,
    Leave,
}

#[derive(Arbitrary, Debug)]
struct Case {
    seed: u64,
    is_unclean: bool,
    is_fixed: bool,
    /// The Core's name is pinned, rightly or wrongly.
    pin: Option<bool>,
    operations: Vec<Operation>,
}

struct World {
    now: Duration,
    cell: Membership,
    core: Hub,
    socket: Option<SocketAddrV4>,
    next_port: u16,
    /// The open socket leads to the Core.
    leads_to_core: bool,
    last_ping: Vec<u8>,
    recorded: Vec<Vec<u8>>,
    is_joined: bool,
    may_join: bool,
    fails_to_open: bool,
}

impl World {
    /// Carries out what both want done.
    fn settle(&mut self, is_cut: bool) {
        for _ in 0..64 {
            let mut idle = true;
            while let Some(action) = self.cell.poll_action(self.now) {
                idle = false;
                self.carry_out(action, is_cut);
            }
            while let Some((to, datagram)) = self.core.poll_transmit(self.now) {
                idle = false;
                if self.recorded.len() < 256 {
                    self.recorded.push(datagram.clone());
                }
                if !is_cut && self.socket == Some(to) && self.leads_to_core {
                    let _ = self.cell.receive(self.now, &datagram);
                }
            }
            while self.core.poll_event().is_some() {}
            if idle {
                return;
            }
        }
        panic!("two ends that never fall silent");
    }

    fn carry_out(&mut self, action: Action, is_cut: bool) {
        match action {
            Action::Ping(ping) => {
                if let Some(echo) = (!is_cut).then(|| discovery::answer(&ping, CELL, "nano", CORE).ok()).flatten() {
                    self.cell.handle_echo(self.now, &echo).expect("a valid echo");
                }
                self.last_ping = ping;
            }
            Action::Open(to) => {
                if std::mem::take(&mut self.fails_to_open) {
                    self.socket = None;
                    return self.cell.socket_failed(self.now, "no descriptors left");
                }
                self.next_port = self.next_port.wrapping_add(1);
                let local = SocketAddrV4::new(CELL, self.next_port);
                self.socket = Some(local);
                self.leads_to_core = to == CORE;
                self.cell.socket_opened(local);
            }
            Action::Transmit(datagram) => {
                assert!(datagram.len() <= 1400);
                let local = self.socket.expect("a socket to send on");
                if !is_cut && self.leads_to_core {
                    let _ = self.core.receive(self.now, local, &datagram);
                }
            }
            Action::CloseSocket => self.socket = None,
            Action::Event(MemberEvent::Joined { .. }) => {
                assert!(self.may_join, "joined a Core that is not the pinned one");
                assert!(!std::mem::replace(&mut self.is_joined, true), "joined while joined");
            }
            Action::Event(MemberEvent::Left { .. }) => {
                assert!(std::mem::take(&mut self.is_joined), "left without having joined");
            }
            Action::Event(MemberEvent::Message { link, message }) => {
                let _ = self.cell.send(Some(link), &Message::new(message.id.response()).to_session(message.from));
            }
            Action::Event(_) => {}
        }
    }

    fn run(&mut self, time: Duration, is_cut: bool) {
        let end = self.now + time;
        loop {
            self.cell.handle_timeout(self.now);
            self.core.handle_timeout(self.now);
            self.settle(is_cut);
            let due = [self.cell.next_timeout(), self.core.next_timeout()].into_iter().flatten().min();
            // At least a millisecond a turn: a deadline in the past must not stop the clock.
            let next = due.unwrap_or(end).max(self.now + Duration::from_millis(1));
            if next >= end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }
}

fuzz_target!(|case: Case| {
    let config = MembershipConfig {
        unclean: case.is_unclean,
        core_address: case.is_fixed.then_some(CORE),
        core_name: case.pin.map(|is_right| if is_right { "Core_1" } else { "Core_2" }.into()),
        ..MembershipConfig::new("Cell_1", "nano", case.seed)
    };
    let mut world = World {
        now: Duration::ZERO,
        cell: Membership::new(Duration::ZERO, config),
        core: Hub::new(HubConfig::new("Core_1")),
        socket: None,
        next_port: 30_000,
        leads_to_core: false,
        last_ping: Vec::new(),
        recorded: Vec::new(),
        is_joined: false,
        may_join: case.pin != Some(false),
        fails_to_open: false,
    };
    for operation in case.operations.into_iter().take(200) {
        let now = world.now;
        match operation {
            Operation::Run { millis, is_cut } => world.run(Duration::from_millis(u64::from(millis % 20_000)), is_cut),
            Operation::RestartCore => world.core = Hub::new(HubConfig::new("Core_1")),
            Operation::CloseCore => world.core.close(now),
            Operation::Request => {
                let _ = world.core.send("Cell_1", &Message::new(MessageId::GET_GUEST_REQUEST).from_session(1));
            }
            Operation::Event => {
                let _ = world.cell.send(None, &Message::new(MessageId::GUEST_STOPPED_EVENT));
            }
            Operation::Datagram(bytes) => {
                let _ = world.cell.receive(now, &bytes);
            }
            Operation::Replay(which) => {
                if let Some(datagram) = world.recorded.get(usize::from(which)).cloned() {
                    let _ = world.cell.receive(now, &datagram);
                }
            }
            Operation::Echo(bytes) => {
                let _ = world.cell.handle_echo(now, &bytes);
            }
            Operation::Answer { port } => {
                let core = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), port);
                if let Ok(echo) = discovery::answer(&world.last_ping, CELL, "nano", core) {
                    let _ = world.cell.handle_echo(now, &echo);
                }
            }
            Operation::Refuse => world.cell.socket_refused(now),
            Operation::FailToOpen => world.fails_to_open = true,
            Operation::Leave => world.cell.leave(now),
        }
        world.settle(false);
    }
    let now = world.now;
    world.cell.leave(now);
    world.run(Duration::from_secs(4), true);
    assert!(world.cell.is_finished() && !world.is_joined && world.socket.is_none());
});
