//! A Cell and a real Core's behaviour in virtual time: every recovery has its limit.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;

use super::world::{ms, s, World, CORE, DOMAIN};
use super::{Action, LinkStatus, MemberEvent, Membership, MembershipConfig, SendError};
use crate::proto::discovery::{encode_echo, encode_ping};
use crate::proto::hub::HubEvent;
use crate::proto::message::{Message, MessageId};

/// The goal of the whole recovery (transport §4.4).
const USABLE: Duration = s(5);

fn is_served(world: &World) -> bool {
    world.is_served(0)
}

#[test]
fn joins_the_core_of_its_domain_and_serves_it() {
    let mut world = World::new(1);
    world.start_core(CORE);
    world.start_cell(false);
    assert!(world.until(s(1), is_served) < ms(500));
    let MemberEvent::Joined { core_name, core_address, local_address, .. } = &world.cells[0].events[0] else {
        panic!("joined first: {:?}", world.cells[0].events);
    };
    assert_eq!((core_name.as_str(), *core_address), ("Core_000000000001", CORE));
    assert_eq!(Some((*local_address, CORE)), world.cells[0].socket);
    assert_eq!(world.ask(500, s(30)), 500);
    world.pass(s(60));
    assert_eq!(world.cells[0].joins(), 1, "a quiet connection stays");
    assert!(world.core.as_ref().unwrap().disconnects().is_empty());
}

#[test]
fn waits_for_a_core_and_is_usable_soon_after_it_starts() {
    let mut world = World::new(2);
    world.start_cell(false);
    world.pass(s(600));
    assert_eq!(world.cells[0].membership.status(), LinkStatus::Searching);
    assert!(world.pings > 600, "goes on looking");
    world.start_core(CORE);
    assert!(world.until(USABLE, is_served) < s(2));
}

#[test]
fn joins_and_answers_everything_under_loss_duplication_and_reordering() {
    for loss in [0, 10, 20, 30, 40] {
        for seed in 0..4 {
            let mut world = World::new(seed);
            (world.loss, world.duplicates, world.jitter) = (loss, 5, ms(20));
            world.start_core(CORE);
            world.start_cell(false);
            world.until(s(10), is_served);
            assert_eq!(world.ask(300, s(120)), 300, "loss {loss} seed {seed}");
            let before = world.cells[0].events.len();
            world.pass(s(120));
            assert_eq!(world.cells[0].joins(), 1, "loss {loss} seed {seed}: {:?}", &world.cells[0].events[before..]);
        }
    }
}

#[test]
fn ignores_a_core_of_another_domain() {
    let mut world = World::new(3);
    world.start_core(CORE);
    world.core.as_mut().unwrap().domain = "other".into();
    world.start_cell(false);
    world.pass(s(30));
    assert_eq!(world.cells[0].opened, 0);
}

#[test]
fn two_cells_live_in_one_domain() {
    let mut world = World::new(4);
    world.start_core(CORE);
    world.start_cell(false);
    world.start_cell(false);
    world.until(s(2), |world| world.is_served(0) && world.is_served(1));
    world.pass(s(40));
    assert_eq!((world.cells[0].joins(), world.cells[1].joins()), (1, 1));
}

#[test]
fn a_short_outage_costs_nothing_but_time() {
    for seed in 0..8 {
        let mut world = World::joined(seed);
        world.loss = 100;
        world.pass(s(10));
        assert!(world.cells[0].events.contains(&MemberEvent::Lost { link: 1 }), "{:?}", world.cells[0].events);
        world.loss = 0;
        world.until(USABLE, |world| world.cells[0].events.contains(&MemberEvent::Recovered { link: 1 }));
        assert_eq!(world.ask(10, s(2)), 10);
        world.pass(s(30));
        assert_eq!(world.cells[0].joins(), 1, "the connection itself survived");
    }
}

#[test]
fn a_long_outage_ends_the_connection_and_recovery_is_quick() {
    for (seed, outage) in [(1, 16), (2, 22), (3, 60), (4, 600)] {
        let mut world = World::joined(seed);
        world.loss = 100;
        world.core_host_is_up = false;
        world.until(s(16), |world| !world.cells[0].left_reasons().is_empty());
        world.pass(s(outage).saturating_sub(world.now));
        (world.loss, world.core_host_is_up) = (0, true);
        let took = world.until(USABLE, is_served);
        assert!(took < USABLE, "after {outage} s: {took:?}");
    }
}

#[test]
fn usable_soon_after_sigkill_and_restart() {
    for (seed, down) in [(1, 0), (2, 1), (3, 4), (4, 8), (5, 14), (6, 30)] {
        for loss in [0, 20] {
            let mut world = World::joined(seed);
            world.loss = loss;
            world.kill_cell();
            world.pass(s(down));
            world.restart_cell(true);
            world.until(USABLE, is_served);
            assert_eq!(world.ask(10, s(10)), 10);
            world.pass(s(60));
            assert_eq!(world.cells[0].joins(), 1, "the old entry's farewell must not hit the new connection");
        }
    }
}

#[test]
fn the_deaf_window_is_noticed_without_the_flag_too() {
    let mut world = World::joined(7);
    world.restart_cell(false);
    let took = world.until(s(9), is_served);
    assert!(world.core.as_ref().unwrap().was_shadowed(), "the Core did swallow the first connection");
    assert!(took > s(6) && took < s(8), "two intervals and a reconnect, not the Core's timeout: {took:?}");
    assert_eq!(world.cells[0].left_reasons().len(), 1);
    assert_eq!(world.ask(10, s(2)), 10);
}

#[test]
fn usable_soon_after_the_core_returns() {
    for (seed, down) in [(1, 0), (2, 50), (3, 700), (4, 3_000), (5, 10_000), (6, 40_000)] {
        for host_is_up in [true, false] {
            for asked in [0, 1000] {
                for loss in [0, 20] {
                    let mut world = World::joined(seed);
                    assert_eq!(world.ask(asked, s(60)), asked as usize);
                    world.loss = loss;
                    world.core = None;
                    world.core_host_is_up = host_is_up;
                    world.pass(ms(down));
                    world.core_host_is_up = true;
                    world.start_core(CORE);
                    let took = world.until(USABLE, is_served);
                    assert!(took < USABLE, "down {down} ms, host up {host_is_up}, loss {loss}: {took:?}");
                    world.pass(s(30));
                    assert!(world.is_served(0));
                }
            }
        }
    }
}

#[test]
fn follows_a_core_that_returns_on_another_port() {
    let mut world = World::joined(8);
    world.core = None;
    world.pass(ms(500));
    world.start_core(SocketAddrV4::new(*CORE.ip(), 5601));
    world.until(USABLE, is_served);
}

#[test]
fn a_core_that_stops_is_left_at_once() {
    let mut world = World::joined(9);
    let now = world.now;
    world.core.as_mut().unwrap().hub.close(now);
    world.until(s(1), |world| world.cells[0].left_reasons() == ["closed by the other end"]);
    world.until(s(1), |world| world.core.as_ref().unwrap().hub.is_idle());
    world.core = None;
    world.pass(s(20));
    world.start_core(CORE);
    world.until(USABLE, is_served);
}

#[test]
fn leaves_gracefully_under_loss_and_after_its_last_words() {
    for loss in [0, 20, 40] {
        for seed in 0..10 {
            let mut world = World::joined(seed);
            world.loss = loss;
            let last = Message::new(MessageId::GUEST_STOPPED_EVENT);
            let now = world.now;
            world.cells[0].membership.send(None, &last).unwrap();
            world.cells[0].membership.leave(now);
            let took = world.until(s(4), |world| world.cells[0].membership.is_finished());
            assert!(took <= s(3), "{took:?}");
            world.pass(s(3));
            let core = world.core.as_ref().unwrap();
            assert_eq!(core.disconnects(), [true], "loss {loss} seed {seed}");
            assert!(core.events.iter().any(|event| matches!(event, HubEvent::Message { message, .. } if *message == last)));
            assert_eq!(world.cells[0].membership.status(), LinkStatus::Left);
            assert_eq!(world.cells[0].left_reasons(), ["closed by us"]);
            assert!(world.cells[0].socket.is_none());
        }
    }
}

#[test]
fn leaving_is_bounded_when_nobody_answers_and_immediate_without_a_connection() {
    let mut world = World::joined(10);
    (world.loss, world.core_host_is_up) = (100, false);
    let now = world.now;
    world.cells[0].membership.leave(now);
    assert!(world.until(s(4), |world| world.cells[0].membership.is_finished()) <= ms(3001));

    let mut world = World::new(11);
    world.start_cell(false);
    world.pass(s(1));
    let now = world.now;
    world.cells[0].membership.leave(now);
    world.pass(ms(1));
    assert!(world.cells[0].membership.is_finished());
}

#[test]
fn a_strangers_echo_does_not_keep_it_from_its_core() {
    /// Answers every ping at once and names a host where nobody listens.
    fn bogus(ping: &[u8]) -> Vec<u8> {
        let ping: serde_json::Value = serde_json::from_slice(ping).unwrap();
        encode_echo(ping["id"].as_i64().unwrap(), Ipv4Addr::new(10, 0, 1, 0), SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 9), 5600))
    }
    let mut world = World::new(12);
    world.stranger = Some(bogus);
    world.start_core(CORE);
    world.start_cell(false);
    world.until(USABLE, is_served);
    world.pass(s(60));
    assert_eq!(world.cells[0].joins(), 1, "echoes mean nothing to a joined Cell");
}

#[test]
fn malformed_and_foreign_echoes_are_errors_and_no_more() {
    let mut world = World::new(13);
    world.start_cell(false);
    for datagram in [b"garbage".to_vec(), encode_ping(1, DOMAIN), vec![b'['; 9000], b"{\"type\":1,\"id\":1}".to_vec()] {
        world.inject_echo(datagram);
    }
    world.inject_echo(encode_echo(70_000, Ipv4Addr::LOCALHOST, CORE)); // an answer to nobody
    world.pass(ms(100));
    assert_eq!(world.cells[0].refused_input, 4);
    assert_eq!(world.cells[0].opened, 0);
    world.start_core(CORE);
    world.until(s(2), is_served);
}

#[test]
fn garbage_and_replays_from_the_cores_address_change_nothing() {
    let mut world = World::new(14);
    world.records = true;
    world.start_core(CORE);
    world.start_cell(false);
    world.until(s(1), is_served);
    assert_eq!(world.ask(200, s(30)), 200);
    world.records = false;
    let recorded = std::mem::take(&mut world.recorded);
    let (local, core) = world.cells[0].socket.unwrap();
    let mut rng = fastrand::Rng::with_seed(99);
    for round in 0..200 {
        let (from, to, replay) = recorded[rng.usize(..recorded.len())].clone();
        let mut damaged = replay.clone();
        let place = rng.usize(..damaged.len());
        damaged[place] ^= 1 << rng.u8(..8);
        world.inject(from, to, replay); // from the very first on: "nothing of yours has arrived"
        let mut noise = vec![0; rng.usize(..1400)];
        rng.fill(&mut noise);
        world.inject(core, local, noise);
        if round % 2 == 0 {
            damaged.truncate(8 + 11); // cut inside a header
            world.inject(core, local, damaged);
        }
        world.pass(ms(50));
    }
    assert!(world.cells[0].refused_input > 200);
    assert_eq!(world.ask(200, s(30)), 200);
    assert_eq!(world.cells[0].joins(), 1, "{:?}", world.cells[0].left_reasons());
}

#[test]
fn replays_of_the_first_datagrams_are_no_proof_of_a_restart() {
    let mut world = World::new(15);
    world.records = true;
    world.start_core(CORE);
    world.start_cell(false);
    world.until(s(1), is_served);
    world.records = false;
    let first = world.recorded[0].clone();
    world.ask(50, s(10));
    for _ in 0..300 {
        world.inject(first.0, first.1, first.2.clone());
        world.pass(ms(100));
    }
    assert_eq!(world.cells[0].joins(), 1, "{:?}", world.cells[0].left_reasons());
}

#[test]
fn a_fixed_address_needs_no_multicast() {
    let mut world = World::new(16);
    let config = MembershipConfig { core_address: Some(CORE), ..world.config() };
    world.start_cell_with(config);
    world.pass(s(30));
    assert_eq!(world.pings, 0);
    assert!(world.cells[0].events.iter().any(|event| matches!(event, MemberEvent::AttemptFailed { .. })));
    world.start_core(CORE);
    world.until(USABLE, is_served);
    for (host_is_up, down) in [(true, 0), (true, 20), (false, 5), (false, 60)] {
        world.core = None;
        world.core_host_is_up = host_is_up;
        world.pass(s(down));
        world.core_host_is_up = true;
        world.start_core(CORE);
        world.until(USABLE, is_served);
    }
    assert_eq!(world.pings, 0);
}

#[test]
fn an_answer_to_an_older_connection_is_refused() {
    let mut world = World::joined(17);
    let old = world.cells[0].link();
    let reply = Message::new(MessageId::GET_GUEST_RESPONSE).to_session(5);
    world.core = None;
    world.until(s(20), |world| !world.cells[0].is_joined());
    let membership = &mut world.cells[0].membership;
    assert!(matches!(membership.send(Some(old), &reply), Err(SendError::Stale { link }) if link == old));
    assert!(matches!(membership.send(None, &reply), Err(SendError::NotJoined)));
    world.start_core(CORE);
    world.until(USABLE, is_served);
    assert!(world.cells[0].link() > old);
    let membership = &mut world.cells[0].membership;
    assert!(matches!(membership.send(Some(old), &reply), Err(SendError::Stale { .. })));
    membership.send(None, &reply).unwrap();
}

#[test]
fn a_socket_that_cannot_be_opened_is_tried_again() {
    let mut membership =
        Membership::new(Duration::ZERO, MembershipConfig { core_address: Some(CORE), ..MembershipConfig::new("Cell_1", DOMAIN, 1) });
    let mut now = Duration::ZERO;
    let mut attempts = 0;
    while now < s(20) {
        while let Some(action) = membership.poll_action(now) {
            if matches!(action, Action::Open(_)) {
                attempts += 1;
                membership.socket_failed(now, "no route");
            }
        }
        now = membership.next_timeout().expect("never gives up").max(now);
        membership.handle_timeout(now);
    }
    assert!((10..60).contains(&attempts), "{attempts} attempts in 20 s");
}

#[derive(Clone, Debug)]
enum Op {
    Pass(u16),
    Ask(u8),
    Loss(u8),
    KillCore,
    StartCore(bool),
    StopCore,
    RestartCell(bool),
    HostUp(bool),
    Garbage(Vec<u8>),
    Echo(Vec<u8>),
    Replay(u16),
    Refuse,
    Event,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u16..9000).prop_map(Op::Pass),
        4 => (1u8..40).prop_map(Op::Ask),
        2 => prop_oneof![Just(0u8), 0u8..60, Just(100u8)].prop_map(Op::Loss),
        1 => Just(Op::KillCore),
        3 => any::<bool>().prop_map(Op::StartCore),
        1 => Just(Op::StopCore),
        1 => any::<bool>().prop_map(Op::RestartCell),
        1 => any::<bool>().prop_map(Op::HostUp),
        2 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Op::Garbage),
        1 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Op::Echo),
        2 => any::<u16>().prop_map(Op::Replay),
        1 => Just(Op::Refuse),
        2 => Just(Op::Event),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happened: once there is a Core and a network, the Cell serves it, and it can leave.
    #[test]
    fn any_history_ends_in_recovery(seed in any::<u64>(), fixed in any::<bool>(), ops in proptest::collection::vec(op(), 0..50)) {
        let mut world = World::new(seed);
        world.records = true;
        world.start_core(CORE);
        let core_address = fixed.then_some(CORE);
        let config = MembershipConfig { core_address, ..world.config() };
        world.start_cell_with(config);
        for op in ops {
            let now = world.now;
            match op {
                Op::Pass(millis) => world.pass(ms(millis.into())),
                Op::Ask(count) if world.loss < 60 && world.is_served(0) && world.core_knows(0) => {
                    world.ask(count.into(), s(2));
                }
                Op::Loss(loss) => world.loss = loss,
                Op::KillCore => world.core = None,
                Op::StartCore(same) if world.core.is_none() => {
                    let port = if same || fixed { CORE.port() } else { 5601 };
                    world.start_core(SocketAddrV4::new(*CORE.ip(), port));
                }
                Op::StopCore => {
                    if let Some(core) = &mut world.core {
                        core.hub.close(now);
                    }
                }
                Op::RestartCell(unclean) if !fixed => world.restart_cell(unclean),
                Op::HostUp(up) => world.core_host_is_up = up,
                Op::Garbage(bytes) => {
                    if let Some((local, core)) = world.cells[0].socket {
                        world.inject(core, local, bytes.clone());
                        world.inject(local, core, bytes);
                    }
                }
                Op::Echo(bytes) => world.inject_echo(bytes),
                Op::Replay(place) => {
                    if let Some((from, to, datagram)) = world.recorded.get(usize::from(place)).cloned() {
                        world.inject(from, to, datagram);
                    }
                }
                Op::Refuse => world.cells[0].membership.socket_refused(now),
                Op::Event => {
                    let _ = world.cells[0].membership.send(None, &Message::new(MessageId::GUEST_STOPPED_EVENT));
                }
                Op::Ask(_) | Op::StartCore(_) | Op::RestartCell(_) => {}
            }
            world.pass(ms(1));
            prop_assert!(world.cells[0].membership.actions.is_empty(), "the driver carries all out");
            prop_assert!(world.cells[0].membership.distrusted.len() <= super::MAX_DISTRUSTED);
        }
        (world.loss, world.core_host_is_up) = (0, true);
        if world.core.is_none() {
            world.start_core(CORE);
        }
        world.until(s(20), is_served);
        world.pass(s(20));
        prop_assert!(is_served(&world));
        prop_assert_eq!(world.ask(20, s(10)), 20);
        let now = world.now;
        world.cells[0].membership.leave(now);
        prop_assert!(world.until(s(4), |world| world.cells[0].membership.is_finished()) <= s(3));
    }
}
