use std::collections::BTreeMap;
use std::time::Duration;

use super::super::tests::{create, delete, done, group, images, read, refused, restore, with_tree, without_times, write};
use crate::host::sim::{Effect, Fault};
use crate::host::ErrorKind;
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Message, MessageId};
use crate::txn::testing::{start_request, stop_request, Rig, LINK, TIMEOUT};
use crate::txn::{recovery, Engine};

/// The snapshots of the tree below and the values that they hold; the current disks hold 9.
const TREE: [(&str, u64); 4] = [("s1", 1), ("s2", 2), ("s3", 3), ("s4", 4)];
const FORCE: [u64; 2] = [0, 1];

/// A running guest with the tree s1 <- s2 <- s3 and s2 <- s4, current on s4.
async fn running_tree() -> (Rig, GuestId) {
    let (mut rig, id) = with_tree().await;
    done(&mut rig, start_request(id)).await;
    rig.take_host_events().await;
    rig.sent();
    rig.sim.set_merge_time(Duration::from_millis(400));
    (rig, id)
}

/// Every snapshot in the books, and the current disks, hold what they did.
fn check(rig: &Rig, id: GuestId, at: &str) {
    assert_eq!(read(rig, id), [9, 9], "{at}");
    let book = group(rig, id);
    for volume in book.volumes() {
        // Each was written in the days of another snapshot.
        let blocks = [1, 2, 3, 4, 9].map(|block| rig.sim.read_block(volume.file(), block));
        assert_eq!(blocks, [1, 2, 0, 4, 9].map(Some), "{} {at}", volume.name);
    }
    for (name, snapshot) in &book.snapshots {
        let value = TREE.iter().find(|(known, _)| known == name).expect("one of the tree").1;
        for volume in book.volumes() {
            assert_eq!(rig.sim.read_block(&snapshot.files[&volume.name], 0), Some(value), "{name} {at}");
        }
    }
}

/// There is no file that the books do not know, and each image is based on the one that they say.
fn check_files(rig: &Rig, id: GuestId, at: &str) {
    let book = group(rig, id);
    let frozen = book.snapshots.values().flat_map(|snapshot| snapshot.files.values().cloned());
    let mut known: Vec<String> = book.volumes().map(|volume| volume.file().to_owned()).chain(frozen).collect();
    known.sort();
    let state = rig.sim.state();
    let there: Vec<String> = state.directories["/images/local0"].keys().map(|name| format!("/images/local0/{name}")).collect();
    assert_eq!(there, known, "{at}");
    assert!(state.layers.values().all(|layer| layer.before.is_none()), "{at}");
    for volume in book.volumes() {
        let file = |name: &str| book.snapshots.get(name).map(|snapshot| snapshot.files[&volume.name].clone());
        let backing = |path: &str| state.layers.get(path).and_then(|layer| layer.backing.clone());
        assert_eq!(backing(volume.file()), file(&book.active_snapshot), "{at}");
        for snapshot in book.snapshots.values() {
            assert_eq!(backing(&snapshot.files[&volume.name]), file(&snapshot.backing), "{} {at}", snapshot.name);
        }
    }
}

/// Goes back to each snapshot that is left.
async fn check_restores(rig: &mut Rig, id: GuestId) {
    if rig.node.books.guest(id).unwrap().power == PowerState::Running {
        done(rig, stop_request(id, FORCE)).await;
    }
    let names: Vec<String> = group(rig, id).snapshots.keys().cloned().collect();
    for name in names {
        done(rig, restore(id, &name)).await;
        let value = TREE.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(read(rig, id), [value, value], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_snapshot_goes_while_the_guest_runs() {
    let (mut rig, id) = running_tree().await;
    let definition = rig.sim.state().domains[&id].clone();
    done(&mut rig, delete(id, "s1")).await;
    check(&rig, id, "after s1");
    check_files(&rig, id, "after s1");
    let book = group(&rig, id);
    assert_eq!((book.base_snapshot.as_str(), book.active_snapshot.as_str()), ("s2", "s4"));
    assert!(book.snapshots["s2"].is_root);
    assert_eq!(book.snapshots["s2"].files[&book.system.name], format!("/images/local0/{id}_s1_sys.qcow2"));
    let beside = rig.sim.state().layers[&format!("/images/local0/{id}_s3_sys.qcow2")].clone();
    assert_eq!(beside.backing.unwrap(), format!("/images/local0/{id}_s1_sys.qcow2"), "a snapshot beside the chain as well");
    assert_eq!(rig.sim.state().domains[&id], definition, "the guest runs on with the same volumes");
    assert!(rig.files()["storage.data"].contains("_s1_sys"));
    check_restores(&mut rig, id).await;
}

#[tokio::test(start_paused = true)]
async fn the_youngest_snapshot_goes_while_the_guest_runs() {
    let (mut rig, id) = running_tree().await;
    done(&mut rig, delete(id, "s4")).await;
    check(&rig, id, "after s4");
    check_files(&rig, id, "after s4");
    let book = group(&rig, id);
    assert_eq!((book.active_snapshot.as_str(), book.system.name.clone()), ("s2", format!("{id}_sys.qcow2")));
    refused(&mut rig, delete(id, "s2"), "the current disks and 's3' are based on it").await;
    check_restores(&mut rig, id).await;
}

#[tokio::test(start_paused = true)]
async fn a_whole_tree_goes_while_the_guest_runs() {
    let (mut rig, id) = running_tree().await;
    for name in ["s1", "s3", "s2", "s4"] {
        done(&mut rig, delete(id, name)).await;
        check(&rig, id, name);
        check_files(&rig, id, name);
    }
    let book = group(&rig, id);
    assert_eq!((book.base_snapshot.as_str(), book.active_snapshot.as_str(), book.snapshots.len()), ("", "", 0));
    assert_eq!(rig.sim.state().directories["/images/local0"].len(), 2);
    assert_eq!(rig.sim.state().layers[&format!("/images/local0/{id}_sys.qcow2")].backing, None);
}

/// The heir has the deleted snapshot's file; a new one of that name gets another.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_deleted_snapshot_can_be_used_again() {
    let (mut rig, id) = running_tree().await;
    done(&mut rig, delete(id, "s1")).await;
    done(&mut rig, stop_request(id, FORCE)).await;
    for round in 0..2 {
        done(&mut rig, create(id, "s1")).await;
        let book = group(&rig, id);
        assert_eq!(book.snapshots["s1"].files[&book.system.name], format!("/images/local0/{id}_s1_sys.1.qcow2"), "round {round}");
        assert_eq!(rig.sim.read_block(&book.snapshots["s1"].files[&book.system.name], 0), Some(9));
        done(&mut rig, delete(id, "s1")).await;
        check(&rig, id, "again");
        check_files(&rig, id, "again");
    }
}

/// What is true after a failure: contents as they were, and asking again or for another deletion ends as if nothing had been.
async fn check_failure(name: &'static str, fault: Fault, step: u64, whole: &BTreeMap<&'static str, String>) -> bool {
    let (mut rig, id) = running_tree().await;
    rig.sim.fail_at(step, fault);
    let answer = rig.ask(delete(id, name)).await;
    rig.settle().await;
    let at = format!("{name} step {step} {fault:?}: {}", answer.error);
    check(&rig, id, &at);
    if !answer.success {
        assert!(!answer.error.is_empty());
        rig.sim.clear_faults();
        let is_there = group(&rig, id).snapshots.contains_key(name);
        let again = rig.ask(delete(id, name)).await;
        rig.settle().await;
        assert_eq!(again.success, is_there, "{at}; again: {}", again.error);
        check(&rig, id, &at);
    }
    // Removing what nobody needs may fail without a word.
    assert_eq!(without_times(&rig), *whole, "{at}");
    !answer.success
}

async fn fails_everywhere(name: &'static str) {
    let (steps, whole) = {
        let (mut rig, id) = running_tree().await;
        let before = rig.sim.operations();
        done(&mut rig, delete(id, name)).await;
        (rig.sim.operations() - before, without_times(&rig))
    };
    let mut failures = 0;
    for step in 1..=steps {
        for (kind, effect) in [(ErrorKind::Failed, Effect::None), (ErrorKind::Failed, Effect::Done), (ErrorKind::Unknown, Effect::Done)] {
            failures += u64::from(check_failure(name, Fault { kind, effect }, step, &whole).await);
        }
    }
    assert!(failures > steps, "{failures} failures at {steps} steps");
}

#[tokio::test(start_paused = true)]
async fn an_older_one_that_fails_at_any_step_loses_nothing() {
    fails_everywhere("s1").await;
}

#[tokio::test(start_paused = true)]
async fn the_youngest_one_that_fails_at_any_step_loses_nothing() {
    fails_everywhere("s4").await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_qemu_gives_up_is_told_and_can_be_done_again() {
    for count in 1..=2 {
        let (mut rig, id) = running_tree().await;
        rig.sim.fail_merges(count);
        let answer = rig.ask(delete(id, "s4")).await;
        assert!(answer.error.contains("QEMU gave up") && answer.error.contains("is still based on"), "{}", answer.error);
        check(&rig, id, "s4");
        rig.sim.fail_merges(0);
        done(&mut rig, delete(id, "s4")).await;
        check_files(&rig, id, "s4");

        rig.sim.fail_merges(1);
        let answer = rig.ask(delete(id, "s1")).await;
        assert!(answer.error.contains("QEMU gave up"), "{}", answer.error);
        assert!(!group(&rig, id).snapshots.contains_key("s1"), "its own content is lost");
        check(&rig, id, "s1");
        // Whatever deletion comes next completes it; also when the guest does not run any more.
        if count == 2 {
            done(&mut rig, stop_request(id, FORCE)).await;
        }
        done(&mut rig, delete(id, "s3")).await;
        check(&rig, id, "s3");
        check_files(&rig, id, "s3");
        check_restores(&mut rig, id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_in_the_middle_has_the_rest_done_without_it() {
    for (name, after) in [("s1", 200), ("s1", 600), ("s4", 200), ("s4", 600)] {
        let (mut rig, id) = running_tree().await;
        rig.engine.request(LINK, delete(id, name).from_session(1));
        tokio::time::sleep(Duration::from_millis(after)).await;
        assert_eq!(rig.sim.merges(), 1);
        rig.sim.set_power_behind(id, false);
        rig.next_host_event().await;
        let answer = rig.answer(1).await;
        assert!(answer.success, "{name}: {}", answer.error);
        rig.settle().await;
        let told: Vec<MessageId> = rig.sent().iter().map(|message| message.id).collect();
        assert_eq!(told, [MessageId::GUEST_STOPPED_EVENT], "{name}");
        check(&rig, id, name);
        check_files(&rig, id, name);
        done(&mut rig, start_request(id)).await;
        check_restores(&mut rig, id).await;
    }
}

/// What QEMU has merged is in its memory until its guest flushes, and this one never does: no moment of QEMU's death takes anything along.
#[tokio::test(start_paused = true)]
async fn a_qemu_that_dies_takes_nothing_along_that_was_merged() {
    for name in ["s1", "s4"] {
        for after in (50..1500).step_by(50) {
            for is_alone in [false, true] {
                let (mut rig, id) = running_tree().await;
                let at = format!("{name} after {after} ms, {is_alone}");
                rig.engine.request(LINK, delete(id, name).from_session(1));
                tokio::time::sleep(Duration::from_millis(after)).await;
                if is_alone {
                    *rig.engine = Engine::new(rig.node.clone(), TIMEOUT);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                rig.sim.kill_behind(id);
                rig.next_host_event().await;
                if is_alone {
                    recovery::clean_up(&rig.node).await;
                    recovery::complete_merges(&rig.node).await;
                } else {
                    let answer = rig.answer(1).await;
                    assert!(answer.success, "{at}: {}", answer.error);
                }
                rig.settle().await;
                check(&rig, id, &at);
                check_files(&rig, id, &at);
                done(&mut rig, start_request(id)).await;
                check_restores(&mut rig, id).await;
            }
        }
    }
}

/// QEMU goes on without the service, and is found wherever it has got to.
#[tokio::test(start_paused = true)]
async fn a_service_that_ends_in_the_middle_is_followed_by_one_that_completes_it() {
    for (name, next) in [("s1", "s3"), ("s4", "s4")] {
        for after in (100..1300).step_by(300) {
            for (pause, stops, starts) in [(1, false, false), (1, false, true), (5000, true, false), (5000, false, true), (1, true, true)] {
                let (mut rig, id) = running_tree().await;
                rig.engine.request(LINK, delete(id, name).from_session(1));
                tokio::time::sleep(Duration::from_millis(after)).await;
                *rig.engine = Engine::new(rig.node.clone(), TIMEOUT);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let at = format!("{name} after {after} ms, {pause} ms later, {stops}");
                check(&rig, id, &at);
                if stops {
                    done(&mut rig, stop_request(id, FORCE)).await;
                }
                if starts {
                    recovery::clean_up(&rig.node).await;
                    recovery::complete_merges(&rig.node).await;
                } else {
                    // Done already, or done now with what is asked for next.
                    let there = group(&rig, id).snapshots.contains_key(next);
                    let answer = rig.ask(delete(id, next)).await;
                    assert_eq!(answer.success, there, "{at}: {}", answer.error);
                    rig.settle().await;
                }
                check(&rig, id, &at);
                check_files(&rig, id, &at);
                check_restores(&mut rig, id).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_on_a_disk_that_is_too_full() {
    for name in ["s1", "s4"] {
        let (mut rig, id) = running_tree().await;
        rig.sim.set_disk_size(0);
        refused(&mut rig, delete(id, name), "make room or stop the guest first").await;
        check(&rig, id, name);
    }
}

async fn asked(rig: &mut Rig, request: Message) -> Message {
    rig.ask(request).await
}

#[tokio::test(start_paused = true)]
async fn a_long_one_stays_done_and_leaves_the_guest_its_buttons() {
    let (mut rig, id) = running_tree().await;
    rig.sim.set_merge_time(Duration::from_secs(60));
    let answer = asked(&mut rig, delete(id, "s1")).await;
    assert!(!answer.success);
    assert_eq!(rig.sim.merges(), 1);
    refused_while_busy(&mut rig, create(id, "new")).await;
    let reset = asked(&mut rig, stop_request(id, [1, 1])).await;
    assert!(reset.success, "{}", reset.error);
    rig.settle().await;
    assert!(!group(&rig, id).snapshots.contains_key("s1"));
    check(&rig, id, "late");
    check_files(&rig, id, "late");

    // A guest that is shut down meanwhile is told once.
    rig.engine.request(LINK, delete(id, "s4").from_session(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.sent();
    let shutdown = asked(&mut rig, stop_request(id, [0, 0])).await;
    assert!(shutdown.success, "{}", shutdown.error);
    rig.next_host_event().await;
    rig.settle().await;
    let told = rig.sent().iter().filter(|message| message.id == MessageId::GUEST_STOPPED_EVENT).count();
    assert_eq!(told, 1);
    check_files(&rig, id, "shut down");
    check_restores(&mut rig, id).await;
}

async fn refused_while_busy(rig: &mut Rig, request: Message) {
    let answer = asked(rig, request).await;
    assert!(answer.error.contains("deleting a snapshot has been running"), "{}", answer.error);
}

#[tokio::test(start_paused = true)]
async fn a_libvirt_that_is_away_for_a_while_is_waited_for() {
    for name in ["s1", "s4"] {
        let (mut rig, id) = running_tree().await;
        rig.sim.set_merge_time(Duration::from_secs(2));
        rig.engine.request(LINK, delete(id, name).from_session(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.sim.disconnect("restarted");
        tokio::time::sleep(Duration::from_secs(5)).await;
        rig.sim.connect();
        rig.take_host_events().await;
        rig.settle().await;
        check(&rig, id, name);
        check_restores(&mut rig, id).await;
    }
}

/// The last state of the images is the one that an offline deletion leaves.
#[tokio::test(start_paused = true)]
async fn live_and_offline_end_alike() {
    let (mut rig, id) = running_tree().await;
    done(&mut rig, delete(id, "s4")).await;
    write(&rig, id, 9);
    let (mut other, _) = with_tree().await;
    done(&mut other, delete(id, "s4")).await;
    write(&other, id, 9);
    assert_eq!(images(rig.sim.state()).0, images(other.sim.state()).0);
    assert_eq!(without_times(&rig), without_times(&other));
}
