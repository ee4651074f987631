use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::sim::{Effect, Fault, Operation, SimLayer, SimState};
use crate::host::ErrorKind;
use crate::model::{GuestId, VolumeGroup};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, start_request, stop_request, Rig, LINK, TIMEOUT};

const MIB: u64 = 1 << 20;

fn named(request: MessageId, id: GuestId, name: &str) -> Message {
    about(request, id).string(Key::Name, name)
}

pub(super) fn create(id: GuestId, name: &str) -> Message {
    named(MessageId::CREATE_SNAPSHOT_REQUEST, id, name).string(Key::Description, "why")
}

pub(super) fn restore(id: GuestId, name: &str) -> Message {
    named(MessageId::RESTORE_SNAPSHOT_REQUEST, id, name)
}

pub(super) fn delete(id: GuestId, name: &str) -> Message {
    named(MessageId::DELETE_SNAPSHOT_REQUEST, id, name)
}

fn shrink(id: GuestId, disk: u64) -> Message {
    Message::new(MessageId::SHRINK_DISK_REQUEST).string(Key::Guest, id.to_string()).uint(Key::Disk, disk)
}

fn resize(id: GuestId, disk: u64, size: u64) -> Message {
    Message::new(MessageId::RESIZE_DISK_REQUEST).string(Key::Guest, id.to_string()).uint(Key::Disk, disk).uint(Key::Size, size)
}

pub(super) fn group(rig: &Rig, id: GuestId) -> VolumeGroup {
    rig.node.books.lock().storage.groups[&id].clone()
}

pub(super) fn sizes(rig: &Rig, id: GuestId) -> Vec<u64> {
    rig.node.books.guest(id).unwrap().config.disks.clone()
}

/// The guest writes the value to block 0 of all its disks.
pub(super) fn write(rig: &Rig, id: GuestId, value: u64) {
    for volume in group(rig, id).volumes() {
        rig.sim.write_block(volume.file(), 0, value);
        rig.sim.write_block(volume.file(), value, value);
    }
}

/// What stands in block 0 of each disk.
pub(super) fn read(rig: &Rig, id: GuestId) -> Vec<u64> {
    group(rig, id).volumes().map(|volume| rig.sim.read_block(volume.file(), 0).expect("a whole chain")).collect()
}

pub(super) async fn done(rig: &mut Rig, request: Message) {
    let id = request.id;
    let answer = rig.ask(request).await;
    assert!(answer.success, "{id}: {}", answer.error);
    assert_eq!(answer.id, id.response());
    rig.settle().await;
}

pub(super) async fn refused(rig: &mut Rig, request: Message, reason: &str) {
    let (state, files) = (rig.sim.state(), rig.files());
    let answer = rig.ask(request).await;
    assert!(!answer.success);
    assert!(answer.error.contains(reason), "{reason:?} in {:?}", answer.error);
    assert_eq!((rig.sim.state(), rig.files()), (state, files));
}

/// A guest with the tree s1 <- s2 <- s3 and s2 <- s4, current on s4; each snapshot `sN` holds the value N, the current disks 9.
pub(super) async fn with_tree() -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    for (number, name) in [(1, "s1"), (2, "s2"), (3, "s3")] {
        write(&rig, id, number);
        done(&mut rig, create(id, name)).await;
    }
    done(&mut rig, restore(id, "s2")).await;
    write(&rig, id, 4);
    done(&mut rig, create(id, "s4")).await;
    write(&rig, id, 9);
    (rig, id)
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_told_as_the_core_reads_it() {
    let (mut rig, id) = with_tree().await;
    let answer = rig.ask(about(MessageId::QUERY_SNAPSHOT_REQUEST, id)).await;
    assert_eq!(answer.string_array_params[&Key::Name], ["s1", "s2", "s3", "s4"]);
    assert_eq!(answer.string_array_params[&Key::Previous], ["", "s1", "s2", "s2"]);
    assert_eq!(answer.uint_array_params[&Key::Source], [1, 0, 0, 0]);
    assert_eq!(answer.uint_array_params[&Key::Current], [0, 0, 0, 1]);
    let one = rig.ask(named(MessageId::GET_SNAPSHOT_REQUEST, id, "s3")).await;
    assert!(!one.bool_params[&Key::Status]);
    assert_eq!(one.string_params[&Key::Description], "why");
    assert_eq!(one.string_params[&Key::Create].len(), 19);
    let book = group(&rig, id);
    assert_eq!((book.base_snapshot.as_str(), book.active_snapshot.as_str()), ("s1", "s4"));
    assert_eq!(book.snapshots["s3"].files[&format!("{id}_sys.qcow2")], format!("/images/local0/{id}_s3_sys.qcow2"));
    assert_eq!(book.snapshots["s3"].files[&format!("{id}_0.qcow2")], format!("/images/local0/{id}_s3_0.qcow2"));
    assert!(rig.files()["storage.data"].contains("\"active_snapshot\": \"s4\""));
}

/// The books of the reference may not know which snapshot the disks are based on.
#[tokio::test(start_paused = true)]
async fn b15_a_restore_is_whole_although_nobody_knows_what_the_disks_were_based_on() {
    for active in ["", "gone"] {
        let (mut rig, id) = with_tree().await;
        rig.node.books.lock().storage.groups.get_mut(&id).unwrap().active_snapshot = active.into();
        done(&mut rig, restore(id, "s3")).await;
        assert_eq!(read(&rig, id), [3, 3], "{active:?}");
        assert_eq!(group(&rig, id).active_snapshot, "s3", "{active:?}");
        let answer = rig.ask(about(MessageId::QUERY_SNAPSHOT_REQUEST, id)).await;
        assert_eq!(answer.uint_array_params[&Key::Current], [0, 0, 1, 0], "{active:?}");
        assert!(rig.files()["storage.data"].contains("\"active_snapshot\": \"s3\""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_snapshots_has_four_empty_lists() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let answer = rig.ask(about(MessageId::QUERY_SNAPSHOT_REQUEST, id)).await;
    for key in [Key::Name, Key::Previous] {
        assert!(answer.string_array_params[&key].is_empty());
    }
    for key in [Key::Source, Key::Current] {
        assert!(answer.uint_array_params[&key].is_empty());
    }
    refused(&mut rig, named(MessageId::GET_SNAPSHOT_REQUEST, id, "s1"), "has no snapshot 's1'").await;
}

#[tokio::test(start_paused = true)]
async fn every_snapshot_of_a_tree_can_be_gone_back_to() {
    let (mut rig, id) = with_tree().await;
    for (name, value) in [("s3", 3), ("s1", 1), ("s4", 4), ("s2", 2), ("s2", 2)] {
        done(&mut rig, restore(id, name)).await;
        assert_eq!(read(&rig, id), [value, value], "{name}");
        assert_eq!(group(&rig, id).active_snapshot, name);
        write(&rig, id, 77);
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_keeps_the_content_of_all_others() {
    for (gone, active) in [("s3", "s4"), ("s1", "s4"), ("s4", "s2")] {
        let (mut rig, id) = with_tree().await;
        done(&mut rig, delete(id, gone)).await;
        assert_eq!(read(&rig, id), [9, 9]);
        assert_eq!(group(&rig, id).active_snapshot, active);
        for (name, value) in [("s1", 1), ("s2", 2), ("s3", 3), ("s4", 4)].into_iter().filter(|(name, _)| *name != gone) {
            done(&mut rig, restore(id, name)).await;
            assert_eq!(read(&rig, id), [value, value], "{name} without {gone}");
        }
        let left = rig.sim.state();
        assert!(!left.directories["/images/local0"].keys().any(|name| name.contains(&format!("_{gone}_")) || !name.ends_with(".qcow2")));
        assert!(left.layers.values().all(|layer| layer.before.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_tree_can_be_deleted() {
    let (mut rig, id) = with_tree().await;
    for name in ["s3", "s1", "s2", "s4"] {
        done(&mut rig, delete(id, name)).await;
        assert_eq!(read(&rig, id), [9, 9], "after {name}");
    }
    let book = group(&rig, id);
    assert_eq!((book.base_snapshot.as_str(), book.active_snapshot.as_str(), book.snapshots.len()), ("", "", 0));
    assert_eq!(rig.sim.state().directories["/images/local0"].len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_done_is_refused_and_says_why() {
    let (mut rig, id) = with_tree().await;
    refused(&mut rig, create(id, "s1"), "has a snapshot 's1' already").await;
    refused(&mut rig, delete(id, "s2"), "'s3', 's4'").await;
    refused(&mut rig, delete(id, "no"), "has no snapshot 'no'").await;
    refused(&mut rig, restore(id, "no"), "has no snapshot 'no'").await;
    refused(&mut rig, resize(id, 0, MIB), "a disk can only grow").await;
    refused(&mut rig, resize(id, 2, 1 << 40), "has 2 disks").await;
    refused(&mut rig, resize(id, 0, 1 << 61), "at most").await;
    refused(&mut rig, shrink(id, 7), "has 2 disks").await;
    for bad in ["", "a/b", "../x", "a b", &"x".repeat(101)] {
        refused(&mut rig, create(id, bad), "Name(0)").await;
    }
    done(&mut rig, restore(id, "s2")).await;
    done(&mut rig, delete(id, "s3")).await;
    refused(&mut rig, delete(id, "s2"), "the current disks and 's4' are based on it").await;
    let stranger = GuestId::from_bytes([7; 16]);
    for request in [create(stranger, "a"), restore(stranger, "a"), delete(stranger, "a"), resize(stranger, 0, 1), shrink(stranger, 0)] {
        refused(&mut rig, request, "no guest").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a1_a_missing_parameter_is_answered() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let no_disk = Message::new(MessageId::RESIZE_DISK_REQUEST).string(Key::Guest, id.to_string()).uint(Key::Size, 1 << 40);
    let no_size = Message::new(MessageId::RESIZE_DISK_REQUEST).string(Key::Guest, id.to_string()).uint(Key::Disk, 0);
    let no_index = Message::new(MessageId::SHRINK_DISK_REQUEST).string(Key::Guest, id.to_string());
    let cases = [
        (Message::new(MessageId::RESIZE_DISK_REQUEST), "Guest(39)"),
        (no_disk, "Disk(4)"),
        (no_size, "Size(34)"),
        (Message::new(MessageId::SHRINK_DISK_REQUEST), "Guest(39)"),
        (no_index, "Disk(4)"),
        (Message::new(MessageId::QUERY_SNAPSHOT_REQUEST), "Instance(13)"),
        (about(MessageId::QUERY_SNAPSHOT_REQUEST, id).string(Key::Instance, "x"), "Instance(13)"),
        (Message::new(MessageId::GET_SNAPSHOT_REQUEST), "Instance(13)"),
        (about(MessageId::GET_SNAPSHOT_REQUEST, id), "Name(0)"),
        (about(MessageId::CREATE_SNAPSHOT_REQUEST, id), "Name(0)"),
        (about(MessageId::CREATE_SNAPSHOT_REQUEST, id).uint(Key::Name, 1), "stands among the unsigned numbers"),
        (about(MessageId::RESTORE_SNAPSHOT_REQUEST, id), "Name(0)"),
        (about(MessageId::DELETE_SNAPSHOT_REQUEST, id), "Name(0)"),
    ];
    for (request, reason) in cases {
        refused(&mut rig, request, reason).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b10_shrink_has_an_answer_of_its_own_and_changes_nothing_visible() {
    let (mut rig, id) = with_tree().await;
    let state = rig.sim.state();
    for disk in [0, 1] {
        done(&mut rig, shrink(id, disk)).await;
    }
    // §14 D16: the backing is the same as before, so is every other image.
    assert_eq!(rig.sim.state(), state);
}

#[tokio::test(start_paused = true)]
async fn d16_a_size_goes_with_its_snapshot() {
    let (mut rig, id) = with_tree().await;
    done(&mut rig, resize(id, 1, 100 * MIB)).await;
    assert_eq!(sizes(&rig, id), [64 * MIB, 100 * MIB]);
    assert!(rig.files()["instance.data"].contains(&(100 * MIB).to_string()));
    done(&mut rig, resize(id, 1, 100 * MIB)).await;
    done(&mut rig, create(id, "big")).await;
    done(&mut rig, restore(id, "s1")).await;
    assert_eq!(sizes(&rig, id), [64 * MIB, 32 * MIB]);
    done(&mut rig, restore(id, "big")).await;
    assert_eq!(sizes(&rig, id), [64 * MIB, 100 * MIB]);
    done(&mut rig, delete(id, "big")).await;
    let file = group(&rig, id).data[0].name.clone();
    assert_eq!(rig.sim.state().directories["/images/local0"][&file], 100 * MIB);
    assert_eq!(read(&rig, id), [9, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_size_is_a_whole_number_of_sectors() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    done(&mut rig, resize(id, 0, 64 * MIB + 1)).await;
    assert_eq!(sizes(&rig, id)[0], 64 * MIB + 512);
}

/// A running guest with one snapshot of its earlier life: `old` holds 1, the disks 2.
async fn running() -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    write(&rig, id, 1);
    done(&mut rig, create(id, "old")).await;
    write(&rig, id, 2);
    done(&mut rig, start_request(id)).await;
    rig.take_host_events().await;
    rig.sent();
    (rig, id)
}

#[tokio::test(start_paused = true)]
async fn a_running_guest_goes_on_with_volumes_of_other_names() {
    let (mut rig, id) = running().await;
    done(&mut rig, create(id, "live")).await;
    write(&rig, id, 3);
    let book = group(&rig, id);
    assert_eq!(book.system.name, format!("{id}_sys.1.qcow2"));
    assert_eq!(book.snapshots["live"].files[&book.system.name], format!("/images/local0/{id}_sys.qcow2"));
    assert_eq!(rig.sim.state().domains[&id].config.storage_volumes, [book.system.name.clone(), book.data[0].name.clone()]);
    let config = rig.node.books.guest(id).unwrap().config;
    assert_eq!(config.storage_volumes, rig.sim.state().domains[&id].config.storage_volumes);
    assert!(rig.node.books.lock().storage.pools["local0"].volumes.keys().eq(&[book.data[0].name.clone(), book.system.name.clone()]));
    done(&mut rig, create(id, "again")).await;
    assert_eq!(group(&rig, id).system.name, format!("{id}_sys.2.qcow2"));
    write(&rig, id, 4);
    refused(&mut rig, restore(id, "live"), "it is running; stop it first").await;
    refused(&mut rig, shrink(id, 0), "it is running; stop it first").await;
    done(&mut rig, stop_request(id, [0, 1])).await;
    for (name, value) in [("old", 1), ("live", 2), ("again", 3), ("live", 2)] {
        done(&mut rig, restore(id, name)).await;
        assert_eq!(read(&rig, id), [value, value], "{name}");
    }
    done(&mut rig, start_request(id)).await;
    done(&mut rig, delete(id, "again")).await;
    done(&mut rig, stop_request(id, [0, 1])).await;
    for name in ["live", "old"] {
        done(&mut rig, delete(id, name)).await;
        assert_eq!(read(&rig, id), [2, 2], "after {name}");
    }
    assert_eq!(rig.sim.state().directories["/images/local0"].len(), 2);
    done(&mut rig, start_request(id)).await;
}

#[tokio::test(start_paused = true)]
async fn a_running_guests_disk_grows_at_once() {
    let (mut rig, id) = running().await;
    let steps = rig.sim.operations();
    done(&mut rig, resize(id, 0, 80 * MIB)).await;
    assert_eq!(rig.sim.operations() - steps, 3, "domain, image, QEMU: no tool touches a file that QEMU writes to");
    assert_eq!(sizes(&rig, id), [80 * MIB, 32 * MIB]);
    // §14 B16: one whose answer said failure is done when it is asked for again
    rig.sim.fail_next(Operation::ResizeDisk, Fault { kind: ErrorKind::Unknown, effect: Effect::Done });
    assert!(!rig.ask(resize(id, 0, 90 * MIB)).await.success);
    done(&mut rig, resize(id, 0, 90 * MIB)).await;
    assert_eq!(sizes(&rig, id), [90 * MIB, 32 * MIB]);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_in_the_middle_has_its_snapshot() {
    let (mut rig, id) = running().await;
    rig.sim.set_latency(Operation::ChangeVolumes, Duration::from_secs(1));
    rig.engine.request(LINK, create(id, "live").from_session(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.sim.set_power_behind(id, false);
    let answer = rig.answer(1).await;
    assert!(answer.success, "{}", answer.error);
    done(&mut rig, restore(id, "live")).await;
    assert_eq!(read(&rig, id), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_is_not_known_to_have_happened_loses_nothing() {
    let (mut rig, id) = running().await;
    for _ in 0..2 {
        rig.sim.fail_next(Operation::SwitchDisks, ErrorKind::Unknown);
    }
    assert!(!rig.ask(create(id, "live")).await.success);
    assert_eq!(read(&rig, id), [2, 2]);
    assert!(group(&rig, id).snapshots.contains_key("live"));
    done(&mut rig, stop_request(id, [0, 1])).await;
    done(&mut rig, start_request(id)).await;
}

type Prepare = fn(&Rig, GuestId);

/// Runs a request with a failure at each of its operations; whatever it answers has to be true.
async fn fails_everywhere(is_running: bool, request: fn(GuestId) -> Message, effects: &[Effect], prepare: Prepare) {
    let begin = || async {
        let (rig, id) = if is_running { running().await } else { with_tree().await };
        prepare(&rig, id);
        (rig, id)
    };
    let (steps, whole) = {
        let (mut rig, id) = begin().await;
        let before = rig.sim.operations();
        done(&mut rig, request(id)).await;
        (rig.sim.operations() - before, (images(rig.sim.state()), without_times(&rig)))
    };
    assert!(steps >= 3, "{steps} steps");
    let mut failures = 0;
    for step in 1..=steps {
        for effect in effects {
            for kind in [ErrorKind::NoSpace, ErrorKind::Unknown] {
                let (mut rig, id) = begin().await;
                let before = (rig.sim.state(), rig.files());
                rig.sim.fail_at(step, Fault { kind, effect: *effect });
                let answer = rig.ask(request(id)).await;
                rig.settle().await;
                let at = format!("step {step} {kind:?} {effect:?}: {}", answer.error);
                if answer.success {
                    // Only tidying up may fail without a word.
                    assert_eq!(without_times(&rig), whole.1, "{at}");
                    continue;
                }
                failures += 1;
                assert!(!answer.error.is_empty());
                assert_eq!((rig.sim.state(), rig.files()), before, "{at}");
                assert_eq!(rig.sent(), [], "{at}");
                done(&mut rig, request(id)).await;
                assert_eq!((images(rig.sim.state()), without_times(&rig)), whole, "{at}");
            }
        }
    }
    assert!(failures >= 3, "{failures} failures");
}

/// What is the same for each guest that lived the same life.
pub(super) fn images(state: SimState) -> (BTreeMap<String, BTreeMap<String, u64>>, BTreeMap<String, SimLayer>) {
    (state.directories, state.layers)
}

/// The data files without what the clock wrote.
pub(super) fn without_times(rig: &Rig) -> BTreeMap<&'static str, String> {
    let plain = |text: String| text.lines().filter(|line| !line.contains("create_time")).collect::<Vec<_>>().join("\n");
    let mut files = rig.files();
    // Ports, addresses and passwords are drawn by lot.
    files.remove("network.data");
    files.remove("instance.data");
    files.into_iter().map(|(name, text)| (name, plain(text))).collect()
}

const BOTH: &[Effect] = &[Effect::None, Effect::Done];

fn nothing(_: &Rig, _: GuestId) {}

#[tokio::test(start_paused = true)]
async fn c2_d15_a_create_that_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| create(id, "new"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn d15_a_create_of_a_running_guest_that_fails_at_any_step_is_taken_back() {
    fails_everywhere(true, |id| create(id, "new"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn c2_d15_a_restore_that_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| restore(id, "s1"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn b14_a_delete_of_a_leaf_that_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| delete(id, "s3"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn b14_a_delete_that_merges_the_current_disks_and_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| delete(id, "s4"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn b14_a_delete_that_merges_another_snapshot_and_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| delete(id, "s1"), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_resize_that_fails_at_any_step_is_taken_back() {
    fails_everywhere(false, |id| resize(id, 1, 200 * MIB), BOTH, nothing).await;
}

#[tokio::test(start_paused = true)]
async fn c1_d17_a_shrink_that_fails_at_any_step_is_taken_back() {
    // What an earlier try left is no reason to fail.
    let leave = |rig: &Rig, id: GuestId| {
        let path = format!("{}.new", group(rig, id).system.file());
        rig.sim.write_block(&path, 1, 1);
    };
    fails_everywhere(false, |id| shrink(id, 0), BOTH, nothing).await;
    let (mut rig, id) = with_tree().await;
    leave(&rig, id);
    done(&mut rig, shrink(id, 0)).await;
    assert_eq!(read(&rig, id), [9, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_written_down_is_taken_back() {
    for request in [|id| create(id, "new"), |id| restore(id, "s1"), |id| delete(id, "s4"), |id| resize(id, 0, 1 << 30)] {
        let (mut rig, id) = with_tree().await;
        let (state, book, before) = (rig.sim.state(), group(&rig, id), sizes(&rig, id));
        for name in ["instance.data", "storage.data"] {
            std::fs::create_dir(rig.directory.path().join(format!("{name}.tmp"))).unwrap();
        }
        let answer = rig.ask(request(id)).await;
        assert!(answer.error.contains("data"), "{}", answer.error);
        assert_eq!(rig.sim.state(), state);
        assert_eq!((group(&rig, id), sizes(&rig, id)), (book, before));
    }
}

/// A file that the way back would take for the guest's disk.
#[tokio::test(start_paused = true)]
async fn a_foreign_file_in_the_way_is_not_touched() {
    let (mut rig, id) = with_tree().await;
    let name = format!("{id}_new_0.qcow2");
    rig.node.host.storage.create_volume("local0", &name, 512).await.unwrap();
    refused(&mut rig, create(id, "new"), "which no snapshot in the books has").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_others_need_is_kept_whatever_the_books_say() {
    let (mut rig, id) = with_tree().await;
    rig.node.books.lock().storage.groups.get_mut(&id).unwrap().snapshots.get_mut("s3").unwrap().backing = "s1".into();
    refused(&mut rig, delete(id, "s2"), "which the books do not know").await;
    let mut book = group(&rig, id);
    book.snapshots.get_mut("s3").unwrap().files.values_mut().for_each(|path| *path = "/etc/passwd".into());
    rig.node.books.lock().storage.groups.insert(id, book);
    refused(&mut rig, delete(id, "s3"), "no file of this guest").await;
    refused(&mut rig, restore(id, "s3"), "no file of this guest").await;
}

/// Lets an operation take longer than the Core waits; gives the answer that went out at the deadline.
async fn late(rig: &mut Rig, operation: Operation, request: Message) -> Message {
    rig.sim.set_deadline(Duration::from_secs(600));
    rig.sim.set_latency(operation, TIMEOUT * 3);
    let begun = tokio::time::Instant::now();
    let answer = rig.ask(request).await;
    assert!(begun.elapsed() < TIMEOUT);
    assert!(!answer.success);
    rig.settle().await;
    rig.sim.set_latency(operation, Duration::ZERO);
    answer
}

#[tokio::test(start_paused = true)]
async fn b16_what_was_told_as_failed_is_taken_back_where_a_user_would_see_it() {
    for (operation, request) in [
        (Operation::Overlay, (|id| create(id, "new")) as fn(GuestId) -> Message),
        (Operation::Replace, |id| restore(id, "s1")),
        (Operation::ResizeImage, |id| resize(id, 0, 1 << 30)),
    ] {
        let (mut rig, id) = with_tree().await;
        let before = (rig.sim.state(), rig.files());
        late(&mut rig, operation, request(id)).await;
        assert_eq!((rig.sim.state(), rig.files()), before);
    }
}

#[tokio::test(start_paused = true)]
async fn b16_what_nobody_sees_stays_done_and_is_written_down() {
    let (mut rig, id) = with_tree().await;
    late(&mut rig, Operation::Merge, delete(id, "s4")).await;
    assert!(!rig.files()["storage.data"].contains("s4"));
    assert_eq!(read(&rig, id), [9, 9]);
    let state = rig.sim.state();
    late(&mut rig, Operation::Compact, shrink(id, 0)).await;
    assert_eq!(rig.sim.state(), state);
    let (mut rig, id) = running().await;
    late(&mut rig, Operation::ResizeDisk, resize(id, 0, 1 << 30)).await;
    assert_eq!(sizes(&rig, id)[0], 1 << 30);
    assert!(rig.files()["instance.data"].contains(&(1_u64 << 30).to_string()));
    late(&mut rig, Operation::SwitchDisks, create(id, "live")).await;
    assert!(rig.files()["storage.data"].contains("\"live\""));
}

#[tokio::test(start_paused = true)]
async fn a_long_change_is_named_to_whoever_comes_meanwhile_and_holds_up_nobody_else() {
    let (mut rig, id) = with_tree().await;
    let other = rig.with_guest(2).await;
    rig.sim.set_deadline(Duration::from_secs(600));
    rig.sim.set_latency(Operation::Compact, Duration::from_secs(5));
    rig.engine.request(LINK, shrink(id, 0).from_session(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = tokio::time::Instant::now();
    for request in [start_request(id), about(MessageId::DELETE_GUEST_REQUEST, id), create(id, "new"), resize(id, 0, 1 << 30)] {
        let answer = rig.ask(request).await;
        assert!(answer.error.contains("shrinking a disk has been running for 2 s"), "{}", answer.error);
    }
    done_beside(&mut rig, create(other, "new")).await;
    done_beside(&mut rig, start_request(other)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(rig.answer(1).await.success);
    rig.settle().await;
    done(&mut rig, start_request(id)).await;
}

/// [`done`] while something else runs.
async fn done_beside(rig: &mut Rig, request: Message) {
    let answer = rig.ask(request).await;
    assert!(answer.success, "{}", answer.error);
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_or_lost_guest_is_left_alone() {
    let (mut rig, id) = with_tree().await;
    rig.sim.undefine_behind(id);
    rig.take_host_events().await;
    for request in [create(id, "a"), restore(id, "s1"), delete(id, "s3"), resize(id, 0, 1 << 30), shrink(id, 0)] {
        refused(&mut rig, request, "libvirt domain is missing").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_guest_leaves_none_of_its_snapshots() {
    let mut rig = Rig::new().await;
    let empty = rig.sim.state();
    let id = rig.with_guest(1).await;
    let other = rig.with_guest(2).await;
    done(&mut rig, create(id, "a")).await;
    done(&mut rig, start_request(id)).await;
    done(&mut rig, create(id, "b")).await;
    done(&mut rig, stop_request(id, [0, 1])).await;
    done(&mut rig, create(id, "c")).await;
    assert_eq!(rig.sim.state().directories["/images/local0"].len(), 10);
    rig.sim.fail_next(Operation::RemoveFile, ErrorKind::Failed);
    assert!(!rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    done(&mut rig, about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    assert_eq!(rig.sim.state().directories["/images/local0"].len(), 2, "those of the other guest");
    done(&mut rig, about(MessageId::DELETE_GUEST_REQUEST, other)).await;
    assert_eq!(rig.sim.state(), empty);
}

/// Any order of changes on one guest, compared with what each snapshot was when it was taken.
#[tokio::test(start_paused = true)]
async fn any_life_of_a_guest_keeps_every_content() {
    for seed in 0..40 {
        let mut lot = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new().await;
        let id = rig.with_guest(1).await;
        let mut kept: BTreeMap<String, (u64, Vec<u64>)> = BTreeMap::new();
        let mut value = 0;
        for step in 1..60 {
            let is_running = rig.node.books.guest(id).unwrap().power == crate::model::PowerState::Running;
            let names: Vec<String> = kept.keys().cloned().collect();
            let chosen = lot.choice(&names).cloned().unwrap_or_default();
            match lot.u32(..10) {
                0..=2 => {
                    value = step;
                    write(&rig, id, value);
                }
                3..=4 => {
                    let name = format!("s{step}");
                    done(&mut rig, create(id, &name)).await;
                    kept.insert(name, (value, sizes(&rig, id)));
                }
                5 => {
                    if rig.ask(restore(id, &chosen)).await.success {
                        assert!(!is_running);
                        let (content, size) = kept[&chosen].clone();
                        value = content;
                        assert_eq!(sizes(&rig, id), size);
                    }
                }
                6..=7 => {
                    if rig.ask(delete(id, &chosen)).await.success {
                        kept.remove(&chosen);
                    }
                }
                8 => {
                    let grown = sizes(&rig, id)[0] + MIB;
                    done(&mut rig, resize(id, 0, grown)).await;
                }
                _ if is_running => done(&mut rig, stop_request(id, [0, 1])).await,
                _ => done(&mut rig, start_request(id)).await,
            }
            rig.settle().await;
            assert_eq!(read(&rig, id), [value; 2], "seed {seed} step {step}");
            let book = group(&rig, id);
            assert!(book.snapshots.keys().eq(kept.keys()));
            for (name, (content, _)) in &kept {
                for file in book.snapshots[name].files.values() {
                    assert_eq!(rig.sim.read_block(file, 0), Some(*content), "seed {seed} step {step}: {name}");
                }
            }
        }
    }
}
