use std::time::Duration;

use tokio::time::{sleep, Instant};

use super::*;
use crate::host::sim::Operation;
use crate::host::{ErrorKind, HostEvent};
use crate::model::{GuestId, LOCAL_POOL};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, create_request, Rig};

const MOMENT: Duration = Duration::from_secs(1);

fn storage_request(path: &str) -> Message {
    Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, path)
}

/// A node whose pool could not be brought back from a move that failed.
async fn with_lost_pool() -> Rig {
    let mut rig = Rig::new().await;
    for _ in 0..2 {
        rig.sim.fail_next(Operation::EnsureLocalPool, ErrorKind::Unavailable);
    }
    let answer = rig.ask(storage_request("/elsewhere")).await;
    assert!(!answer.success && open(&rig) == 1 && rig.sim.state().pools.is_empty(), "{}", answer.error);
    rig
}

/// A node with a guest whose deletion broke off at its first volume.
async fn with_half_deleted() -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    let guest = rig.with_guest(1).await;
    rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Unavailable);
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest)).await;
    assert!(!answer.success && open(&rig) == 1);
    rig.settle().await;
    (rig, guest)
}

fn open(rig: &Rig) -> usize {
    rig.node.store.journal().open_records().len()
}

/// What libvirt's return gives.
fn back() -> HostEvent {
    HostEvent::Connected(Vec::new())
}

fn pool_target(rig: &Rig) -> String {
    rig.sim.state().pools[LOCAL_POOL].target.clone()
}

#[tokio::test(start_paused = true)]
async fn pools_that_were_being_moved_are_where_the_books_say_when_libvirt_is_back() {
    let mut rig = with_lost_pool().await;
    rig.monitor.take(back()).await;
    rig.monitor.rest().await;
    assert_eq!((open(&rig), pool_target(&rig).as_str()), (0, "/images/local0"));
    assert_eq!(rig.node.books.lock().storage.pools[LOCAL_POOL].target, "/images/local0");
    let answer = rig.ask(storage_request("/elsewhere")).await;
    assert!(answer.success && pool_target(&rig) == "/elsewhere/local0", "{}", answer.error);
}

#[tokio::test(start_paused = true)]
async fn whoever_makes_volumes_or_moves_pools_is_waited_for_and_nobody_waits_behind() {
    let mut rig = with_lost_pool().await;
    let node = rig.node.clone();
    let making = node.layout.read().await;
    rig.monitor.take(back()).await;
    sleep(MOMENT).await;
    assert!(open(&rig) == 1 && rig.sim.state().pools.is_empty(), "not while somebody makes volumes");
    assert!(node.layout.try_read().is_ok(), "others make theirs meanwhile");
    drop(making);
    let moving = node.layout.write().await;
    sleep(MOMENT).await;
    assert!(open(&rig) == 1, "not while somebody moves pools");
    drop(moving);
    rig.monitor.rest().await;
    assert_eq!((open(&rig), pool_target(&rig).as_str()), (0, "/images/local0"));
}

/// The request that comes at the same time as libvirt is the first or the second, and finds the pool in one place either way.
#[tokio::test(start_paused = true)]
async fn a_request_about_pools_that_comes_at_the_same_time_ends_as_if_it_had_come_later() {
    for pause in [0, 50, 150] {
        let mut rig = with_lost_pool().await;
        rig.sim.set_latency(Operation::RemovePool, Duration::from_millis(100));
        rig.monitor.take(back()).await;
        sleep(Duration::from_millis(pause)).await;
        let answer = rig.ask(storage_request("/third")).await;
        assert!(answer.success, "{}", answer.error);
        rig.settle().await;
        rig.monitor.rest().await;
        assert_eq!((open(&rig), pool_target(&rig).as_str()), (0, "/third/local0"), "{pause} ms");
        assert_eq!(rig.node.books.lock().storage.pools[LOCAL_POOL].target, "/third/local0");
    }
}

#[tokio::test(start_paused = true)]
async fn no_volume_is_made_in_a_pool_that_is_to_be_brought_back() {
    let mut rig = with_lost_pool().await;
    rig.sim.fail_next(Operation::EnsureLocalPool, ErrorKind::Unavailable);
    let guest = GuestId::from_bytes([1; 16]);
    let answer = rig.ask(create_request(guest, "group.first")).await;
    assert!(answer.error.contains("an earlier change has to be cleaned up first"), "{}", answer.error);
    let answer = rig.ask(create_request(guest, "group.first")).await;
    assert!(answer.success, "{}", answer.error);
    assert_eq!((open(&rig), rig.sim.state().directories["/images/local0"].len()), (0, 2));
}

/// Addresses that could not be written down are not brought back by a later retry.
#[tokio::test(start_paused = true)]
async fn an_older_address_pool_never_follows_a_newer_one() {
    let mut rig = Rig::new().await;
    let gateway = |gateway: &str| {
        Message::new(MessageId::ADDRESS_POOL_CHANGED_EVENT)
            .string(Key::Gateway, gateway)
            .strings(Key::Server, ["10.0.0.2".to_owned()])
            .string(Key::Mode, "dhcp")
    };
    let refusal = crate::store::testing::Refusal { first: 2, count: u64::MAX, errno: nix::errno::Errno::ENOSPC };
    rig.disk.refuse(Some(refusal));
    rig.tell(gateway("10.0.0.1")).await;
    rig.disk.refuse(None);
    assert_eq!(open(&rig), 1);
    rig.tell(gateway("10.0.0.9")).await;
    rig.monitor.take(back()).await;
    rig.monitor.rest().await;
    assert_eq!((open(&rig), rig.node.books.lock().network.gateway.as_str()), (0, "10.0.0.9"));
    assert!(rig.files()["network.data"].contains("10.0.0.9"));
}

async fn rest(rounds: &mut Rounds) {
    while rounds.is_busy() {
        rounds.reap().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_return_does_not_double_the_work() {
    let mut operations = Vec::new();
    for returns in [1, 3] {
        let (rig, guest) = with_half_deleted().await;
        rig.sim.set_latency(Operation::DeleteVolume, Duration::from_secs(5));
        let (before, mut rounds) = (rig.sim.operations(), Rounds::new(rig.node.clone()));
        for _ in 0..returns {
            rounds.begin();
            sleep(MOMENT).await;
        }
        rest(&mut rounds).await;
        assert!(rig.node.books.guest(guest).is_err() && open(&rig) == 0);
        operations.push(rig.sim.operations() - before);
    }
    assert_eq!(operations[0], operations[1]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_libvirt_comes_back_once_more_is_tried_once_more() {
    for (returns, is_done) in [(1, false), (2, true), (3, true)] {
        let (rig, guest) = with_half_deleted().await;
        rig.sim.set_latency(Operation::DeleteVolume, Duration::from_secs(5));
        rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Unavailable);
        let mut rounds = Rounds::new(rig.node.clone());
        for _ in 0..returns {
            rounds.begin();
            sleep(MOMENT).await;
        }
        rest(&mut rounds).await;
        assert_eq!((rig.node.books.guest(guest).is_err(), open(&rig) == 0), (is_done, is_done), "{returns} returns");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_service_gives_up_what_waits_and_lets_a_step_end() {
    let (mut rig, guest) = with_half_deleted().await;
    let busy = rig.node.jobs.acquire(guest, crate::txn::node::jobs::Job::Start, Instant::now()).await.unwrap();
    let mut rounds = Rounds::new(rig.node.clone());
    rounds.begin();
    sleep(MOMENT).await;
    let begun = Instant::now();
    rounds.end(Duration::from_secs(30)).await;
    assert!(begun.elapsed() < MOMENT, "nobody waits for a busy guest");
    assert_eq!(open(&rig), 1);
    drop(busy);

    rig.sim.set_latency(Operation::DeleteVolume, Duration::from_secs(2));
    let mut rounds = Rounds::new(rig.node.clone());
    rounds.begin();
    sleep(MOMENT).await;
    rounds.end(Duration::from_secs(30)).await;
    assert!(rig.node.books.guest(guest).is_err() && open(&rig) == 0, "it was brought to its end");
    rig.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_cut_off_at_the_end_and_left_for_the_next_start() {
    let (rig, guest) = with_half_deleted().await;
    rig.sim.set_deadline(Duration::from_secs(3600));
    rig.sim.set_latency(Operation::DeleteVolume, Duration::from_secs(600));
    let mut rounds = Rounds::new(rig.node.clone());
    rounds.begin();
    sleep(MOMENT).await;
    let begun = Instant::now();
    rounds.end(Duration::from_secs(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    let records = rig.node.store.journal().open_records();
    assert!(matches!(&records[..], [record] if !record.running), "{records:?}");
    rig.sim.set_latency(Operation::DeleteVolume, Duration::ZERO);
    let Ok(rig) = rig.reboot(None).await else { unreachable!("nothing kills it") };
    assert!(open(&rig) == 0 && rig.node.books.guest(guest).is_err());
}
