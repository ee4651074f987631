//! A move of which a host does not know how it ended: what the claim says, and what the Core is told.

use std::time::Duration;

use super::*;
use crate::model::Claim;
use crate::txn::testing::Remains;

/// The service dies and is started again.
async fn reboot(rig: Rig) -> Rig {
    match rig.reboot(None).await {
        Ok(rig) => rig,
        Err(remains) => revive(remains).await,
    }
}

async fn revive(remains: Remains) -> Rig {
    remains.boot(None).await.ok().expect("nothing kills it")
}

/// a has said that a guest of b, which runs, can come.
async fn asked() -> (Pair, GuestId, u32) {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    let attached = pair.a.ask(attach_request(&[id])).await;
    assert!(attached.success, "{}", attached.error);
    (pair, id, attached.from)
}

/// The guard of a looks for so long.
async fn look_for(rig: &mut Rig, span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        sleep(Duration::from_secs(2)).await;
        assert!(look(rig).await, "the pool can be used");
    }
}

fn is_here(rig: &Rig, id: GuestId) -> bool {
    let (known, defined) = (rig.node.books.guest(id).is_ok(), rig.sim.state().domains.contains_key(&id));
    assert_eq!(known, defined, "books and libvirt say the same");
    known
}

async fn joins(rig: &mut Rig) {
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    rig.take_host_events().await;
}

/// As the Core hears of a guest that it has not ordered.
fn assert_told(sent: &[Message], id: GuestId) {
    let told = event(sent, MessageId::INSTANCE_MIGRATED_EVENT).expect("the Core is told");
    assert_eq!(told.string_array_params[&Key::Instance], [id.to_string()]);
    assert_eq!((told.bool_params[&Key::Immediate], told.string_params[&Key::Cell].as_str()), (true, "Cell_b"));
    assert_eq!(told.uint_array_params[&Key::Monitor].len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_was_let_go_of_while_its_new_host_was_dead_is_taken_and_told_before_the_list() {
    let (mut pair, id, _) = asked().await;
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    let mut a = reboot(pair.a).await;
    assert!(is_here(&a, id), "nobody else has it");
    assert_eq!(pair.share.state().claims[&id].owner, "Cell_a");
    assert_eq!(power(&a, id), Some(PowerState::Stopped), "nothing is started before the Core has spoken");
    // and once more, before the Core could be told
    a = reboot(a).await;
    a.engine.request(LINK, ready_request(POOL).from_session(900));
    a.settle().await;
    a.take_host_events().await;
    let sent = a.sent();
    assert_told(&sent, id);
    let at = |wanted| sent.iter().position(|message| message.id == wanted).unwrap();
    assert!(at(MessageId::INSTANCE_MIGRATED_EVENT) < at(MessageId::COMPUTE_CELL_READY_EVENT));
    assert_eq!(event(&sent, MessageId::COMPUTE_CELL_READY_EVENT).unwrap().uint_params[&Key::Count], 1);
    assert_eq!(power(&a, id), Some(PowerState::Running), "as it did before");
    joins(&mut a).await;
    assert!(event(&a.sent(), MessageId::INSTANCE_MIGRATED_EVENT).is_none(), "told once");
    assert_eq!(pair.share.most_copies(), 1);
}

/// What a Core of a pool with failover says to a host that was lost.
#[tokio::test(start_paused = true)]
async fn a_purge_leaves_what_came_without_the_cores_knowledge_and_tells_it() {
    let mut pair = Pair::new().await;
    let (own, id) = (pair.a.with_guest(2).await, pair.running_on_b(1).await);
    assert!(pair.a.ask(attach_request(&[id])).await.success);
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    let mut a = reboot(pair.a).await;
    a.engine.request(LINK, detach_request(&[]).from_session(900));
    a.settle().await;
    let sent = a.sent();
    assert!(event(&sent, MessageId::DETACH_INSTANCE_RESPONSE).unwrap().success);
    assert_told(&sent, id);
    assert!(is_here(&a, id) && !is_here(&a, own), "the others were moved");
    assert_eq!(power(&a, id), Some(PowerState::Running));
    assert!(a.ask(detach_request(&[])).await.success);
    assert!(!is_here(&a, id), "now the Core knows of it, and has moved it");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_let_go_of_after_its_new_host_is_back_is_taken() {
    let (mut pair, id, _) = asked().await;
    let mut a = reboot(pair.a).await;
    joins(&mut a).await;
    look_for(&mut a, Duration::from_secs(10)).await;
    assert!(a.node.books.guest(id).is_err());
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    look_for(&mut a, Duration::from_secs(4)).await;
    assert!(is_here(&a, id));
    a.settle().await;
    look_for(&mut a, Duration::from_secs(2)).await;
    assert_told(&a.sent(), id);
    assert_eq!((power(&a, id), pair.share.most_copies()), (Some(PowerState::Running), 1));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_kept_by_its_host_is_given_up_after_a_minute_or_when_it_is_asked_for_anew() {
    let (pair, id, _) = asked().await;
    let mut a = reboot(pair.a).await;
    joins(&mut a).await;
    look_for(&mut a, Duration::from_secs(50)).await;
    assert_eq!(a.node.store.journal().open_records().len(), 1);
    assert!(a.ask(attach_request(&[id])).await.success, "the Core begins again");
    let mut a = reboot(a).await;
    joins(&mut a).await;
    look_for(&mut a, Duration::from_secs(70)).await;
    assert!(!is_here(&a, id));
    assert!(a.node.store.journal().open_records().is_empty());
    assert_eq!((power(&pair.b, id), pair.share.most_copies()), (Some(PowerState::Running), 1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_dead_for_long_leaves_alone_what_somebody_else_has_been_given() {
    type Meanwhile = fn(&mut crate::host::sim::ShareState, GuestId);
    let meanwhile: [(&str, Meanwhile); 5] = [
        ("another cell has it", |state, id| {
            let claim = state.claims.get_mut(&id).unwrap();
            *claim = Claim { owner: "Cell_c".into(), generation: claim.generation + 1, tenure: claim.generation + 1, ..Claim::default() };
        }),
        ("another cell had it and has let go of it, to a host without claims perhaps", |state, id| {
            let claim = state.claims.get_mut(&id).unwrap();
            *claim = Claim { generation: claim.generation + 2, tenure: claim.generation + 1, ..Claim::default() };
        }),
        ("it was deleted", |state, id| {
            state.claims.remove(&id);
            state.guests.remove(&id);
            state.volumes.clear();
        }),
        ("a host without claims has taken it", |state, id| state.guests.get_mut(&id).unwrap().config.monitor_port += 1),
        ("a disk of it is gone", |state, _| state.volumes.clear()),
    ];
    for (case, change) in meanwhile {
        let (mut pair, id, _) = asked().await;
        assert!(pair.b.ask(detach_request(&[id])).await.success);
        pair.share.change(|state| change(state, id));
        let left = pair.share.state();
        let mut a = reboot(pair.a).await;
        joins(&mut a).await;
        look_for(&mut a, Duration::from_secs(70)).await;
        assert!(!is_here(&a, id), "{case}");
        assert_eq!(pair.share.state(), left, "{case}");
        assert!(a.node.store.journal().open_records().is_empty(), "{case}");
        assert!(event(&a.sent(), MessageId::INSTANCE_MIGRATED_EVENT).is_none(), "{case}");
    }
}

/// The reference keeps no claims: that it has let go of a guest can't be seen.
#[tokio::test(start_paused = true)]
async fn a_guest_without_a_claim_comes_on_the_cores_order_only() {
    for leftover in [None, Some(Claim { generation: 6, tenure: 5, ..Claim::default() })] {
        let mut pair = Pair::new().await;
        let id = pair.b.with_guest(1).await;
        // from here on b is a host without claims
        pair.share.change(|state| {
            state.claims.remove(&id);
            state.claims.extend(leftover.clone().map(|claim| (id, claim)));
        });
        assert!(pair.a.ask(attach_request(&[id])).await.success);
        let begun = Instant::now();
        pair.a.settle().await;
        assert!(begun.elapsed() >= Duration::from_secs(60), "{leftover:?}: it waits for the order");
        assert!(!is_here(&pair.a, id), "{leftover:?}");
        assert!(pair.a.ask(attach_request(&[id])).await.success);
        let mut a = reboot(pair.a).await;
        look_for(&mut a, Duration::from_secs(70)).await;
        assert!(!is_here(&a, id), "{leftover:?}");
        let attached = a.ask(attach_request(&[id])).await;
        a.engine.request(LINK, migrate_request(&[id], attached.from));
        a.settle().await;
        assert!(is_here(&a, id), "{leftover:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_host_died_after_it_let_go_is_taken_before_the_core_gives_up() {
    let (mut pair, id, _) = asked().await;
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    let begun = Instant::now();
    // the answer of b is lost, and no order comes
    pair.a.settle().await;
    let waited = begun.elapsed();
    assert!(waited > ORDER_DELAY && waited < TIMEOUT, "{waited:?}");
    assert_told(&pair.a.sent(), id);
    assert_eq!((is_here(&pair.a, id), power(&pair.a, id)), (true, Some(PowerState::Running)));
    assert!(pair.a.node.books.lock().arrivals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_leaves_the_question_to_the_next_start() {
    let (mut pair, id, _) = asked().await;
    pair.a.engine.close();
    pair.a.settle().await;
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    let a = reboot(pair.a).await;
    assert!(is_here(&a, id));
}

/// The former host is lost in the middle of a move, and the Core gives its guests to the very host that waits.
#[tokio::test(start_paused = true)]
async fn a_failover_to_the_host_that_waits_or_has_the_guest_already_is_told_as_done() {
    for let_go in [false, true] {
        let (mut pair, id, _) = asked().await;
        if let_go {
            assert!(pair.b.ask(detach_request(&[id])).await.success);
            pair.a.settle().await;
            pair.a.sent();
        }
        pair.b.sim.process().kill();
        pair.b.sim.lose_power("later");
        pair.a.engine.request(LINK, failover_request(&[id], "Cell_b"));
        pair.a.settle().await;
        assert_told(&pair.a.sent(), id);
        // That a guest ran is known from a host that has let go of it.
        let expected = if let_go { PowerState::Running } else { PowerState::Stopped };
        assert_eq!((is_here(&pair.a, id), power(&pair.a, id)), (true, Some(expected)), "{let_go}");
        assert_eq!(pair.share.most_copies(), 1);
    }
}

/// A server that is silent when the service starts is asked again when it is back.
#[tokio::test(start_paused = true)]
async fn what_a_silent_server_kept_from_being_seen_is_decided_later() {
    let (mut pair, id, _) = asked().await;
    assert!(pair.b.ask(detach_request(&[id])).await.success);
    pair.a.sim.set_deadline(Duration::from_secs(4));
    pair.share.set_dead(true);
    let mut a = reboot(pair.a).await;
    assert_eq!(a.node.store.journal().open_records().len(), 1);
    pair.share.set_dead(false);
    joins(&mut a).await;
    look_for(&mut a, Duration::from_secs(20)).await;
    assert!(is_here(&a, id));
}
