use super::*;
use crate::host::sim::{Operation, SimImage};
use crate::host::ErrorKind;
use crate::txn::audit::Asker;
use crate::txn::testing::{about, clone_request, Rig, IMAGE, IMAGE_SIZE};

fn core() -> Asker {
    Asker { name: "Core_1".into(), address: "10.0.0.1:5600".parse().unwrap() }
}

fn ready() -> Message {
    Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "p").string(Key::Storage, "").string(Key::Network, "")
}

/// Ends of guests that were told since the last look.
fn ends(rig: &Rig) -> Vec<(MessageId, String)> {
    let sent = rig.sent();
    let ends = sent.iter().filter(|message| message.id == MessageId::GUEST_DELETED_EVENT || !message.success);
    ends.map(|message| (message.id, message.string_params[&Key::Instance].clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_a_crash_broke_off_is_told_before_the_report_of_all_guests() {
    let mut rig = Rig::new().await;
    rig.sim.put_image(IMAGE, SimImage { size: IMAGE_SIZE, capacity: 64 << 20 });
    rig.sim.set_latency(Operation::Fetch, Duration::from_secs(60));
    let id = GuestId::from_bytes([5; 16]);
    let answer = rig.ask(clone_request(id, "group.clone")).await;
    assert!(answer.success, "{}", answer.error);
    let Ok(mut rig) = rig.reboot(None).await else { unreachable!("nothing kills it") };
    assert!(rig.node.books.guest(id).is_err());
    rig.sent();
    rig.engine.joined(core());
    assert_eq!(ends(&rig), [(MessageId::GUEST_UPDATED_EVENT, id.to_string())]);
    let joined = Instant::now();
    assert!(rig.ask(ready()).await.success);
    assert!(joined.elapsed() >= LEAD);
    // Nothing is left to wait for.
    let joined = Instant::now();
    assert!(rig.ask(ready()).await.success);
    assert!(joined.elapsed() < LEAD);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_a_link_took_with_it_is_told_again_and_an_old_one_is_not() {
    let mut rig = Rig::new().await;
    let (old, young) = (rig.with_guest(1).await, rig.with_guest(2).await);
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, old)).await.success);
    tokio::time::sleep(2 * DOUBT).await;
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, young)).await.success);
    rig.sent();
    rig.engine.left();
    tokio::time::sleep(2 * DOUBT).await;
    rig.engine.joined(core());
    assert_eq!(ends(&rig), [(MessageId::GUEST_DELETED_EVENT, young.to_string())]);
    // This link ends at once: nobody knows what it has carried.
    rig.engine.left();
    rig.engine.joined(core());
    assert_eq!(ends(&rig).len(), 1);
    tokio::time::sleep(2 * DOUBT).await;
    rig.engine.left();
    rig.engine.joined(core());
    assert_eq!(ends(&rig), []);
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_fails_while_there_is_no_link_is_told_on_the_next() {
    let mut rig = Rig::new().await;
    rig.sim.put_image(IMAGE, SimImage { size: IMAGE_SIZE, capacity: 64 << 20 });
    rig.sim.set_latency(Operation::Fetch, Duration::from_secs(5));
    rig.sim.fail_next(Operation::Fetch, ErrorKind::Failed);
    let id = GuestId::from_bytes([5; 16]);
    assert!(rig.ask(clone_request(id, "group.clone")).await.success);
    rig.engine.left();
    rig.settle().await;
    rig.sent();
    rig.engine.joined(core());
    assert_eq!(ends(&rig), [(MessageId::GUEST_UPDATED_EVENT, id.to_string())]);
}
