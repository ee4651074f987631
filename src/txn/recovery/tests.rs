use std::time::Duration;

use super::*;
use crate::host::sim::{Operation, SimImage};
use crate::host::{ErrorKind, HostEvent, ImageLocation, Transfer};
use crate::model::{Guest, GuestConfig, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, Rig, IMAGE, IMAGE_SIZE};

const CAPACITY: u64 = 64 << 20;

/// A node with a finished guest (1) and one whose create was cut off (2), each with an image beside its disk.
async fn rig() -> (Rig, GuestId, GuestId) {
    let mut rig = Rig::new().await;
    rig.sim.put_image(IMAGE, SimImage { size: IMAGE_SIZE, capacity: CAPACITY });
    let (finished, unfinished) = (rig.with_guest(1).await, rig.with_guest(2).await);
    for id in [finished, unfinished] {
        let image = ImageLocation { id: IMAGE.into(), host: "h".into(), port: 1, size: IMAGE_SIZE };
        let disk = format!("/images/local0/{id}_sys.qcow2");
        rig.node.host.images.fetch(&image, &disk, CAPACITY, &Transfer::default()).await.unwrap();
    }
    {
        let mut books = rig.node.books.lock();
        let guest = books.guests.get_mut(&unfinished).unwrap();
        let config = GuestConfig { unfinished: true, ..(*guest.config).clone() };
        *guest = Guest { power: PowerState::Stopped, ..Guest::new(config) };
    }
    rig.node.save(&DataFile::ALL).await.unwrap();
    (rig, finished, unfinished)
}

#[tokio::test(start_paused = true)]
async fn b13_an_unfinished_clone_is_removed_and_an_unfinished_reset_keeps_the_old_disk() {
    let (rig, finished, unfinished) = rig().await;
    clean_up(&rig.node).await;
    let state = rig.sim.state();
    assert!(state.parts.is_empty());
    assert_eq!(state.domains.keys().collect::<Vec<_>>(), [&finished]);
    assert_eq!(state.directories["/images/local0"].len(), 2);
    assert!(state.contents.is_empty(), "the finished guest has the disk that it had");
    for (name, content) in rig.files() {
        assert!(content.contains(&finished.to_string()), "{name}");
        assert!(!content.contains(&unfinished.to_string()), "{name}");
    }
    assert!(rig.node.books.guest(finished).unwrap().created);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_reported_as_not_created_and_can_be_deleted() {
    for operation in [Operation::Undefine, Operation::DeleteVolume] {
        let (mut rig, finished, unfinished) = rig().await;
        rig.sim.fail_next(operation, ErrorKind::Unavailable);
        clean_up(&rig.node).await;
        let ready =
            Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "p").string(Key::Storage, "").string(Key::Network, "");
        let ready = rig.ask(ready).await;
        assert_eq!(ready.string_array_params[&Key::Instance], [finished.to_string(), unfinished.to_string()]);
        assert_eq!(ready.uint_array_params[&Key::Enable], [1, 0]);
        let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, unfinished)).await;
        assert!(answer.success, "{operation:?}: {}", answer.error);
        assert_eq!(rig.sim.state().directories["/images/local0"].len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_removed_does_not_keep_the_service_from_starting() {
    let (rig, _, unfinished) = rig().await;
    rig.sim.fail_next(Operation::Discard, ErrorKind::Failed);
    let begun = tokio::time::Instant::now();
    clean_up(&rig.node).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(rig.node.books.guest(unfinished).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_libvirt_broke_off_is_completed_and_told_when_libvirt_is_back() {
    let mut rig = Rig::new().await;
    let guest = rig.with_guest(1).await;
    rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Unavailable);
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest)).await;
    assert!(!answer.success && rig.node.books.guest(guest).is_ok());
    assert_eq!(rig.node.store.journal().open_records().len(), 1);
    rig.monitor.take(HostEvent::Connected(Vec::new())).await;
    rig.monitor.rest().await;
    assert!(rig.node.store.journal().open_records().is_empty());
    assert!(rig.node.books.guest(guest).is_err());
    assert!(rig.sim.state().directories["/images/local0"].is_empty());
    let deleted = |message: &Message| {
        message.id == MessageId::GUEST_DELETED_EVENT && message.string_params.get(&Key::Instance) == Some(&guest.to_string())
    };
    assert_eq!(rig.sent().iter().filter(|message| deleted(message)).count(), 1);
}

/// libvirt has not said whether the domain is gone, and removes it later.
#[tokio::test(start_paused = true)]
async fn a_delete_of_which_libvirt_says_nothing_is_completed_and_told() {
    let mut rig = Rig::new().await;
    let guest = rig.with_guest(1).await;
    rig.sim.fail_next(Operation::Undefine, ErrorKind::Unknown);
    assert!(!rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest)).await.success);
    rig.settle().await;
    assert_eq!(rig.node.store.journal().open_records().len(), 1, "it may still be done");
    rig.sim.undefine_behind(guest);
    rig.take_host_events().await;
    rig.monitor.take(HostEvent::Connected(Vec::new())).await;
    rig.monitor.rest().await;
    assert!(rig.node.store.journal().open_records().is_empty());
    assert!(rig.node.books.guest(guest).is_err());
    assert!(rig.sim.state().directories["/images/local0"].is_empty());
    assert_eq!(rig.sent().iter().filter(|message| message.id == MessageId::GUEST_DELETED_EVENT).count(), 1);
}
