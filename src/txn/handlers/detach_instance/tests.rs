use super::*;
use crate::host::sim::{Effect, Fault, Operation};
use crate::host::ErrorKind;
use crate::proto::message::{Key, MessageId};
use crate::txn::testing::pair::{detach_request, ready_request, Pair};
use crate::txn::testing::{about, start_request, LINK};

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_gives_every_guest_back_what_it_had() {
    let steps = {
        let mut pair = Pair::new().await;
        let ids = [pair.running_on_b(1).await, pair.b.with_guest(2).await];
        let before = pair.b.sim.operations();
        assert!(pair.b.ask(detach_request(&ids)).await.success);
        pair.b.settle().await;
        pair.b.sim.operations() - before
    };
    assert!(steps >= 7, "a destroy, two domains, two claims: {steps}");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown] {
                let mut pair = Pair::new().await;
                let ids = [pair.running_on_b(1).await, pair.b.with_guest(2).await];
                let (state, files, share) = (pair.b.sim.state(), pair.b.files(), pair.share.state());
                pair.b.sim.fail_at(step, Fault { kind, effect });
                let answer = pair.b.ask(detach_request(&ids)).await;
                assert!(!answer.success, "step {step} {kind:?} {effect:?}");
                pair.b.settle().await;
                assert_eq!((pair.b.sim.state(), pair.b.files()), (state, files), "step {step} {kind:?} {effect:?}");
                let now = pair.share.state();
                assert_eq!((&now.guests, &now.volumes), (&share.guests, &share.volumes));
                assert!(ids.iter().all(|id| now.claims[id].owner == "Cell_b"), "step {step} {kind:?} {effect:?}");
                pair.b.take_host_events().await;
                assert_eq!(pair.b.node.guest_counts(), (2, 1, 0));
                assert!(pair.b.ask(detach_request(&ids)).await.success, "and it can still be moved");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_cannot_be_written_down_is_taken_back() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    let state = pair.b.sim.state();
    std::fs::create_dir(pair.b.directory.path().join("instance.data.tmp")).unwrap();
    assert!(!pair.b.ask(detach_request(&[id])).await.success);
    pair.b.settle().await;
    assert_eq!(pair.b.sim.state(), state);
    assert_eq!(pair.b.node.guest_counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_all_of_the_guests_can_go() {
    let mut pair = Pair::new().await;
    let shared = pair.running_on_b(1).await;
    assert!(pair.b.ask(ready_request("")).await.success);
    let local = pair.b.with_guest(2).await;
    let state = pair.b.sim.state();
    for (expected, ids) in [("its disks are local", [shared, local]), ("no guest", [shared, GuestId::from_bytes([9; 16])])] {
        let refused = pair.b.ask(detach_request(&ids)).await;
        assert!(refused.error.contains(expected), "{}", refused.error);
        assert_eq!(pair.b.sim.state(), state);
    }
    let missing = pair.b.ask(crate::proto::message::Message::new(MessageId::DETACH_INSTANCE_REQUEST)).await;
    assert!(missing.error.contains("Instance(13) is missing"), "{}", missing.error);
}

/// §14 D27: one guest that makes trouble keeps nobody else, and only itself until it is well.
#[tokio::test(start_paused = true)]
async fn d27_a_purge_goes_as_far_as_it_can_and_is_finished_by_the_next() {
    let mut pair = Pair::new().await;
    let (good, inconsistent, stuck) = (pair.running_on_b(1).await, pair.b.with_guest(2).await, pair.running_on_b(3).await);
    assert!(pair.b.ask(ready_request("")).await.success);
    let local = pair.b.with_guest(4).await;
    assert!(pair.b.ask(start_request(local)).await.success);
    // gone from libvirt, and without volumes or resources on record
    pair.b.sim.undefine_behind(inconsistent);
    {
        let mut books = pair.b.node.books.lock();
        books.storage.groups.remove(&inconsistent);
        books.network.resources.remove(&inconsistent);
    }
    pair.b.take_host_events().await;
    let volumes = pair.share.state().volumes;
    pair.b.sim.hang(stuck);
    let refused = pair.b.ask(detach_request(&[])).await;
    assert!(!refused.success);
    pair.b.settle().await;
    let left: Vec<GuestId> = pair.b.node.books.lock().guests.keys().copied().collect();
    assert_eq!(left, [stuck, local]);
    assert!(!pair.b.sim.state().domains.contains_key(&good));

    pair.b.sim.release(stuck);
    let answer = pair.b.ask(detach_request(&[])).await;
    assert!(answer.success, "{}", answer.error);
    pair.b.take_host_events().await;
    assert_eq!(pair.b.node.guest_counts(), (1, 1, 0), "the local guest runs on");
    assert_eq!(pair.share.state().volumes, volumes, "files stay");
    assert!(pair.share.state().guests.contains_key(&good));
    assert_eq!(pair.share.state().claims[&good].owner, "", "and anybody may have it");
    let again = pair.b.ask(detach_request(&[])).await;
    assert!(again.success, "with nothing to do as well");
    assert!(!pair.b.ask(about(MessageId::GET_GUEST_REQUEST, good)).await.success);
}

#[tokio::test(start_paused = true)]
async fn a_purge_does_not_wait_for_a_silent_server() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    pair.b.sim.set_deadline(std::time::Duration::from_secs(4));
    pair.share.set_dead(true);
    let answer = pair.b.ask(detach_request(&[])).await;
    assert!(answer.success, "{}", answer.error);
    assert!(!pair.b.sim.state().domains.contains_key(&id));
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_libvirt_refuses_says_so() {
    let mut pair = Pair::new().await;
    let id = pair.running_on_b(1).await;
    pair.b.sim.fail_next(Operation::Destroy, ErrorKind::Unavailable);
    let answer = pair.b.ask(detach_request(&[])).await;
    assert!(answer.error.contains("1 of 1 guests could not be purged"), "{}", answer.error);
    assert!(pair.b.node.books.guest(id).is_ok());
    assert!(!pair.b.sent().iter().any(|message| message.string_params.contains_key(&Key::Instance)));
    pair.b.engine.request(LINK, detach_request(&[]));
    pair.b.settle().await;
    assert!(pair.b.node.books.guest(id).is_err());
}
