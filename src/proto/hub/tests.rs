//! What a Core does with those who are not its Cells, and with a name that comes twice.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::{Hub, HubConfig, HubEvent};
use crate::proto::message::{Message, MessageId};
use crate::proto::peer::{Peer, PeerConfig, PeerEvent, Role, SendError, Timing};
use crate::proto::transport::TransportConfig;

const fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn address(number: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), number)
}

/// A hub and Cells that reach it without delay or loss.
struct World {
    now: Duration,
    hub: Hub,
    cells: Vec<(SocketAddrV4, Peer)>,
    events: Vec<HubEvent>,
}

impl World {
    fn new(config: HubConfig) -> Self {
        Self { now: at(0), hub: Hub::new(config), cells: Vec::new(), events: Vec::new() }
    }

    fn dial(&mut self, name: &str) -> usize {
        let number = u16::try_from(self.cells.len()).unwrap() + 1;
        let config = PeerConfig { role: Role::Cell, name: name.into(), timing: Timing::CELL };
        self.cells.push((address(number), Peer::new(self.now, config, TransportConfig::new(number.into()))));
        self.pass(at(300));
        usize::from(number) - 1
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += at(10);
            let now = self.now;
            self.hub.handle_timeout(now);
            for (remote, peer) in &mut self.cells {
                peer.handle_timeout(now);
                while let Some(datagram) = peer.poll_transmit(now) {
                    let _ = self.hub.receive(now, *remote, &datagram);
                }
            }
            while let Some((to, datagram)) = self.hub.poll_transmit(now) {
                for (_, peer) in self.cells.iter_mut().filter(|(remote, _)| *remote == to) {
                    let _ = peer.receive(now, &datagram);
                }
            }
            self.events.extend(std::iter::from_fn(|| self.hub.poll_event()));
        }
    }

    fn events_of(&mut self, cell: usize) -> Vec<PeerEvent> {
        let peer = &mut self.cells[cell].1;
        std::iter::from_fn(|| peer.poll_event()).collect()
    }
}

fn request() -> Message {
    Message::new(MessageId::GET_GUEST_REQUEST).from_session(2)
}

#[test]
fn the_second_connection_of_a_name_is_deaf_until_it_says_closed() {
    let mut world = World::new(HubConfig::new("Core_1"));
    let first = world.dial("Cell_1");
    let gone = world.cells.remove(first); // it died without a word
    world.cells.push((address(50), gone.1)); // and what is sent to it reaches nobody
    let second = world.dial("Cell_1");
    assert_eq!(world.events.last(), Some(&HubEvent::Shadowed { name: "Cell_1".into(), remote: world.cells[second].0 }));
    assert!(matches!(world.events_of(second)[..], [PeerEvent::Connected { .. }]), "the handshake is answered");
    world.hub.send("Cell_1", &request()).unwrap();
    world.pass(at(8000));
    assert!(world.events_of(second).is_empty(), "neither keep-alives nor requests");
    world.pass(at(6400));
    let noticed = |event: &HubEvent| matches!(event, HubEvent::Lost { .. } | HubEvent::Disconnected { .. });
    assert!(!world.events.iter().any(noticed), "its keep-alives feed the old entry");

    let now = world.now;
    world.cells[second].1.close(now, Timing::FLUSH);
    world.pass(at(500));
    assert!(matches!(world.events.last(), Some(HubEvent::Disconnected { graceful: true, .. })));
    let third = world.dial("Cell_1");
    assert!(matches!(world.events.last(), Some(HubEvent::Connected { remote, .. }) if *remote == world.cells[third].0));
    world.hub.send("Cell_1", &request()).unwrap();
    world.pass(at(300));
    assert!(matches!(world.events_of(third)[..], [PeerEvent::Connected { .. }, PeerEvent::Message(_)]));
}

#[test]
fn without_the_quirk_the_newer_connection_replaces_the_older() {
    let mut world = World::new(HubConfig { shadow_same_name: false, ..HubConfig::new("Core_1") });
    let first = world.dial("Cell_1");
    let second = world.dial("Cell_1");
    assert!(matches!(
        world.events[..],
        [HubEvent::Connected { .. }, HubEvent::Disconnected { graceful: false, .. }, HubEvent::Connected { .. }]
    ));
    world.hub.send("Cell_1", &request()).unwrap();
    world.pass(at(1000));
    assert!(matches!(world.events_of(first)[..], [PeerEvent::Connected { .. }, PeerEvent::Closed(_)]));
    assert!(matches!(world.events_of(second)[..], [PeerEvent::Connected { .. }, PeerEvent::Message(_)]));
}

#[test]
fn names_are_kept_apart() {
    let mut world = World::new(HubConfig::new("Core_1"));
    let cells = [world.dial("Cell_1"), world.dial("Cell_2")];
    world.hub.send("Cell_2", &request()).unwrap();
    assert!(matches!(world.hub.send("Cell_3", &request()), Err(SendError::NotOpen)));
    world.pass(at(300));
    assert_eq!(world.events_of(cells[0]).len(), 1);
    assert_eq!(world.events_of(cells[1]).len(), 2);
    let now = world.now;
    world.hub.disconnect(now, "Cell_1");
    world.pass(at(1000));
    assert!(!world.hub.is_open("Cell_1") && world.hub.is_open("Cell_2"));
    let now = world.now;
    world.hub.close(now);
    world.pass(at(2000));
    assert!(world.hub.is_idle());
}

#[test]
fn strangers_cost_little_and_are_forgotten() {
    let mut hub = Hub::new(HubConfig { max_connections: 10, ..HubConfig::new("Core_1") });
    for number in 1..2000u16 {
        let config = PeerConfig { role: Role::Cell, name: "x".into(), timing: Timing::CELL };
        let mut peer = Peer::new(at(0), config, TransportConfig::new(number.into()));
        let mut first = peer.poll_transmit(at(0)).unwrap();
        let last = first.len() - 1;
        first.truncate(last); // no complete introduction
        let _ = hub.receive(at(0), address(number), &first);
        let _ = hub.receive(at(0), address(number), &[number.to_le_bytes()[0]; 40]);
    }
    assert!(hub.entries.len() <= 10 && hub.disowned.len() <= super::MAX_DISOWNED);
    hub.handle_timeout(at(11_000));
    hub.handle_timeout(at(12_000));
    assert!(hub.is_idle(), "a handshake has its limit");
}

#[test]
fn a_connection_from_before_the_start_is_disowned() {
    let mut world = World::new(HubConfig::new("Core_1"));
    let cell = world.dial("Cell_1");
    assert!(!world.cells[cell].1.is_forgotten());
    world.hub = Hub::new(HubConfig::new("Core_1"));
    world.cells[cell].1.probe();
    world.pass(at(20));
    assert!(world.cells[cell].1.is_forgotten());
    assert!(world.hub.is_idle(), "the question of a stranger leaves nothing behind");
}
