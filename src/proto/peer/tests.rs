//! Two ends of one connection in virtual time, over a link that loses datagrams on demand.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::{CloseReason, Peer, PeerConfig, PeerEvent, Role, SendError, ServiceKind, Timing};
use crate::proto::message::{Key, Message, MessageId};
use crate::proto::transport::{Transport, TransportConfig};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config(role: Role) -> PeerConfig {
    match role {
        Role::Cell => PeerConfig { role, name: "Cell_1".into(), timing: Timing::CELL },
        Role::Core => PeerConfig { role, name: "Core_1".into(), timing: Timing::CORE },
    }
}

/// A Cell and a Core with 1 ms between them.
struct Pair {
    now: Duration,
    cell: Peer,
    core: Peer,
    to_cell: VecDeque<(Duration, Vec<u8>)>,
    to_core: VecDeque<(Duration, Vec<u8>)>,
    /// Nothing passes in this direction.
    cut_to_cell: bool,
    cut_to_core: bool,
    cell_events: Vec<PeerEvent>,
    core_events: Vec<PeerEvent>,
}

impl Pair {
    fn new() -> Self {
        let now = s(100);
        Self {
            now,
            cell: Peer::new(now, config(Role::Cell), TransportConfig::new(7)),
            core: Peer::new(now, config(Role::Core), TransportConfig::core(7)),
            to_cell: VecDeque::new(),
            to_core: VecDeque::new(),
            cut_to_cell: false,
            cut_to_core: false,
            cell_events: Vec::new(),
            core_events: Vec::new(),
        }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        pair.pass(s(1));
        assert!(pair.cell.is_open() && pair.core.is_open());
        pair
    }

    fn cut(&mut self, cut: bool) {
        (self.cut_to_cell, self.cut_to_core) = (cut, cut);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += ms(1);
            let now = self.now;
            while self.to_cell.front().is_some_and(|(at, _)| *at <= now) {
                let _ = self.cell.receive(now, &self.to_cell.pop_front().unwrap().1);
            }
            while self.to_core.front().is_some_and(|(at, _)| *at <= now) {
                let _ = self.core.receive(now, &self.to_core.pop_front().unwrap().1);
            }
            self.cell.handle_timeout(now);
            self.core.handle_timeout(now);
            while let Some(datagram) = self.cell.poll_transmit(now) {
                (!self.cut_to_core).then(|| self.to_core.push_back((now + ms(1), datagram)));
            }
            while let Some(datagram) = self.core.poll_transmit(now) {
                (!self.cut_to_cell).then(|| self.to_cell.push_back((now + ms(1), datagram)));
            }
            self.cell_events.extend(std::iter::from_fn(|| self.cell.poll_event()));
            self.core_events.extend(std::iter::from_fn(|| self.core.poll_event()));
        }
    }
}

fn connected(name: &str, kind: ServiceKind) -> PeerEvent {
    PeerEvent::Connected { name: name.into(), kind }
}

/// The other end as raw transport, to say whatever it likes.
struct Raw(Transport);

impl Raw {
    fn say(&mut self, now: Duration, to: &mut Peer, message: &Message) -> Vec<PeerEvent> {
        self.0.send(message).unwrap();
        while let Some(datagram) = self.0.poll_transmit(now) {
            to.receive(now, &datagram).unwrap();
        }
        std::iter::from_fn(|| to.poll_event()).collect()
    }
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let pair = Pair::connected();
    assert_eq!(pair.cell_events, [connected("Core_1", ServiceKind::Core)]);
    assert_eq!(pair.core_events, [connected("Cell_1", ServiceKind::Cell)]);
}

#[test]
fn messages_pass_in_both_directions_once_and_in_order() {
    let mut pair = Pair::connected();
    let message = |n: u64| Message::new(MessageId::GET_GUEST_REQUEST).uint(Key::Count, n).string(Key::Data, "x".repeat(3000));
    for n in 0..20 {
        pair.cell.send(&message(n)).unwrap();
        pair.core.send(&message(n + 100)).unwrap();
    }
    pair.pass(s(5));
    let expected = |from| (from..from + 20).map(message).map(PeerEvent::Message).collect::<Vec<_>>();
    assert_eq!(pair.core_events[1..], expected(0));
    assert_eq!(pair.cell_events[1..], expected(100));
}

#[test]
fn nothing_is_sent_before_the_handshake() {
    let mut pair = Pair::new();
    assert!(matches!(pair.cell.send(&Message::new(MessageId::GET_GUEST_REQUEST)), Err(SendError::NotOpen)));
    assert!(matches!(pair.core.send(&Message::new(MessageId::GET_GUEST_REQUEST)), Err(SendError::NotOpen)));
}

#[test]
fn keep_alives_hold_an_idle_connection_for_ever() {
    let mut pair = Pair::connected();
    pair.pass(s(120));
    assert_eq!((pair.cell_events.len(), pair.core_events.len()), (1, 1));
}

#[test]
fn silence_is_lost_after_nine_and_closed_after_fifteen_seconds() {
    let mut pair = Pair::connected();
    let heard = pair.cell.heard();
    pair.cut(true);
    pair.pass(heard + s(9) - ms(1) - pair.now);
    assert_eq!(pair.cell_events.len(), 1);
    pair.pass(ms(10));
    assert_eq!(pair.cell_events[1..], [PeerEvent::Lost]);
    pair.pass(s(6));
    assert!(matches!(pair.cell_events[2..], [PeerEvent::Closed(CloseReason::Silence(_))]), "{:?}", pair.cell_events);
    pair.pass(s(1));
    assert!(pair.cell.is_finished());
}

#[test]
fn a_core_decides_at_its_checks_and_tells_nobody_it_lost() {
    let mut pair = Pair::connected();
    pair.pass(s(20));
    let heard = pair.core.heard();
    pair.cut_to_core = true;
    while pair.core_events.len() == 1 {
        pair.pass(ms(10));
    }
    assert_eq!(pair.core_events[1..], [PeerEvent::Lost]);
    let lost_after = pair.now - heard;
    assert!((s(9)..s(14) + ms(20)).contains(&lost_after), "{lost_after:?}");
    let last_words = pair.cell.heard();
    pair.pass(s(4));
    assert!(pair.cell.heard() <= last_words.max(pair.now - s(4) + ms(200)), "no keep-alives to the lost");
    while pair.core_events.len() == 2 {
        pair.pass(ms(10));
    }
    let closed_after = pair.now - heard;
    assert!((s(15)..s(20) + ms(20)).contains(&closed_after), "{closed_after:?}");
    assert!(matches!(pair.core_events[2..], [PeerEvent::Closed(CloseReason::Silence(_))]));
    pair.pass(s(15));
    assert!(matches!(pair.cell_events.last(), Some(PeerEvent::Closed(_))), "the Cell ends it too: {:?}", pair.cell_events);
}

#[test]
fn a_lost_end_recovers() {
    let mut pair = Pair::connected();
    pair.cut(true);
    pair.pass(s(12));
    pair.cut(false);
    pair.pass(s(4));
    assert_eq!(pair.cell_events[1..], [PeerEvent::Lost, PeerEvent::Recovered]);
    assert!(pair.core.is_open());
    pair.pass(s(60));
    assert!(pair.cell.is_open() && pair.core.is_open());
}

#[test]
fn a_handshake_without_an_answer_ends() {
    let mut pair = Pair::new();
    pair.cut_to_core = true;
    pair.pass(s(3) + ms(1));
    assert_eq!(pair.cell_events, [PeerEvent::Closed(CloseReason::HandshakeTimeout(s(3)))]);
    pair.pass(s(10));
    assert_eq!(pair.core_events, [PeerEvent::Closed(CloseReason::HandshakeTimeout(s(10)))]);
}

#[test]
fn a_graceful_close_is_acknowledged_behind_all_that_was_sent_before() {
    let mut pair = Pair::connected();
    let message = Message::new(MessageId::GET_GUEST_RESPONSE).string(Key::Data, "x".repeat(100_000));
    pair.cell.send(&message).unwrap();
    let now = pair.now;
    pair.cell.close(now, Timing::FLUSH);
    assert!(matches!(pair.cell.send(&message), Err(SendError::NotOpen)));
    pair.pass(s(2));
    assert_eq!(pair.cell_events[1..], [PeerEvent::Closed(CloseReason::ByUs { acknowledged: true })]);
    assert_eq!(pair.core_events[1..], [PeerEvent::Message(message), PeerEvent::Closed(CloseReason::ByPeer)]);
    assert!(pair.cell.is_finished() && pair.core.is_finished());
}

#[test]
fn a_close_that_nobody_acknowledges_is_bounded() {
    let mut pair = Pair::connected();
    pair.cut(true);
    let now = pair.now;
    pair.cell.close(now, Timing::FLUSH);
    pair.pass(Timing::FLUSH - ms(10));
    assert_eq!(pair.cell_events.len(), 1);
    pair.pass(ms(20));
    assert_eq!(pair.cell_events[1..], [PeerEvent::Closed(CloseReason::ByUs { acknowledged: false })]);
    assert!(pair.cell.is_finished());
}

#[test]
fn both_may_close_at_once() {
    let mut pair = Pair::connected();
    let now = pair.now;
    pair.cell.close(now, Timing::FLUSH);
    pair.core.close(now, Timing::FLUSH);
    pair.pass(s(1));
    assert_eq!(pair.cell_events[1..], [PeerEvent::Closed(CloseReason::ByUs { acknowledged: true })]);
    assert!(matches!(pair.core_events[1..], [PeerEvent::Closed(CloseReason::ByUs { acknowledged: true })]));
}

#[test]
fn an_introduction_that_is_none_is_refused() {
    let opened = || Message::new(MessageId::CONNECTION_OPENED_EVENT);
    let bad = [
        Message::new(MessageId::GET_GUEST_REQUEST),
        Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT),
        opened(),
        opened().string(Key::Name, "Core_2"),
        opened().uint(Key::Type, 0),
        opened().string(Key::Name, "").uint(Key::Type, 0),
        opened().string(Key::Name, "Core\n2").uint(Key::Type, 0),
        opened().string(Key::Name, "x".repeat(257)).uint(Key::Type, 0),
        opened().string(Key::Name, "Core_2").uint(Key::Type, 4),
        opened().string(Key::Name, "Core_2").uint(Key::Type, 1),
    ];
    for message in bad {
        let mut cell = Peer::new(s(0), config(Role::Cell), TransportConfig::new(7));
        let events = Raw(Transport::new(TransportConfig::new(7))).say(ms(5), &mut cell, &message);
        assert!(matches!(events[..], [PeerEvent::Closed(CloseReason::HandshakeRefused(_))]), "{message:?}: {events:?}");
    }
}

#[test]
fn a_core_takes_no_core() {
    let mut core = Peer::new(s(0), config(Role::Core), TransportConfig::core(7));
    let message = Message::new(MessageId::CONNECTION_OPENED_EVENT).string(Key::Name, "Core_2").uint(Key::Type, 0);
    let events = Raw(Transport::new(TransportConfig::new(7))).say(ms(5), &mut core, &message);
    assert!(matches!(events[..], [PeerEvent::Closed(CloseReason::HandshakeRefused(_))]), "{events:?}");
}

#[test]
fn an_invalid_message_is_told_and_a_broken_stream_ends_the_connection() {
    let mut cell = Peer::new(s(0), config(Role::Cell), TransportConfig::new(7));
    let mut core = Raw(Transport::new(TransportConfig::new(7)));
    let opened = Message::new(MessageId::CONNECTION_OPENED_EVENT).string(Key::Name, "Core_2").uint(Key::Type, 0);
    assert_eq!(core.say(ms(1), &mut cell, &opened), [connected("Core_2", ServiceKind::Core)]);
    let events = feed(&mut cell, 1, br#"{"id":655616,"from":9,"uint_params":{"1":-1}}"#);
    let [PeerEvent::Invalid { id: Some(MessageId(655_616)), from: 9, reason }] = &events[..] else { panic!("{events:?}") };
    assert!(!reason.is_empty());
    assert!(cell.is_open());
    let events = feed(&mut cell, 2, b"]");
    assert!(matches!(events[..], [PeerEvent::Closed(CloseReason::Violation(_))]), "{events:?}");
}

/// Puts raw bytes into the stream as segment `sn`.
fn feed(peer: &mut Peer, sn: u32, bytes: &[u8]) -> Vec<PeerEvent> {
    let mut datagram = sn.to_le_bytes().to_vec();
    datagram.extend(0xf1u16.to_le_bytes());
    datagram.extend(u16::try_from(bytes.len() + 26).unwrap().to_le_bytes());
    datagram.extend(7u32.to_le_bytes());
    datagram.extend([81, 0, 32, 0]);
    for field in [0, sn, 0, u32::try_from(bytes.len()).unwrap()] {
        datagram.extend(field.to_le_bytes());
    }
    datagram.extend(bytes);
    peer.receive(s(1), &datagram).unwrap();
    std::iter::from_fn(|| peer.poll_event()).collect()
}

#[test]
fn a_second_introduction_is_only_a_sign_of_life() {
    let mut pair = Pair::connected();
    pair.core.introduce();
    pair.pass(s(1));
    assert!(pair.cell.is_open());
    assert_eq!(pair.cell_events[1..], [PeerEvent::Message(super::handshake::introduce("Core_1", ServiceKind::Core))]);
}

#[derive(Clone, Debug)]
enum Op {
    Garbage(Vec<u8>),
    Pass(u16),
    Send(bool, u16),
    Close(bool),
    Cut(bool),
    Replay(u8),
    Probe,
    Abandon,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(Op::Garbage),
        6 => (0u16..4000).prop_map(Op::Pass),
        4 => (any::<bool>(), 0u16..5000).prop_map(|(cell, size)| Op::Send(cell, size)),
        1 => any::<bool>().prop_map(Op::Close),
        1 => any::<bool>().prop_map(Op::Cut),
        2 => any::<u8>().prop_map(Op::Replay),
        1 => Just(Op::Probe),
        1 => Just(Op::Abandon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_one_end_follows_and_nothing_after_it(ops in proptest::collection::vec(op(), 1..60)) {
        let mut pair = Pair::new();
        let mut recorded = Vec::new();
        for op in ops {
            let now = pair.now;
            match op {
                Op::Garbage(bytes) => {
                    let _ = pair.cell.receive(now, &bytes);
                    let _ = pair.core.receive(now, &bytes);
                }
                Op::Pass(millis) => {
                    pair.pass(ms(millis.into()));
                    recorded.extend(pair.to_cell.iter().map(|(_, datagram)| datagram.clone()));
                }
                Op::Send(cell, size) => {
                    let message = Message::new(MessageId::GET_GUEST_REQUEST).string(Key::Data, "x".repeat(size.into()));
                    let _ = if cell { pair.cell.send(&message) } else { pair.core.send(&message) };
                }
                Op::Close(cell) => if cell { pair.cell.close(now, Timing::FLUSH) } else { pair.core.close(now, Timing::FLUSH) },
                Op::Cut(cut) => pair.cut(cut),
                Op::Replay(place) => {
                    if let Some(datagram) = recorded.get(usize::from(place)) {
                        let _ = pair.cell.receive(now, datagram);
                    }
                }
                Op::Probe => pair.cell.probe(),
                Op::Abandon => pair.cell.abandon(CloseReason::ByPeer),
            }
            prop_assert!(pair.cell.next_timeout().is_some() || pair.cell.is_finished() || !pair.cell.events.is_empty());
        }
        let now = pair.now;
        pair.cell.close(now, Timing::FLUSH);
        pair.core.close(now, Timing::FLUSH);
        pair.pass(s(5));
        for events in [&pair.cell_events, &pair.core_events] {
            let end = events.iter().position(|event| matches!(event, PeerEvent::Closed(_)));
            prop_assert_eq!(end, Some(events.len() - 1), "{:?}", events);
            let connects = events.iter().filter(|event| matches!(event, PeerEvent::Connected { .. })).count();
            prop_assert!(connects <= 1);
        }
        prop_assert!(pair.cell.is_finished() && pair.core.is_finished());
        prop_assert!(pair.cell.poll_transmit(pair.now).is_none());
    }
}
