mod crashes;

use super::*;
use crate::host::sim::{Effect, Fault, Operation};
use crate::host::{ErrorKind, SharedGuest};
use crate::model::{GuestConfig, PowerState};
use crate::proto::message::Message;
use crate::txn::guard;
use crate::txn::testing::pair::{attach_request, detach_request, failover_request, look, migrate_request, ready_request, Pair, POOL};
use crate::txn::testing::{about, start_request, Rig, LINK, TIMEOUT};

fn power(rig: &Rig, id: GuestId) -> Option<PowerState> {
    rig.sim.state().domains.get(&id).map(|domain| domain.power)
}

fn event(messages: &[Message], id: MessageId) -> Option<Message> {
    messages.iter().find(|message| message.id == id).cloned()
}

/// Moves a guest from b to a, as the Core does.
async fn move_to_a(pair: &mut Pair, ids: &[GuestId]) {
    let attached = pair.a.ask(attach_request(ids)).await;
    assert!(attached.success, "{}", attached.error);
    let detached = pair.b.ask(detach_request(ids)).await;
    assert!(detached.success, "{}", detached.error);
    pair.a.engine.request(LINK, migrate_request(ids, attached.from));
    pair.a.settle().await;
    pair.b.settle().await;
    pair.b.take_host_events().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_and_a_stopped_guest_are_moved() {
    let mut pair = Pair::new().await;
    let (running, stopped) = (pair.running_on_b(1).await, pair.b.with_guest(2).await);
    let before = pair.b.node.books.guest(running).unwrap().config;
    pair.a.with_guest(3).await;
    move_to_a(&mut pair, &[running, stopped]).await;

    let sent = pair.a.sent();
    let migrated = event(&sent, MessageId::INSTANCE_MIGRATED_EVENT).unwrap();
    assert_eq!(migrated.string_array_params[&Key::Instance], [running.to_string(), stopped.to_string()]);
    assert_eq!(migrated.string_params[&Key::Migration], "move-1");
    assert_eq!((migrated.bool_params[&Key::Immediate], migrated.to), (false, 0));
    assert_eq!(event(&sent, MessageId::GUEST_STARTED_EVENT).unwrap().string_params[&Key::Instance], running.to_string());
    assert_eq!((power(&pair.a, running), power(&pair.a, stopped)), (Some(PowerState::Running), Some(PowerState::Stopped)));
    let after = pair.a.node.books.guest(running).unwrap().config;
    assert_eq!(migrated.uint_array_params[&Key::Monitor][0], u64::from(after.monitor_port));
    assert_eq!(*after, GuestConfig { monitor_port: after.monitor_port, ..(*before).clone() }, "all but its port is what it was");
    assert_eq!(pair.share.state().guests[&running].config, *after, "and so does the pool say");
    assert_eq!(pair.share.state().claims[&running].owner, "Cell_a");

    assert_eq!(pair.b.node.guest_counts(), (0, 0, 0));
    assert!(pair.b.sim.state().domains.is_empty());
    assert_eq!(pair.b.sent(), [], "the former host tells nothing");
    assert!(!pair.b.files()["network.data"].contains(&before.hardware_address), "§14 D10: port and MAC are free again");
    assert_eq!(pair.share.most_copies(), 1);
    // and back
    assert!(pair.b.ask(attach_request(&[stopped])).await.success);
}

/// §14 D24: whatever fails, nothing is left here, and the guest can still come.
#[tokio::test(start_paused = true)]
async fn d24_a_failure_at_any_step_up_to_the_answer_leaves_nothing_behind() {
    let steps = {
        let mut pair = Pair::new().await;
        let ids = [pair.b.with_guest(1).await, pair.b.with_guest(2).await];
        let before = pair.a.sim.operations();
        assert!(pair.a.ask(attach_request(&ids)).await.success);
        pair.a.sim.operations() - before
    };
    assert!(steps >= 6, "two looks at the pool; a description and a domain each: {steps}");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::NotFound] {
                let mut pair = Pair::new().await;
                let ids = [pair.b.with_guest(1).await, pair.b.with_guest(2).await];
                let (state, files, share) = (pair.a.sim.state(), pair.a.files(), pair.share.state());
                pair.a.sim.fail_at(step, Fault { kind, effect });
                let answer = pair.a.ask(attach_request(&ids)).await;
                if answer.success && kind == ErrorKind::NotFound {
                    // That no domain of the guest is here yet.
                    continue;
                }
                assert!(!answer.success && !answer.error.is_empty(), "step {step} {kind:?} {effect:?}");
                pair.a.settle().await;
                let after = (pair.a.sim.state(), pair.a.files(), pair.share.state());
                assert_eq!(after, (state, files, share), "step {step} {kind:?} {effect:?}");
                assert_eq!(pair.a.sent(), []);
                assert!(pair.a.ask(attach_request(&ids)).await.success, "port, name and MAC are free again");
            }
        }
    }
}

/// §14 A8: the order may come later than our own timeout; without it everything is taken back.
#[tokio::test(start_paused = true)]
async fn a8_the_order_is_waited_for_longer_than_the_timeout_and_its_lack_is_undone() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    let (state, files) = (pair.a.sim.state(), pair.a.files());
    let begun = Instant::now();
    assert!(pair.a.ask(attach_request(&[id])).await.success);
    let refused = pair.a.ask(start_request(id)).await;
    assert!(!refused.success, "it is not ours yet");
    pair.a.settle().await;
    assert!(begun.elapsed() > TIMEOUT * 2, "{:?}", begun.elapsed());
    assert_eq!((pair.a.sim.state(), pair.a.files()), (state, files));
    assert_eq!((power(&pair.b, id), pair.share.most_copies()), (Some(PowerState::Running), 1));
    move_to_a(&mut pair, &[id]).await;
    assert_eq!(pair.share.most_copies(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_later_attempt_and_our_own_end_take_an_earlier_one_back() {
    let mut pair = Pair::new().await;
    let id = pair.b.with_guest(1).await;
    let state = pair.a.sim.state();
    let first = pair.a.ask(attach_request(&[id])).await;
    let begun = Instant::now();
    let second = pair.a.ask(attach_request(&[id])).await;
    assert!(second.success, "{}", second.error);
    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
    let late = pair.a.ask(migrate_request(&[id], first.from).from_session(900)).await;
    assert!(!late.success, "nobody waits in the first session any more");
    pair.a.node.awaited.give_up(&[id]);
    pair.a.engine.close();
    pair.a.settle().await;
    assert_eq!(pair.a.sim.state(), state);
    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
}

/// From the order on there is no way back: the guest is nowhere else.
#[tokio::test(start_paused = true)]
async fn after_the_order_a_guest_stays_here_whatever_fails() {
    for (operation, times) in [(Operation::Claim, 1), (Operation::SetClaim, 1), (Operation::SaveShared, 1), (Operation::Start, 2)] {
        let mut pair = Pair::new().await;
        let id = pair.running_on_b(1).await;
        let attached = pair.a.ask(attach_request(&[id])).await;
        assert!(pair.b.ask(detach_request(&[id])).await.success);
        for _ in 0..times {
            pair.a.sim.fail_next(operation, ErrorKind::Failed);
        }
        pair.a.engine.request(LINK, migrate_request(&[id], attached.from));
        pair.a.settle().await;
        let sent = pair.a.sent();
        assert!(event(&sent, MessageId::INSTANCE_MIGRATED_EVENT).is_some(), "{operation:?}");
        assert!(event(&sent, MessageId::GUEST_STARTED_EVENT).is_some(), "{operation:?}: tried again");
        assert_eq!(power(&pair.a, id), Some(PowerState::Running), "{operation:?}");
        assert!(look(&mut pair.a).await);
        assert_eq!(pair.share.state().guests[&id].config, *pair.a.node.books.guest(id).unwrap().config, "{operation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a8_an_ordered_migration_is_finished_whichever_step_fails() {
    let ordered = || async {
        let mut pair = Pair::new().await;
        let id = pair.running_on_b(1).await;
        let attached = pair.a.ask(attach_request(&[id])).await;
        assert!(pair.b.ask(detach_request(&[id])).await.success);
        (pair, id, attached.from)
    };
    let steps = {
        let (mut pair, id, session) = ordered().await;
        let begun = pair.a.sim.operations();
        pair.a.engine.request(LINK, migrate_request(&[id], session));
        pair.a.settle().await;
        pair.a.sim.operations() - begun
    };
    assert!(steps >= 4, "claim, description, filter, start: {steps}");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::Unavailable] {
                let case = format!("step {step} {kind:?} {effect:?}");
                let (mut pair, id, session) = ordered().await;
                pair.a.sim.fail_at(step, Fault { kind, effect });
                pair.a.engine.request(LINK, migrate_request(&[id], session));
                pair.a.settle().await;
                let sent = pair.a.sent();
                assert!(event(&sent, MessageId::INSTANCE_MIGRATED_EVENT).is_some(), "{case}");
                assert!(event(&sent, MessageId::GUEST_STARTED_EVENT).is_some(), "{case}");
                assert!(look(&mut pair.a).await, "{case}");
                assert_eq!(power(&pair.a, id), Some(PowerState::Running), "{case}");
                let share = pair.share.state();
                assert_eq!(share.guests[&id].config, *pair.a.node.books.guest(id).unwrap().config, "{case}");
                assert_eq!((share.claims[&id].owner.as_str(), pair.share.most_copies()), ("Cell_a", 1), "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_be_started_after_all_is_told_as_stopped() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    let attached = pair.a.ask(attach_request(&[id])).await;
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    for _ in 0..100 {
        pair.a.sim.fail_next(Operation::Start, ErrorKind::Failed);
    }
    pair.a.engine.request(LINK, migrate_request(&[id], attached.from));
    pair.a.settle().await;
    assert!(event(&pair.a.sent(), MessageId::GUEST_STOPPED_EVENT).is_some());
    pair.a.sim.clear_faults();
    assert!(pair.a.ask(start_request(id)).await.success);
}

/// The host is cut off from the Core only: its guests run, and it sees the shared storage.
#[tokio::test(start_paused = true)]
async fn at_a_failover_the_former_host_ends_its_copy_before_the_new_one_begins() {
    let mut pair = Pair::new().await;
    let ids = [pair.running_on_b(1).await, pair.running_on_b(2).await];
    for id in ids {
        pair.b.node.books.lock().update(id, |config| config.auto_start = true).unwrap();
    }
    pair.b.node.save(&[crate::store::DataFile::Instance]).await.unwrap();
    let guards = [tokio::spawn(guard::keep(pair.a.node.clone())), tokio::spawn(guard::keep(pair.b.node.clone()))];
    pair.a.engine.request(LINK, failover_request(&ids, "Cell_b"));
    pair.a.settle().await;
    let sent = pair.a.sent();
    let migrated = event(&sent, MessageId::INSTANCE_MIGRATED_EVENT).unwrap();
    assert_eq!(migrated.string_array_params[&Key::Instance].len(), 2);
    assert_eq!((migrated.bool_params[&Key::Immediate], migrated.string_params[&Key::Cell].as_str()), (true, "Cell_b"));
    assert!(sent.iter().all(|message| message.id != MessageId::ATTACH_INSTANCE_RESPONSE), "§13.8: nobody waits for an answer");
    for id in ids {
        assert_eq!((power(&pair.a, id), power(&pair.b, id)), (Some(PowerState::Running), Some(PowerState::Stopped)));
        assert!(pair.share.state().claims[&id].from.is_empty(), "started: the former owner is of no interest any more");
    }
    assert_eq!(pair.share.most_copies(), 1);
    // it finds its way back to the Core, which purges it
    assert!(pair.b.ask(detach_request(&[])).await.success);
    assert_eq!(pair.b.node.guest_counts(), (0, 0, 0));
    assert_eq!((pair.share.most_copies(), pair.share.state().claims[&ids[0]].owner.as_str()), (1, "Cell_a"));
    guards.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_back_from_the_dead_starts_nothing() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    pair.b.node.books.lock().update(id, |config| config.auto_start = true).unwrap();
    pair.b.node.save(&[crate::store::DataFile::Instance]).await.unwrap();
    pair.b.sim.lose_power("second boot");
    pair.a.engine.request(LINK, failover_request(&[id], "Cell_b"));
    pair.a.settle().await;
    assert_eq!(power(&pair.a, id), Some(PowerState::Running));
    // back, and even a Core that has forgotten to purge it gets no second copy
    assert!(look(&mut pair.b).await);
    assert!(pair.b.ask(ready_request(POOL)).await.success);
    pair.b.settle().await;
    assert!(!pair.b.ask(start_request(id)).await.success);
    assert_eq!(power(&pair.b, id), Some(PowerState::Stopped));
    assert!(pair.b.ask(detach_request(&[])).await.success);
    assert!(pair.b.sim.state().domains.is_empty());
    let kept: &SharedGuest = &pair.share.state().guests[&id];
    assert_eq!(kept.config, *pair.a.node.books.guest(id).unwrap().config, "the files are the new owner's");
    assert_eq!(pair.share.most_copies(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_a_failover_one_guest_that_makes_trouble_does_not_keep_the_others() {
    let mut pair = Pair::new().await;
    let (good, slow) = (pair.b.with_guest(1).await, pair.b.with_guest(2).await);
    let unknown = GuestId::from_bytes([9; 16]);
    // reading the second one fails twice
    let read_later = pair.share.state().guests[&slow].clone();
    pair.share.change(|state| drop(state.guests.remove(&slow)));
    let share = pair.share.clone();
    tokio::spawn(async move {
        sleep(RETRY * 2 - std::time::Duration::from_secs(1)).await;
        share.change(|state| drop(state.guests.insert(slow, read_later)));
    });
    pair.a.engine.request(LINK, failover_request(&[unknown, good, slow], "Cell_b"));
    pair.a.settle().await;
    let events: Vec<Vec<String>> = pair
        .a
        .sent()
        .iter()
        .filter(|message| message.id == MessageId::INSTANCE_MIGRATED_EVENT)
        .map(|message| message.string_array_params[&Key::Instance].clone())
        .collect();
    assert_eq!(events, [vec![good.to_string()], vec![slow.to_string()]], "each as soon as it could be taken");
    assert_eq!(pair.a.node.guest_counts().0, 2);
    assert!(!pair.a.sim.state().domains.contains_key(&unknown));
}

#[tokio::test(start_paused = true)]
async fn c3_empty_lists_and_missing_parameters_are_answered() {
    let mut pair = Pair::new().await;
    let id = pair.b.with_guest(1).await;
    let state = pair.a.sim.state();
    let cases = [
        ("Instance(13) is empty", attach_request(&[])),
        ("Cell(12) is missing", attach_request(&[id]).bool(Key::Immediate, true)),
        ("Immediate(41) is missing", Message::new(MessageId::ATTACH_INSTANCE_REQUEST)),
        ("Instance(13) is missing", Message::new(MessageId::ATTACH_INSTANCE_REQUEST).bool(Key::Immediate, false)),
        ("is not a guest id", attach_request(&[]).strings(Key::Instance, ["x".to_owned()])),
        ("says nothing about guest", attach_request(&[GuestId::from_bytes([9; 16])])),
    ];
    for (expected, request) in cases {
        let answer = pair.a.ask(request).await;
        assert!(!answer.success && answer.error.contains(expected), "{expected}: {}", answer.error);
    }
    // and from nobody's session nothing is answered, and nothing breaks
    pair.a.engine.request(LINK, failover_request(&[], "Cell_b"));
    pair.a.settle().await;
    assert_eq!(pair.a.sent(), []);
    assert_eq!(pair.a.sim.state(), state);
    let mut without = Rig::new().await;
    assert!(without.ask(attach_request(&[id])).await.error.contains("no shared storage attached"));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_here_is_refused_with_the_reason() {
    let mut pair = Pair::new().await;
    let id = pair.b.with_guest(1).await;
    let here = pair.a.with_guest(2).await;
    let good = pair.share.state();
    let mac = pair.a.node.books.guest(here).unwrap().config.hardware_address.clone();
    type Spoil = Box<dyn Fn(&mut crate::host::sim::ShareState)>;
    let cases: Vec<(&str, Spoil)> = vec![
        ("has the MAC address", Box::new(move |state| state.guests.get_mut(&id).unwrap().config.hardware_address.clone_from(&mac))),
        ("is taken by guest", Box::new(move |state| state.guests.get_mut(&id).unwrap().config.name = "group.guest2".into())),
        ("is not in storage pool", Box::new(move |state| state.volumes.retain(|name, _| *name != format!("{id}_0.qcow2")))),
        ("is not complete", Box::new(move |state| state.guests.get_mut(&id).unwrap().config.unfinished = true)),
        ("different volumes", Box::new(move |state| drop(state.guests.get_mut(&id).unwrap().volumes.data.pop()))),
        (
            "it has snapshots",
            Box::new(move |state| {
                let volumes = &mut state.guests.get_mut(&id).unwrap().volumes;
                volumes.system.path = "/elsewhere/x".into();
                volumes.snapshots.insert("s".into(), Default::default());
            }),
        ),
    ];
    for (expected, spoil) in cases {
        pair.share.change(|state| spoil(state));
        let before = pair.a.sim.state();
        let answer = pair.a.ask(attach_request(&[id])).await;
        assert!(answer.error.contains(expected), "{expected}: {}", answer.error);
        assert_eq!(pair.a.sim.state(), before);
        let good = good.clone();
        pair.share.change(|state| *state = good);
    }
    assert!(pair.a.ask(attach_request(&[here])).await.error.contains("is on this cell already"));
}

/// §14 D20: another host may mount the pool elsewhere.
#[tokio::test(start_paused = true)]
async fn paths_are_those_of_this_host() {
    let mut pair = Pair::new().await;
    let id = pair.b.with_guest(1).await;
    pair.share.change(|state| {
        let guest = state.guests.get_mut(&id).unwrap();
        guest.volumes.system.path = "/srv/other/pools/nas/x_sys.qcow2".into();
        guest.volumes.boot_image = format!("/srv/other/pools/nas/{id}_ci.iso");
        guest.config.boot_image.clone_from(&guest.volumes.boot_image);
    });
    move_to_a(&mut pair, &[id]).await;
    let (config, group) = {
        let books = pair.a.node.books.lock();
        (books.guests[&id].config.clone(), books.storage.groups[&id].clone())
    };
    assert_eq!(group.system.path, format!("/pools/nas/{id}_sys.qcow2"));
    assert_eq!(
        (config.boot_image.as_str(), group.boot_image.as_str()),
        (&*format!("/pools/nas/{id}_ci.iso"), &*format!("/pools/nas/{id}_ci.iso"))
    );
    assert!(pair.a.ask(start_request(id)).await.success);
    assert!(pair.a.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await.success);
}
