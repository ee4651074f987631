use super::*;
use crate::host::sim::{Operation, VOLUME_OVERHEAD};
use crate::host::ErrorKind;
use crate::model::PowerState;
use crate::proto::message::{Key, MessageId};
use crate::txn::testing::{about, start_request, stop_request, Rig};

const DISK: &str = "/images/local0/x_sys.qcow2";

/// A node with a guest that runs, and its watch.
async fn watched() -> (Rig, GuestId, tokio::task::JoinHandle<Result<(), String>>) {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    rig.sent();
    let watch = tokio::spawn(keep(rig.node.clone()));
    (rig, id, watch)
}

/// The disk is full to the last byte.
fn fill(rig: &Rig) {
    rig.sim.set_disk_size(2 * VOLUME_OVERHEAD);
}

fn make_room(rig: &Rig) {
    rig.sim.set_disk_size(1 << 40);
}

async fn hold(rig: &mut Rig, id: GuestId) {
    rig.sim.hold_behind(id, DISK);
    rig.take_host_events().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn is_held(rig: &Rig, id: GuestId) -> bool {
    rig.sim.state().domains[&id].held.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_guest_with_a_full_disk_is_told_and_goes_on_when_there_is_space() {
    let (mut rig, id, _watch) = watched().await;
    fill(&rig);
    hold(&mut rig, id).await;
    let lines = rig.node.held.lines();
    assert!(
        lines.len() == 1 && lines[0].starts_with("group.guest1: ") && lines[0].contains(DISK) && lines[0].contains("no space"),
        "{lines:?}"
    );
    // For the Core it runs, and everything else of it is answered.
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert!(status.success);
    assert_eq!(status.uint_params[&Key::Status], 1);
    assert_eq!(rig.node.books.guest(id).unwrap().power, PowerState::Running);
    let before = rig.sim.operations();
    tokio::time::sleep(PACE * 30).await;
    let looks = rig.sim.operations() - before;
    assert!((25..=35).contains(&looks), "{looks} questions in 300 s");
    assert!(is_held(&rig, id), "there is no space yet");
    make_room(&rig);
    tokio::time::sleep(PACE * 2).await;
    assert!(!is_held(&rig, id));
    assert!(rig.node.held.lines().is_empty());
    rig.take_host_events().await;
    assert!(rig.sent().iter().all(|message| message.id != MessageId::GUEST_STOPPED_EVENT && message.id != MessageId::GUEST_STARTED_EVENT));
    // Once it has gone on for a while nobody asks any more.
    tokio::time::sleep(STEADY * 2).await;
    let before = rig.sim.operations();
    tokio::time::sleep(PACE * 100).await;
    assert_eq!(rig.sim.operations(), before);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_held_again_each_time_is_tried_less_and_less() {
    let (mut rig, id, watch) = watched().await;
    let mut tries = 0;
    let began = Instant::now();
    hold(&mut rig, id).await;
    // There seems to be space, but each write fails: a quota, a volume of its own.
    while began.elapsed() < Duration::from_secs(3600) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !is_held(&rig, id) {
            tries += 1;
            hold(&mut rig, id).await;
        }
    }
    assert!((10..=20).contains(&tries), "{tries} tries in an hour");
    assert!(!watch.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_held_guest_can_be_stopped_and_one_found_at_the_start_is_helped_too() {
    let (mut rig, id, watch) = watched().await;
    fill(&rig);
    hold(&mut rig, id).await;
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    tokio::time::sleep(PACE * 2).await;
    assert!(rig.node.held.lines().is_empty());
    assert!(rig.ask(start_request(id)).await.success);
    watch.abort();
    // Nobody listens: as while the service was away.
    rig.sim.hold_behind(id, DISK);
    make_room(&rig);
    let _watch = tokio::spawn(keep(rig.node.clone()));
    tokio::time::sleep(PACE).await;
    assert!(!is_held(&rig, id));
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_or_resume_is_tried_again() {
    let (mut rig, id, _watch) = watched().await;
    rig.sim.fail_next(Operation::Resume, ErrorKind::Unknown);
    hold(&mut rig, id).await;
    assert!(is_held(&rig, id));
    rig.sim.disconnect("libvirtd restarts");
    rig.take_host_events().await;
    tokio::time::sleep(PACE * 3).await;
    assert_eq!(rig.node.held.lines().len(), 1, "it is not forgotten meanwhile");
    rig.sim.connect();
    rig.take_host_events().await;
    tokio::time::sleep(PACE * 2).await;
    assert!(!is_held(&rig, id));
}

#[test]
fn a_broken_device_is_no_matter_of_space() {
    let disk = |full| FailedDisk { path: "sda".into(), full };
    let held = |disks| HeldGuest { id: GuestId::from_bytes([1; 16]), disks };
    assert!(is_about_space(&held(vec![])) && is_about_space(&held(vec![disk(false), disk(true)])));
    assert!(!is_about_space(&held(vec![disk(false)])));
    assert!(reason(&held(vec![disk(false)])).contains("kernel's log"));
}
