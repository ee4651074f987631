//! Requests that can't be taken back as a whole, with a failure at each of their steps: what they say is true, and asking again gets them done.

use super::{guest, ids};
use crate::host::sim::SimShare;
use crate::host::sim::{Effect, Fault};
use crate::host::ErrorKind;
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::handlers::{self, HANDLED};
use crate::txn::testing::pair::{ready_request, with_export, POOL};
use crate::txn::testing::{about, start_request, stop_request, Rig, LINK};

/// Every way in which an operation can fail, before or after it took effect.
fn faults() -> impl Iterator<Item = Fault> {
    let kinds = [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::Unavailable];
    kinds.into_iter().flat_map(|kind| [Effect::None, Effect::Done].map(|effect| Fault { kind, effect }))
}

async fn power(rig: &mut Rig, id: GuestId) -> (PowerState, PowerState) {
    rig.take_host_events().await;
    (rig.sim.state().domains[&id].power, rig.node.books.guest(id).unwrap().power)
}

/// A deleted disk can't be brought back: the guest stays in the books and the next request deletes the rest. D12: nothing of it is
/// given away before.
#[tokio::test(start_paused = true)]
async fn d12_a_delete_that_fails_at_any_step_keeps_the_guest_and_is_finished_by_the_next() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let begun = rig.sim.operations();
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    let steps = rig.sim.operations() - begun;
    assert!(steps >= 4, "a domain, a part, two volumes: {steps}");
    for step in 1..=steps {
        for fault in faults() {
            let case = format!("step {step} {fault:?}");
            let mut rig = Rig::new().await;
            let empty = (rig.sim.state(), rig.node.books.lock().network.clone());
            let id = rig.with_guest(1).await;
            let before = (rig.files(), rig.node.books.lock().network.clone());
            rig.sim.fail_at(step, fault);
            let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
            if !answer.success {
                assert!(!answer.error.is_empty(), "{case}");
                assert_eq!((rig.files(), rig.node.books.lock().network.clone()), before, "{case}: its port and its MAC stay taken");
                assert_eq!(rig.sent(), [], "{case}: it is not deleted yet");
                assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success, "{case}");
            }
            assert_eq!(ids(&rig.sent()), [MessageId::GUEST_DELETED_EVENT], "{case}");
            assert_eq!((rig.sim.state(), rig.node.books.lock().network.clone()), empty, "{case}: nothing is left");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_at_any_step_leaves_the_guest_stopped_or_tells_that_it_runs() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let begun = rig.sim.operations();
    assert!(rig.ask(start_request(id)).await.success);
    let steps = rig.sim.operations() - begun;
    assert!(steps >= 2, "its filter, its start: {steps}");
    for step in 1..=steps {
        for fault in faults() {
            let case = format!("step {step} {fault:?}");
            let mut rig = Rig::new().await;
            let id = rig.with_guest(1).await;
            let (state, files) = (rig.sim.state(), rig.files());
            rig.sim.fail_at(step, fault);
            let answer = rig.ask(start_request(id)).await;
            assert!(!answer.success && !answer.error.is_empty(), "{case}");
            let (real, booked) = power(&mut rig, id).await;
            assert_eq!(real, booked, "{case}");
            let told = rig.sent();
            if real == PowerState::Stopped {
                assert_eq!((rig.sim.state(), rig.files(), told), (state, files, vec![]), "{case}");
                assert!(rig.ask(start_request(id)).await.success, "{case}: it can be asked for again");
            } else {
                // libvirt started it and could not say so; its own event does.
                assert_eq!((fault.effect, ids(&told)), (Effect::Done, vec![MessageId::GUEST_STARTED_EVENT]), "{case}");
            }
        }
    }
}

/// B12: that nobody knows how a stop went is no stop. A5: it is answered.
#[tokio::test(start_paused = true)]
async fn a5_b12_a_stop_that_fails_is_answered_and_the_guest_is_told_as_it_is() {
    for flags in [[0, 0], [1, 0], [0, 1], [1, 1]] {
        for fault in faults() {
            let case = format!("{flags:?} {fault:?}");
            let mut rig = Rig::new().await;
            let id = rig.with_guest(1).await;
            assert!(rig.ask(start_request(id)).await.success);
            rig.settle().await;
            rig.take_host_events().await;
            rig.sent();
            rig.sim.fail_at(1, fault);
            let answer = rig.ask(stop_request(id, flags)).await;
            assert!(!answer.success && !answer.error.is_empty(), "{case}");
            rig.settle().await;
            let stops = fault.effect == Effect::Done && flags[0] == 0;
            if stops && flags == [0, 0] {
                rig.next_host_event().await;
            }
            let (real, booked) = power(&mut rig, id).await;
            assert_eq!((real, real == PowerState::Stopped), (booked, stops), "{case}");
            let expected = if stops { vec![MessageId::GUEST_STOPPED_EVENT] } else { vec![] };
            assert_eq!(ids(&rig.sent()), expected, "{case}");
            if !stops {
                assert!(rig.ask(stop_request(id, [0, 1])).await.success, "{case}: it can be asked for again");
            } else {
                assert!(rig.ask(start_request(id)).await.success, "{case}");
            }
        }
    }
}

/// A pool that could not be detached stays on record, and the next word of the Core detaches it.
#[tokio::test(start_paused = true)]
async fn b19_shared_storage_that_cannot_be_detached_is_detached_later() {
    for fault in [None].into_iter().chain(faults().map(Some)) {
        let share = SimShare::new();
        let mut rig = with_export("Cell_a", &share).await;
        assert!(rig.ask(ready_request(POOL)).await.success);
        rig.settle().await;
        if let Some(fault) = fault {
            rig.sim.fail_at(1, fault);
        }
        rig.engine.request(LINK, Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT));
        rig.settle().await;
        let known = || rig.node.books.lock().shared_pools().len();
        assert_eq!(known(), usize::from(fault.is_some()), "{fault:?}");
        let files = rig.files();
        assert!(files["instance.data"].contains("\"storage_pool\": \"local0\""), "{fault:?}: new guests are local at once");
        assert_eq!(files["storage.data"].contains(POOL), fault.is_some());
        assert!(rig.ask(ready_request("")).await.success, "{fault:?}");
        rig.settle().await;
        assert!(!rig.sim.state().pools.contains_key(POOL) && rig.node.books.lock().shared_pools().is_empty(), "{fault:?}");
        assert_eq!(rig.sent(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_leaves_its_pool_and_cannot_write_that_down_goes_on_as_before() {
    let mut rig = with_export("Cell_a", &SimShare::new()).await;
    assert!(rig.ask(ready_request(POOL)).await.success);
    rig.settle().await;
    let state = rig.sim.state();
    std::fs::create_dir(rig.directory.path().join("storage.data.tmp")).unwrap();
    rig.engine.request(LINK, Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT));
    rig.settle().await;
    assert_eq!(rig.sim.state(), state);
    assert!(rig.node.books.lock().current_shared().is_some());
    std::fs::remove_dir(rig.directory.path().join("storage.data.tmp")).unwrap();
    rig.node.save(&DataFile::ALL).await.unwrap();
    assert!(rig.files()["storage.data"].contains(POOL));
}

/// A9: a request that can't be taken is answered at once, whichever it is.
#[tokio::test(start_paused = true)]
async fn a9_every_request_that_is_not_taken_is_refused_and_changes_nothing() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let (state, files) = (rig.sim.state(), rig.files());
    rig.engine.close();
    for request in HANDLED {
        let Some(answer) = handlers::find(*request).unwrap().answer else { continue };
        let message = about(*request, id).string(Key::Guest, guest(1).to_string());
        let refused = rig.ask(message).await;
        assert_eq!((refused.id, refused.error.as_str()), (answer, "this cell is shutting down"), "{request}");
    }
    assert_eq!((rig.sim.state(), rig.files(), rig.sent()), (state, files, vec![]));
}
