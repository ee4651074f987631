use std::sync::Arc;

use tokio::time::Instant;

use super::*;
use crate::host::sim::{Operation, SimHost};
use crate::host::ErrorKind;
use crate::model::SessionId;
use crate::proto::message::{Key, MessageId};
use crate::txn::testing::{about, create_request, Rig, LINK, TIMEOUT};

/// A transaction of a test's own.
fn context(rig: &Rig) -> Arc<Context> {
    let request = Message::new(MessageId::RESIZE_DISK_REQUEST).from_session(5);
    let answer = Some(MessageId::RESIZE_DISK_RESPONSE);
    Arc::new(Context::new(rig.node.clone(), SessionId(2), LINK, request, answer, Instant::now() + TIMEOUT))
}

fn volume(name: &str) -> Step {
    Step::Volume { pool: "local0".into(), name: name.into() }
}

async fn make(sim: &SimHost, name: &str) {
    sim.host().storage.create_volume("local0", name, 512).await.unwrap();
}

fn names(rig: &Rig) -> Vec<String> {
    rig.sim.state().directories["/images/local0"].keys().cloned().collect()
}

fn guest() -> GuestId {
    GuestId::from_bytes([1; 16])
}

#[tokio::test(start_paused = true)]
async fn steps_run_backwards_and_one_that_fails_does_not_stop_the_others() {
    let rig = Rig::new().await;
    let mut undo = Undo::new(&context(&rig), &[guest()]);
    undo.plan(vec![volume("1"), volume("2"), volume("3")]).await.unwrap();
    for name in ["1", "2", "3"] {
        make(&rig.sim, name).await;
    }
    rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Failed);
    let failure = undo.run(Failure::refused("why")).await;
    assert_eq!(failure.to_string(), "why; taking it back failed as well: volume 3 in pool local0", "the last is the first");
    assert_eq!(names(&rig), ["3"]);
    let left = rig.node.store.journal().open_records();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].intent.steps[0].about, "volume 3 in pool local0");
    assert_eq!(left[0].intent.steps.len(), 1, "what is taken back is not in it any more");
    settle(&rig.node, &[guest()]).await.unwrap();
    assert!(names(&rig).is_empty() && rig.node.store.journal().open_records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_clean_way_back_keeps_the_cause_and_leaves_no_record() {
    let rig = Rig::new().await;
    let mut undo = Undo::new(&context(&rig), &[guest()]);
    undo.plan(vec![volume("1")]).await.unwrap();
    assert!(matches!(undo.run(Failure::Expired).await, Failure::Expired));
    assert!(rig.node.store.journal().open_records().is_empty());
    let undo = Undo::new(&context(&rig), &[guest()]);
    assert!(matches!(undo.run(Failure::Expired).await, Failure::Expired), "nothing was announced");
}

#[tokio::test(start_paused = true)]
async fn a_success_is_told_only_when_nobody_was_told_a_failure() {
    let rig = Rig::new().await;
    let context = context(&rig);
    let mut undo = Undo::new(&context, &[guest()]);
    undo.plan(vec![volume("1")]).await.unwrap();
    assert!(context.fail("too late"));
    assert!(matches!(undo.complete(context.success()).await, Err(Failure::Expired)));
    undo.run(Failure::Expired).await;
    assert_eq!(rig.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_announced_or_made_durable_is_a_failure_that_says_so() {
    let rig = Rig::new().await;
    let full = crate::store::testing::Refusal { first: 1, count: u64::MAX, errno: nix::errno::Errno::ENOSPC };
    let context = context(&rig);
    let mut undo = Undo::new(&context, &[guest()]);
    undo.plan(vec![volume("1")]).await.unwrap();
    make(&rig.sim, "1").await;
    rig.disk.refuse(Some(full));
    let failure = undo.complete(context.success()).await.unwrap_err();
    assert!(failure.to_string().contains("free space"), "{failure}");
    assert!(!context.is_answered(), "the failure is still to be told");
    undo.run(failure).await;
    assert!(names(&rig).is_empty());
    let mut next = Undo::new(&context, &[guest()]);
    let failure = next.plan(vec![volume("2")]).await.unwrap_err();
    assert!(failure.to_string().contains("journal.data"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_after_a_success_stays_on_record_until_it_is_done() {
    let rig = Rig::new().await;
    let context = context(&rig);
    make(&rig.sim, "old").await;
    let mut undo = Undo::new(&context, &[guest()]);
    undo.plan(vec![volume("1")]).await.unwrap();
    undo.afterwards(Step::Needless { path: "/images/local0/old".into() });
    undo.complete(context.success()).await.unwrap();
    rig.sim.fail_next(Operation::RemoveFile, ErrorKind::Failed);
    undo.finish().await;
    assert_eq!(names(&rig), ["old"]);
    settle(&rig.node, &[guest()]).await.unwrap();
    assert!(names(&rig).is_empty(), "it is not taken back, but completed");
}

#[tokio::test(start_paused = true)]
async fn what_would_fail_again_and_again_is_told_and_not_kept() {
    let rig = Rig::new().await;
    let mut undo = Undo::new(&context(&rig), &[guest()]);
    undo.plan(vec![volume("1")]).await.unwrap();
    rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Unsupported);
    assert!(matches!(undo.run(Failure::Expired).await, Failure::NotUndone { .. }));
    assert!(rig.node.store.journal().open_records().is_empty());
}

/// What is left of an earlier change is cleaned up before the guest is changed again, or nothing begins; it can always be deleted.
#[tokio::test(start_paused = true)]
async fn a_guest_with_something_left_is_cleaned_up_first() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let mut undo = Undo::new(&context(&rig), &[id]);
    undo.plan(vec![volume("left")]).await.unwrap();
    make(&rig.sim, "left").await;
    drop(undo);
    let grow = || {
        let request = Message::new(MessageId::RESIZE_DISK_REQUEST).string(crate::proto::message::Key::Guest, id.to_string());
        request.uint(crate::proto::message::Key::Disk, 0).uint(crate::proto::message::Key::Size, 80 << 20)
    };
    for _ in 0..2 {
        rig.sim.fail_next(Operation::DeleteVolume, ErrorKind::Failed);
        let answer = rig.ask(grow()).await;
        assert!(answer.error.contains("an earlier change has to be cleaned up first"), "{}", answer.error);
        assert!(answer.error.contains("volume left in pool local0"), "{}", answer.error);
    }
    let answer = rig.ask(crate::txn::testing::start_request(id)).await;
    assert!(answer.success, "{}", answer.error);
    assert_eq!(names(&rig).len(), 2);
    assert!(rig.ask(grow()).await.success);
}

#[tokio::test(start_paused = true)]
async fn a_guest_with_something_left_can_be_deleted() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let mut undo = Undo::new(&context(&rig), &[id]);
    undo.plan(vec![Step::Merge { path: format!("/images/local0/{id}_sys.qcow2") }]).await.unwrap();
    drop(undo);
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    assert!(answer.success, "{}", answer.error);
    assert!(rig.node.store.journal().open_records().is_empty());
}

/// Under another name an image is not asked for what it held before the merge.
#[tokio::test(start_paused = true)]
async fn a_merge_is_taken_back_once_the_images_have_their_names_again() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let snapshot = about(MessageId::CREATE_SNAPSHOT_REQUEST, id).string(Key::Name, "s1").string(Key::Description, "");
    assert!(rig.ask(snapshot).await.success);
    rig.settle().await;
    let (top, base) = (format!("/images/local0/{id}_sys.qcow2"), format!("/images/local0/{id}_s1_sys.qcow2"));
    let aside = format!("{top}.old");
    rig.sim.write_block(&top, 1, 5);
    let (before, disks) = (rig.sim.state(), &rig.node.host.disks);
    let mut undo = Undo::new(&context(&rig), &[id]);
    let renamed = Step::Aside { path: top.clone(), new: Some(base.clone()), aside: aside.clone() };
    undo.plan(vec![Step::Merge { path: base.clone() }, renamed]).await.unwrap();
    disks.merge(&top, &base).await.unwrap();
    disks.replace(&top, &base, &aside).await.unwrap();
    rig.sim.fail_next(Operation::PutBack, ErrorKind::Failed);
    undo.run(Failure::Expired).await;
    assert_eq!(rig.node.store.journal().open_records()[0].intent.steps.len(), 2, "neither is done");
    settle(&rig.node, &[id]).await.unwrap();
    assert_eq!(rig.sim.state(), before);
    assert!(rig.node.store.journal().open_records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_guest_takes_nothing_along_that_is_about_others() {
    let mut rig = Rig::new().await;
    let (gone, other) = (rig.with_guest(1).await, rig.with_guest(2).await);
    let leaving = |id| {
        let config = crate::model::GuestConfig { id, ..config() };
        let (group, directory) = (crate::model::VolumeGroup::default(), "/pools/nas".into());
        Step::Leave(Box::new(Leaving { config, group, resource: None, directory, tenure: 1, ran: true, boot: "b".into() }))
    };
    for guests in [vec![gone, other], vec![gone]] {
        let mut undo = Undo::new(&context(&rig), &guests);
        undo.plan(guests.iter().map(|id| leaving(*id)).collect()).await.unwrap();
        drop(undo);
    }
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, gone)).await;
    assert!(answer.success, "{}", answer.error);
    let left = rig.node.store.journal().open_records();
    assert_eq!(left.len(), 1, "{left:?}");
    let about: Vec<&str> = left[0].intent.steps.iter().map(|step| step.about.as_str()).collect();
    assert_eq!((about, left[0].running), (vec![format!("departure of guest {other}").as_str()], false));
}

/// What is there already is not ours to remove when the create fails.
#[tokio::test(start_paused = true)]
async fn a_create_touches_nothing_that_is_there_under_its_id() {
    let mut rig = Rig::new().await;
    let name = format!("{}_sys.qcow2", guest());
    make(&rig.sim, &name).await;
    let answer = rig.ask(create_request(guest(), "g.a")).await;
    assert!(answer.error.contains(&name), "{}", answer.error);
    assert_eq!(names(&rig), std::slice::from_ref(&name));
    rig.sim.host().storage.delete_volume("local0", &name).await.unwrap();
    let foreign = crate::model::GuestConfig { name: "foreign".into(), ..config() };
    rig.sim.host().hypervisor.define(&foreign).await.unwrap();
    let answer = rig.ask(create_request(guest(), "g.a")).await;
    assert!(answer.error.contains("'foreign'"), "{}", answer.error);
    assert!(rig.sim.state().domains.contains_key(&guest()));
}

fn config() -> crate::model::GuestConfig {
    serde_json::from_value(serde_json::json!({
        "name": "x", "id": guest(), "cores": 1, "memory": 1 << 20, "monitor_port": 5901
    }))
    .unwrap()
}

#[test]
fn a_step_comes_back_from_the_journal_as_it_was() {
    let steps = [
        Step::Aside { path: "/a".into(), new: None, aside: "/b".into() },
        Step::Leave(Box::new(Leaving {
            config: config(),
            group: crate::model::VolumeGroup::default(),
            resource: None,
            directory: "/pools/nas".into(),
            tenure: u64::MAX,
            ran: true,
            boot: "b".into(),
        })),
        Step::Written { setting: crate::txn::setting::Setting::DiskLimits, config: Box::new(config()) },
    ];
    for step in steps {
        let written = step.written().unwrap();
        assert!(Step::read(&written).unwrap() == step, "{step}");
    }
    let unknown = crate::store::journal::Step::new("the moon".into(), &serde_json::json!({ "step": "fetch_moon" })).unwrap();
    let failure = Step::read(&unknown).err().unwrap().to_string();
    assert!(failure.contains("'the moon' is of another version"), "{failure}");
}
