//! Every crash point of the host that guests leave, while the other one waits for them, lives, or is dead as well: one of the two has each guest in the
//! end, by the claims, and it never runs twice.

use std::time::Duration;

use super::state::check_consistent;
use super::{look_until_decided, revive};
use crate::model::GuestId;
use crate::txn::testing::pair::{attach_request, detach_request, ready_request, Pair, POOL};
use crate::txn::testing::Rig;

/// What the hosts do once the former one has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is back at once, while the other one waits.
    FormerFirst,
    /// The other one waits in vain before it is back.
    OtherWaits,
    /// The other one has died as well, and is back before it.
    OtherFirst,
    /// The other one has died as well, and is back after it.
    OtherLater,
}

/// Longer than anybody waits for anything.
const AGES: Duration = Duration::from_secs(100);

async fn dies_when_asked(rig: &mut Rig, ids: &[GuestId], point: u64) -> bool {
    let process = rig.sim.process();
    process.die_at(point);
    let asking = async {
        let answer = rig.ask(detach_request(ids)).await;
        rig.settle().await;
        answer.success
    };
    tokio::select! {
        biased;
        () = process.death() => {}
        done = asking => assert!(done),
    }
    process.is_dead()
}

async fn back(rig: Rig) -> Rig {
    let mut rig = match rig.reboot(None).await {
        Ok(rig) => rig,
        Err(remains) => revive(remains).await,
    };
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    look_until_decided(&mut rig).await;
    rig
}

/// False when there were fewer points.
async fn walk_one(point: u64, then: Then) -> bool {
    let at = format!("dead at point {point}, {then:?}");
    let mut pair = Pair::new().await;
    let ids = [pair.running_on_b(1).await, pair.b.with_guest(2).await];
    assert!(pair.a.ask(attach_request(&ids)).await.success);
    let died = dies_when_asked(&mut pair.b, &ids, point).await;
    let Pair { share, mut a, mut b } = pair;
    match then {
        Then::FormerFirst => b = back(b).await,
        Then::OtherWaits => tokio::time::sleep(AGES).await,
        Then::OtherFirst => a = back(a).await,
        Then::OtherLater => {
            b = back(b).await;
            a = back(a).await;
        }
    }
    if matches!(then, Then::OtherWaits | Then::OtherFirst) {
        b = back(b).await;
    }
    a.settle().await;
    for rig in [&mut a, &mut b] {
        look_until_decided(rig).await;
        check_consistent(rig, &at);
        let open = rig.node.store.journal().open_records();
        assert!(open.is_empty(), "{at}: {open:?}");
    }
    for (number, id) in ids.iter().enumerate() {
        let (here, there) = (a.node.books.guest(*id), b.node.books.guest(*id));
        let claim = share.state().claims[id].clone();
        let owner = match (&here, &there) {
            (Ok(_), Err(_)) => "Cell_a",
            (Err(_), Ok(_)) => "Cell_b",
            _ => panic!("{at}: guest {number} is on {} hosts", usize::from(here.is_ok()) + usize::from(there.is_ok())),
        };
        assert_eq!(claim.owner, owner, "{at}");
        let guest = here.or(there).unwrap();
        assert_eq!(guest.power == crate::model::PowerState::Running, number == 0, "{at}: what ran runs");
        assert_eq!(share.state().guests[id].config, *guest.config, "{at}: the pool's description");
    }
    assert_eq!(share.most_copies(), 1, "{at}");
    died
}

/// One in `share` points.
async fn walk(then: Then, share: usize) {
    let mut deaths = 0;
    for point in (1..).step_by(share) {
        if !walk_one(point, then).await {
            break;
        }
        deaths += 1;
    }
    println!("{deaths} deaths");
    assert!(deaths > 20, "{deaths}");
}

#[tokio::test(start_paused = true)]
async fn the_former_host_dies_and_is_back_at_once() {
    walk(Then::FormerFirst, 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_former_host_dies_and_is_away_for_long() {
    walk(Then::OtherWaits, 1).await;
}

#[tokio::test(start_paused = true)]
async fn both_hosts_die_and_the_new_one_is_back_first() {
    walk(Then::OtherFirst, 3).await;
}

#[tokio::test(start_paused = true)]
async fn both_hosts_die_and_the_former_one_is_back_first() {
    walk(Then::OtherLater, 3).await;
}
