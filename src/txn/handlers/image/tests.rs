use std::time::Duration;

use tokio::time::Instant;

use crate::host::sim::{Effect, Fault, Operation, SimImage};
use crate::host::ErrorKind;
use crate::model::{GuestId, PowerState, Snapshot};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::testing::{
    about, clone_request, create_request, export_request, reset_request, start_request, stop_request, Rig, IMAGE, IMAGE_SIZE, LINK,
};

fn guest(number: u8) -> GuestId {
    GuestId::from_bytes([number; 16])
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

/// A node whose image server has [`IMAGE`]; a transfer takes `time`.
async fn rig(time: Duration) -> Rig {
    let rig = Rig::new().await;
    rig.sim.put_image(IMAGE, SimImage { size: IMAGE_SIZE, capacity: 30 << 20 });
    for operation in [Operation::Fetch, Operation::Upload] {
        rig.sim.set_latency(operation, time);
    }
    rig
}

/// A node with a guest, whose disks are blank.
async fn rig_with_guest(time: Duration) -> (Rig, GuestId) {
    let mut rig = rig(time).await;
    let id = rig.with_guest(1).await;
    (rig, id)
}

fn disk(id: GuestId) -> String {
    format!("/images/local0/{id}_sys.qcow2")
}

const LONG: Duration = Duration::from_secs(9);

/// The only messages of this kind.
fn only(messages: &[Message], id: MessageId) -> Vec<Message> {
    messages.iter().filter(|message| message.id == id).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_answered_first_then_told_every_two_seconds_then_created() {
    let mut rig = rig(LONG).await;
    let begun = Instant::now();
    let answer = rig.ask(clone_request(guest(1), "g.a").bool(Key::Option, true)).await;
    assert!(answer.success && !answer.bool_params[&Key::Enable], "{}", answer.error);
    assert!(begun.elapsed() < Duration::from_secs(1));
    rig.settle().await;
    rig.take_host_events().await;
    let sent = rig.sent();
    let updated = only(&sent, MessageId::GUEST_UPDATED_EVENT);
    let percents: Vec<u64> = updated.iter().map(|event| event.uint_params[&Key::Progress]).collect();
    assert_eq!(percents, [20, 40, 60, 80], "what really moved");
    assert!(updated.iter().all(|event| event.success && event.string_params[&Key::Instance] == guest(1).to_string()));
    assert_eq!(ids(&sent[4..]), [MessageId::GUEST_CREATED_EVENT, MessageId::GUEST_STARTED_EVENT]);
    let state = rig.sim.state();
    assert_eq!(state.contents[&disk(guest(1))], IMAGE);
    assert_eq!(state.directories["/images/local0"][&format!("{}_sys.qcow2", guest(1))], 64 << 20, "grown to what was asked for");
    assert!(state.parts.is_empty());
    assert!(state.domains[&guest(1)].autostart);
    assert_eq!(state.domains[&guest(1)].power, PowerState::Running);
    assert!(!rig.files()["instance.data"].contains("unfinished"));
}

/// §14 B13: while its disk is filled the guest is not created, wherever somebody looks.
#[tokio::test(start_paused = true)]
async fn b13_a_guest_is_not_created_until_its_disk_is_complete() {
    let mut rig = rig(LONG).await;
    assert!(rig.ask(clone_request(guest(1), "g.a").bool(Key::Option, true)).await.success);
    assert!(rig.files()["instance.data"].contains("\"unfinished\": true"));
    assert!(!rig.sim.state().domains[&guest(1)].autostart, "a host that restarts now must not start it");
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, guest(1))).await;
    assert!(!status.bool_params[&Key::Enable]);
    assert_eq!(status.uint_params[&Key::Progress], 40);
    let ready = Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "p").string(Key::Storage, "").string(Key::Network, "");
    let ready = rig.ask(ready).await;
    assert_eq!(ready.uint_array_params[&Key::Enable], [0]);
    assert_eq!(ready.uint_array_params[&Key::Progress], [40]);
    let begun = Instant::now();
    let refused = rig.ask(start_request(guest(1))).await;
    assert!(refused.error.contains("cloning its system disk has been running for 4 s"), "{}", refused.error);
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for it");
    rig.settle().await;
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, guest(1))).await;
    assert!(status.bool_params[&Key::Enable]);
}

/// §14 B1: whatever goes wrong is told, and nothing stays.
#[tokio::test(start_paused = true)]
async fn b1_a_clone_that_fails_at_any_step_is_told_and_leaves_nothing_behind() {
    let request = || clone_request(guest(1), "g.a").bool(Key::Option, true);
    let steps = {
        let mut rig = rig(LONG).await;
        let before = rig.sim.operations();
        assert!(rig.ask(request()).await.success);
        rig.settle().await;
        // Without libvirt's mark and the start, which are not part of the create: a look, the mark, the filter, the start.
        rig.sim.operations() - before - 4
    };
    assert_eq!(steps, 7, "two looks at what is there, two volumes, domain, fetch, install");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::NoSpace] {
                let mut rig = rig(LONG).await;
                let (state, files) = (rig.sim.state(), rig.files());
                rig.sim.fail_at(step, Fault { kind, effect });
                let answer = rig.ask(request()).await;
                assert_eq!(answer.success, step > 5, "step {step}");
                rig.settle().await;
                assert_eq!(rig.sim.state(), state, "step {step} {kind:?} {effect:?}");
                assert_eq!(rig.files(), files, "step {step} {kind:?} {effect:?}");
                let sent = rig.sent();
                assert!(only(&sent, MessageId::GUEST_CREATED_EVENT).is_empty());
                if step > 5 {
                    let last = sent.last().unwrap();
                    assert_eq!((last.id, last.success), (MessageId::GUEST_UPDATED_EVENT, false));
                    assert!(last.error.contains("failed on demand"), "{}", last.error);
                    assert_eq!(last.string_params[&Key::Instance], guest(1).to_string());
                }
                assert!(rig.ask(request()).await.success, "the name, port and id are free again");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_missing_too_large_or_not_as_announced_fails_the_create_with_the_reason() {
    for (image, reason) in [
        (None, "refuses: no image"),
        (Some(SimImage { size: IMAGE_SIZE, capacity: 65 << 20 }), "needs a disk of"),
        (Some(SimImage { size: 5, capacity: 1 << 20 }), "were announced"),
    ] {
        let mut rig = Rig::new().await;
        if let Some(image) = image {
            rig.sim.put_image(IMAGE, image);
        }
        let before = rig.sim.state();
        assert!(rig.ask(clone_request(guest(1), "g.a")).await.success);
        rig.settle().await;
        let sent = rig.sent();
        assert_eq!(ids(&sent), [MessageId::GUEST_UPDATED_EVENT]);
        assert!(!sent[0].success && sent[0].error.contains(reason), "{}", sent[0].error);
        assert_eq!(rig.sim.state(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_cannot_be_written_down_is_taken_back() {
    let mut rig = rig(LONG).await;
    let state = rig.sim.state();
    assert!(rig.ask(clone_request(guest(1), "g.a")).await.success);
    std::fs::create_dir(rig.directory.path().join("instance.data.tmp")).unwrap();
    rig.settle().await;
    let last = rig.sent().pop().unwrap();
    assert_eq!((last.id, last.success), (MessageId::GUEST_UPDATED_EVENT, false));
    assert_eq!(rig.sim.state(), state);
    assert_eq!(rig.node.guest_counts(), (0, 0, 0));
}

/// §14 C18, C8: a transfer holds up nobody, and more of them take their turns and say so.
#[tokio::test(start_paused = true)]
async fn c18_other_guests_never_wait_for_transfers_and_all_that_wait_tell_so() {
    let mut rig = rig(Duration::from_secs(20)).await;
    let other = rig.with_guest(99).await;
    for number in 1..=10_u8 {
        rig.engine.request(LINK, clone_request(guest(number), &format!("g.n{number}")).from_session(u32::from(number)));
    }
    let begun = Instant::now();
    assert!(rig.ask(start_request(other)).await.success);
    assert!(rig.ask(stop_request(other, [0, 1])).await.success);
    assert!(rig.ask(create_request(guest(50), "g.blank")).await.success);
    assert!(begun.elapsed() < Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    let sent = rig.sent();
    for number in 1..=10_u8 {
        let id = guest(number).to_string();
        let updates: Vec<u64> = only(&sent, MessageId::GUEST_UPDATED_EVENT)
            .iter()
            .filter(|event| event.string_params[&Key::Instance] == id)
            .map(|event| event.uint_params[&Key::Progress])
            .collect();
        let expected = if number <= 8 { [10, 20, 30, 40, 50] } else { [0; 5] };
        assert_eq!(updates, expected, "guest {number}");
    }
    rig.settle().await;
    assert_eq!(only(&rig.sent(), MessageId::GUEST_CREATED_EVENT).len(), 10);
    assert_eq!(rig.node.guest_counts().0, 12);
}

#[tokio::test(start_paused = true)]
async fn deleting_a_guest_that_is_being_cloned_stops_the_transfer_and_leaves_nothing() {
    let mut rig = rig(Duration::from_secs(3600)).await;
    let (state, files) = (rig.sim.state(), rig.files());
    assert!(rig.ask(clone_request(guest(1), "g.a")).await.success);
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.sent();
    let begun = Instant::now();
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest(1))).await;
    assert!(answer.success, "{}", answer.error);
    assert!(begun.elapsed() < Duration::from_secs(1));
    rig.settle().await;
    let sent = rig.sent();
    assert_eq!(ids(&sent), [MessageId::GUEST_DELETED_EVENT]);
    assert_eq!(rig.sim.state(), state);
    assert_eq!(rig.files(), files);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_takes_transfers_back_at_once() {
    let (mut rig, id) = rig_with_guest(Duration::from_secs(3600)).await;
    let (state, files) = (rig.sim.state(), rig.files());
    rig.engine.request(LINK, reset_request(id).from_session(2));
    for number in 10..20_u8 {
        rig.engine.request(LINK, clone_request(guest(number), &format!("g.n{number}")).from_session(u32::from(number)));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.sent();
    let begun = Instant::now();
    rig.engine.close();
    rig.settle().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(rig.sim.state(), state);
    assert_eq!(rig.files(), files);
    let sent = rig.sent();
    assert_eq!(only(&sent, MessageId::GUEST_UPDATED_EVENT).len(), 10, "those that wait for their turn as well");
    assert!(sent.iter().all(|event| !event.success && event.error.contains("shutting down")));
    assert_eq!(only(&sent, MessageId::SYSTEM_RESET_EVENT).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reset_replaces_the_system_disk_and_nothing_else() {
    let (mut rig, id) = rig_with_guest(LONG).await;
    {
        let mut books = rig.node.books.lock();
        let guest = books.guests.get_mut(&id).unwrap();
        guest.config = std::sync::Arc::new(crate::model::GuestConfig { initialized: true, ..(*guest.config).clone() });
    }
    rig.node.save(&DataFile::ALL).await.unwrap();
    let before = rig.sim.state();
    let begun = Instant::now();
    let answer = rig.ask(reset_request(id)).await;
    assert_eq!((answer.id, answer.success), (MessageId::RESET_SYSTEM_RESPONSE, true), "{}", answer.error);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert!(!status.bool_params[&Key::Enable]);
    assert!(rig.ask(start_request(id)).await.error.contains("system reset has been running"));
    rig.settle().await;
    let sent = rig.sent();
    assert_eq!(only(&sent, MessageId::GUEST_UPDATED_EVENT).len(), 4);
    assert!(sent.iter().all(|event| event.success));
    let last = sent.last().unwrap();
    assert_eq!((last.id, &last.string_params[&Key::Guest]), (MessageId::SYSTEM_RESET_EVENT, &id.to_string()));
    let mut after = rig.sim.state();
    assert_eq!(after.contents.remove(&disk(id)).as_deref(), Some(IMAGE));
    assert_eq!(after, before, "the data disk and the domain are as they were");
    assert!(!rig.files()["instance.data"].contains("initialized"), "cloud-init is to run again");
    assert!(rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await.bool_params[&Key::Enable]);
    assert!(rig.ask(start_request(id)).await.success);
}

/// Contract §13.4: the Core refuses an event that it handles before the answer.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_quick_reset_is_told_a_second_after_the_answer() {
    let (mut rig, id) = rig_with_guest(Duration::ZERO).await;
    assert!(rig.ask(reset_request(id)).await.success);
    let answered = Instant::now();
    rig.settle().await;
    assert_eq!(ids(&rig.sent()), [MessageId::SYSTEM_RESET_EVENT]);
    assert!(answered.elapsed() >= Duration::from_secs(1), "{:?}", answered.elapsed());
}

/// §14 B3: the disk that was there stays until the new one is complete.
#[tokio::test(start_paused = true)]
async fn b3_a_reset_that_fails_at_any_step_leaves_the_guest_as_it_was() {
    let steps = {
        let (mut rig, id) = rig_with_guest(LONG).await;
        let before = rig.sim.operations();
        assert!(rig.ask(reset_request(id)).await.success);
        rig.settle().await;
        rig.sim.operations() - before
    };
    assert_eq!(steps, 2, "fetch, install");
    for step in 1..=steps {
        for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::NoSpace] {
            let (mut rig, id) = rig_with_guest(LONG).await;
            let mark = |rig: &Rig| {
                let mut books = rig.node.books.lock();
                let guest = books.guests.get_mut(&id).unwrap();
                guest.config = std::sync::Arc::new(crate::model::GuestConfig { initialized: true, ..(*guest.config).clone() });
            };
            mark(&rig);
            rig.node.save(&DataFile::ALL).await.unwrap();
            let (state, files) = (rig.sim.state(), rig.files());
            let effect = if step == 1 { Effect::Done } else { Effect::None };
            rig.sim.fail_at(step, Fault { kind, effect });
            assert!(rig.ask(reset_request(id)).await.success);
            rig.settle().await;
            assert_eq!(rig.sim.state(), state, "step {step} {kind:?}");
            assert_eq!(rig.files(), files, "step {step} {kind:?}");
            let ends = only(&rig.sent(), MessageId::SYSTEM_RESET_EVENT);
            assert_eq!(ends.len(), 2);
            assert!(!ends[0].success && ends[0].error.contains("failed on demand"), "{}", ends[0].error);
            assert!(ends[1].success, "contract §13.5: the guest can be used, and the Core is told so");
            assert!(rig.ask(start_request(id)).await.success);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_a_guest_that_is_being_reset_stops_the_reset() {
    let (mut rig, id) = rig_with_guest(Duration::from_secs(3600)).await;
    assert!(rig.ask(reset_request(id)).await.success);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    let sent = rig.sent();
    assert_eq!(only(&sent, MessageId::GUEST_DELETED_EVENT).len(), 1);
    assert!(only(&sent, MessageId::SYSTEM_RESET_EVENT).is_empty(), "nothing is said of a guest that is gone");
    let state = rig.sim.state();
    assert!(state.domains.is_empty() && state.parts.is_empty() && state.directories["/images/local0"].is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disk_image_is_told_to_the_cores_transaction_every_two_seconds() {
    let (mut rig, id) = rig_with_guest(LONG).await;
    let before = rig.sim.state();
    let answer = rig.ask(export_request(id)).await;
    assert_eq!((answer.id, answer.success), (MessageId::CREATE_DISK_IMAGE_RESPONSE, true), "{}", answer.error);
    assert!(rig.ask(start_request(id)).await.error.contains("sending its system disk"));
    rig.settle().await;
    let sent = rig.sent();
    assert_eq!(ids(&sent), [MessageId::DISK_IMAGE_UPDATED_EVENT; 5]);
    for (index, event) in sent.iter().enumerate() {
        assert_eq!((event.to, event.success), (900, true));
        assert_eq!(event.bool_params[&Key::Enable], index == 4);
        assert_eq!(event.uint_params[&Key::Progress], [20, 40, 60, 80, 0][index]);
    }
    assert_eq!(sent[4].uint_params[&Key::Size], 64 << 20);
    assert_eq!(rig.sim.uploads()[IMAGE], disk(id));
    assert_eq!(rig.sim.state(), before);
}

/// §14 C1: a failed upload is an event, whatever made it fail.
#[tokio::test(start_paused = true)]
async fn c1_a_failed_upload_is_told_with_its_reason() {
    let steps = {
        let (mut rig, id) = rig_with_guest(LONG).await;
        let before = rig.sim.operations();
        assert!(rig.ask(export_request(id)).await.success);
        rig.settle().await;
        rig.sim.operations() - before
    };
    assert_eq!(steps, 1, "the upload");
    for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::NotFound] {
        let (mut rig, id) = rig_with_guest(LONG).await;
        let before = rig.sim.state();
        rig.sim.fail_at(steps, kind);
        assert!(rig.ask(export_request(id)).await.success);
        rig.settle().await;
        let last = rig.sent().pop().unwrap();
        assert_eq!((last.id, last.to, last.success), (MessageId::DISK_IMAGE_UPDATED_EVENT, 900, false));
        assert!(last.error.contains("failed on demand"), "{}", last.error);
        assert_eq!(rig.sim.state(), before);
        assert!(rig.ask(start_request(id)).await.success, "the disk is free again");
    }
}

/// §14 A1: each parameter that misses or is wrong is answered.
#[tokio::test(start_paused = true)]
async fn a1_bad_requests_are_refused_and_touch_nothing() {
    let (mut rig, id) = rig_with_guest(LONG).await;
    let (state, files) = (rig.sim.state(), rig.files());
    let without = |mut message: Message, key: Key| {
        message.string_params.remove(&key);
        message.uint_params.remove(&key);
        message
    };
    let mut cases: Vec<(&str, Message)> = vec![
        ("Size(34)", reset_request(id).uint(Key::Size, 0)),
        ("Port(22)", export_request(id).uint(Key::Port, 70_000)),
        ("Host(29)", export_request(id).string(Key::Host, "a b/c")),
        ("Host(29)", reset_request(id).string(Key::Host, "")),
        ("Image(38)", reset_request(id).string(Key::Image, "a/../b")),
        ("Guest(39)", reset_request(id).string(Key::Guest, "x")),
        ("no guest", reset_request(guest(77))),
        ("no guest", export_request(guest(77))),
        ("more than fit", reset_request(id).uint(Key::Size, 1 << 40)),
    ];
    for key in [Key::Guest, Key::Image, Key::Host, Key::Port] {
        cases.push(("is missing", without(reset_request(id), key)));
        cases.push(("is missing", without(export_request(id), key)));
    }
    cases.push(("is missing", without(reset_request(id), Key::Size)));
    for (expected, request) in cases {
        let answer = rig.ask(request).await;
        assert!(!answer.success && answer.error.contains(expected), "{expected:?} in {:?}", answer.error);
    }
    rig.settle().await;
    assert_eq!((rig.sim.state(), rig.files(), rig.sent()), (state, files, vec![]));
}

/// §14 D16: a disk that snapshots build on is not replaced.
#[tokio::test(start_paused = true)]
async fn d16_running_guests_and_guests_with_snapshots_are_refused() {
    let (mut rig, id) = rig_with_guest(LONG).await;
    assert!(rig.ask(start_request(id)).await.success);
    for request in [reset_request(id), export_request(id)] {
        let answer = rig.ask(request).await;
        assert!(answer.error.contains("it is running; stop it first"), "{}", answer.error);
    }
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    let snapshots = |rig: &Rig, names: &[&str]| {
        let mut books = rig.node.books.lock();
        books.storage.groups.get_mut(&id).unwrap().snapshots = names.iter().map(|name| ((*name).to_owned(), Snapshot::default())).collect();
    };
    snapshots(&rig, &["one", "two"]);
    for request in [reset_request(id), export_request(id)] {
        let answer = rig.ask(request).await;
        assert!(answer.error.contains("it has 2 snapshots"), "{}", answer.error);
    }
    snapshots(&rig, &[]);
    rig.node.books.lock().storage.groups.remove(&id);
    for request in [reset_request(id), export_request(id)] {
        assert!(rig.ask(request).await.error.contains("no system disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_somebody_starts_behind_our_back_meanwhile_is_told_at_the_end() {
    let (mut rig, id) = rig_with_guest(LONG).await;
    assert!(rig.ask(export_request(id)).await.success);
    rig.sim.set_power_behind(id, true);
    rig.take_host_events().await;
    assert!(only(&rig.sent(), MessageId::GUEST_STARTED_EVENT).is_empty());
    rig.settle().await;
    assert_eq!(only(&rig.sent(), MessageId::GUEST_STARTED_EVENT).len(), 1);
}
