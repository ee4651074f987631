//! A stranger on the segment: what it sends changes nothing for a Cell that has joined its Core.
//!
//! The stranger writes any source address and knows the ports. Whoever can also read the connection's datagrams, and so knows its conversation number, can
//! speak in the Core's name: the protocol has no secret. What such a one sends outside of the windows is still refused, and tested here.

use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;

use super::world::{ms, s, World, CORE};
use super::{MemberEvent, MembershipConfig};
use crate::proto::discovery::encode_echo;
use crate::proto::fec::{Encoder, DATA_HEADER, DATA_SHARDS, GROUP};
use crate::proto::hub::HubEvent;
use crate::proto::kcp::{Command, Segment, Segments};
use crate::proto::message::{Message, MessageEncoder, MessageId};

/// What a connection may hold besides what honest traffic needs: the FEC layer's groups and the receive window, each full.
const BOUND: usize = 8 << 20;

/// Datagrams of well-formed packets that carry these segments, from this place in the FEC sequence on, with their parity.
fn packets(start: u32, segments: &[Segment<'_>]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(start);
    let mut datagrams = Vec::new();
    for segment in segments {
        let mut datagram = vec![0; DATA_HEADER];
        segment.write(&mut datagram);
        encoder.seal(&mut datagram);
        datagrams.push(datagram);
        loop {
            let mut parity = Vec::new();
            if !encoder.poll_parity(&mut parity) {
                break;
            }
            datagrams.push(parity);
        }
    }
    datagrams
}

/// What a stranger would like the Cell to take: the order to give all its guests away.
fn order() -> Vec<u8> {
    let order = Message::new(MessageId::DETACH_INSTANCE_REQUEST).from_session(1).strings(crate::proto::message::Key::Instance, []);
    MessageEncoder::new().encode(&order).unwrap().to_vec()
}

fn segment(conv: u32, sn: u32, data: &[u8]) -> Segment<'_> {
    Segment { conv, command: Command::Push, fragment: 0, window: 128, ts: 0, sn, una: 0, data }
}

/// A world that records, with a Cell that has joined and answered.
fn world() -> World {
    let mut world = World::new(31);
    world.records = true;
    world.start_core(CORE);
    world.start_cell(false);
    world.until(s(5), |world| world.is_served(0));
    assert_eq!(world.ask(50, s(30)), 50);
    world
}

fn deliveries(world: &World) -> usize {
    let delivered = |event: &&MemberEvent| matches!(event, MemberEvent::Message { .. } | MemberEvent::Invalid { .. });
    world.cells[0].events.iter().filter(delivered).count()
}

/// Sends all of it in the Core's name, a little at a time, and sees that nothing came of it.
fn changes_nothing(world: &mut World, forged: impl IntoIterator<Item = Vec<u8>>) {
    let (local, core) = world.cells[0].socket.unwrap();
    let before = deliveries(world);
    for (number, datagram) in forged.into_iter().enumerate() {
        world.inject(core, local, datagram);
        if number % 16 == 15 {
            world.pass(ms(10));
        }
        assert!(world.cells[0].membership.held_bytes() < BOUND);
    }
    world.pass(s(2));
    assert_eq!(deliveries(world), before, "something was delivered");
    assert_eq!(world.ask(100, s(30)), 100);
    world.pass(s(20));
    assert_eq!(world.cells[0].joins(), 1, "{:?}", world.cells[0].left_reasons());
    assert!(world.cells[0].is_joined() && world.core_knows(0));
}

/// The conversation's number and the next number of the Core's segments, as whoever listens knows them.
fn overheard(world: &World) -> (u32, u32) {
    let pushed = world.recorded.iter().filter_map(|(_, _, datagram)| {
        let payload = datagram.get(DATA_HEADER..).filter(|_| datagram[4] == 0xf1)?;
        Segments::new(payload).flatten().filter(|segment| segment.command == Command::Push).map(|segment| (segment.conv, segment.sn)).last()
    });
    pushed.max_by_key(|(_, sn)| *sn).map(|(conv, sn)| (conv, sn + 1)).unwrap()
}

#[test]
fn another_conversation_number_delivers_nothing_whatever_else_is_right() {
    let mut world = world();
    let (conv, next) = overheard(&world);
    let order = order();
    let guesses = (1..2000_u32).map(|number| conv.wrapping_add(number.wrapping_mul(0x9e37_79b9) | 1));
    let segments: Vec<_> = guesses.map(|guess| segment(guess, next, &order)).collect();
    changes_nothing(&mut world, packets(1 << 20, &segments));
    assert!(world.cells[0].refused_input >= 1999, "each is an error of its own: {}", world.cells[0].refused_input);
}

#[test]
fn wild_numbers_in_the_right_conversation_deliver_nothing() {
    let mut world = world();
    let (conv, next) = overheard(&world);
    let order = order();
    let mut segments = Vec::new();
    for wild in [next.wrapping_add(5000), next.wrapping_sub(1), next.wrapping_sub(5000), u32::MAX, 1 << 31, next ^ (1 << 30)] {
        // Numbers of segments outside of the window, and acknowledgements of what was never sent.
        segments.push(Segment { fragment: 255, window: 0, ..segment(conv, wild, &order) });
        segments.push(Segment { una: 1 << 29, ..segment(conv, next, &order) });
        segments.push(Segment { command: Command::Ack, ts: u32::MAX, una: 1 << 30, ..segment(conv, wild | 1 << 29, &[]) });
        segments.push(Segment { command: Command::WindowAsk, window: u16::MAX, ..segment(conv, wild, &[]) });
    }
    changes_nothing(&mut world, packets(1 << 20, &segments));
}

#[test]
fn old_groups_and_shards_that_reconstruct_garbage_deliver_nothing() {
    let mut world = world();
    let order = order();
    let garbage: Vec<_> = (0..200_u32).map(|number| segment(number, number, &order)).collect();
    // Of each group the parity and nothing before its last data: what is brought back was never in the conversation.
    let newest = world.recorded.iter().map(|(_, _, datagram)| u32::from_le_bytes(datagram[..4].try_into().unwrap())).max().unwrap();
    for start in [0, newest.saturating_sub(26), newest, newest + 13, newest + 39, u32::MAX - 1000] {
        let forged = packets(start, &garbage);
        let late = forged.chunks(GROUP).flat_map(|group| group.iter().skip(DATA_SHARDS - 7)).cloned();
        changes_nothing(&mut world, late.collect::<Vec<_>>());
    }
}

#[test]
fn a_replay_of_everything_that_the_core_ever_said_delivers_nothing() {
    let mut world = world();
    world.records = false;
    let recorded: Vec<_> = std::mem::take(&mut world.recorded).into_iter().map(|(_, _, datagram)| datagram).collect();
    assert!(recorded.len() > 10, "{}", recorded.len());
    changes_nothing(&mut world, recorded.iter().cloned());
    changes_nothing(&mut world, recorded.into_iter().rev());
}

#[test]
fn a_flood_of_any_lengths_costs_bounded_memory() {
    let mut world = world();
    let mut rng = fastrand::Rng::with_seed(7);
    let flood: Vec<Vec<u8>> = (0..5000)
        .map(|number| {
            let mut datagram = vec![0; [0, 1, 5, 8, 31, 1400, 1500, 1501, 9000, 65_000][number % 10]];
            rng.fill(&mut datagram);
            if let Some(header) = datagram.first_chunk_mut::<6>() {
                // Half of them look like packets.
                let sequence = rng.u32(..1 << 24);
                header[..4].copy_from_slice(&sequence.to_le_bytes());
                header[4..].copy_from_slice(&[0xf1 + u8::try_from(sequence % 2).unwrap(), 0]);
            }
            datagram
        })
        .collect();
    changes_nothing(&mut world, flood);
}

#[test]
fn echoes_beside_the_real_core_do_not_move_a_cell_that_has_joined() {
    fn elsewhere(ping: &[u8]) -> Vec<u8> {
        let ping: serde_json::Value = serde_json::from_slice(ping).unwrap();
        encode_echo(ping["id"].as_i64().unwrap(), Ipv4Addr::LOCALHOST, SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 5600))
    }
    let mut world = world();
    world.stranger = Some(elsewhere);
    for id in 0..=u16::MAX {
        world.inject_echo(encode_echo(id.into(), Ipv4Addr::LOCALHOST, SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 5600)));
        if id % 4096 == 0 {
            world.pass(ms(100));
        }
    }
    changes_nothing(&mut world, []);
    assert_eq!(world.cells[0].opened, 1);
}

fn pinned(world: &mut World, name: &str) -> MembershipConfig {
    MembershipConfig { core_name: Some(name.into()), ..world.config() }
}

#[test]
fn a_core_of_another_name_is_told_farewell_and_nothing_is_taken_from_it() {
    let mut world = World::new(41);
    world.start_core(CORE);
    let config = pinned(&mut world, "Core_mine");
    world.start_cell_with(config);
    world.pass(s(60));
    let cell = &world.cells[0];
    assert!(cell.events.iter().all(|event| matches!(event, MemberEvent::AttemptFailed { .. })), "{:?}", cell.events);
    let told = cell.events.iter().any(|event| {
        matches!(event, MemberEvent::AttemptFailed { core_address, reason, .. }
            if *core_address == CORE && reason.contains("Core_000000000001") && reason.contains("Core_mine"))
    });
    assert!(told && cell.events.len() < 120, "tried with pauses: {}", cell.events.len());
    let core = world.core.as_ref().unwrap();
    assert!(
        !core.hub.is_open(&cell.name) || core.events.iter().any(|event| matches!(event, HubEvent::Disconnected { graceful: true, .. }))
    );
    assert!(core.events.iter().all(|event| !matches!(event, HubEvent::Message { .. })), "it is told our name and no more");
}

#[test]
fn the_pinned_core_is_joined_also_when_it_comes_after_a_stranger() {
    let mut world = World::new(42);
    world.start_core(CORE);
    let config = pinned(&mut world, "Core_000000000001");
    world.start_cell_with(config);
    world.until(s(5), |world| world.is_served(0));
    world.core = None;
    world.pass(s(30));
    world.start_core(SocketAddrV4::new(*CORE.ip(), 5601));
    world.until(s(10), |world| world.is_served(0));
}

#[test]
fn with_a_pinned_address_no_echo_is_followed() {
    let mut world = World::new(43);
    let config = MembershipConfig { core_address: Some(SocketAddrV4::new(*CORE.ip(), 5999)), ..world.config() };
    world.start_cell_with(config);
    world.start_core(CORE);
    for id in 0..2000 {
        world.inject_echo(encode_echo(id, Ipv4Addr::LOCALHOST, CORE));
    }
    world.pass(s(30));
    assert_eq!((world.cells[0].joins(), world.pings), (0, 0));
    assert!(world.core.as_ref().unwrap().events.is_empty(), "nothing was sent there");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_stranger_makes_up_changes_nothing(
        made in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..200)), 1..60),
    ) {
        let mut world = world();
        let (conv, _) = overheard(&world);
        let mut forged = Vec::new();
        for (start, guess, fragment, window, ts, sn, una, data) in &made {
            let command = [Command::Push, Command::Ack, Command::WindowAsk, Command::WindowTell][usize::from(*fragment) % 4];
            let guess = if *guess == conv { 0 } else { *guess };
            forged.extend(packets(*start, &[Segment { conv: guess, command, fragment: *fragment, window: *window, ts: *ts, sn: *sn, una: *una, data }]));
        }
        changes_nothing(&mut world, forged);
    }
}
