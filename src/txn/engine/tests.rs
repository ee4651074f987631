use super::*;
use crate::host::sim::Operation;
use crate::model::GuestId;
use crate::proto::message::Key;
use crate::txn::testing::{about, create_request, start_request, stop_request, Rig, LINK, TIMEOUT};
use crate::txn::undo::{Step, Undo};

#[tokio::test(start_paused = true)]
async fn unknown_requests_and_requests_for_nobody_are_answered() {
    let mut rig = Rig::new().await;
    let unknown = rig.ask(Message::new(MessageId(0x00aa_bb00))).await;
    assert_eq!(unknown.id, MessageId(0x00aa_bb01));
    assert!(!unknown.success);
    assert!(unknown.error.contains("0x00AABB00"), "{}", unknown.error);
    let known_elsewhere = rig.ask(Message::new(MessageId::QUERY_GUEST_REQUEST)).await;
    assert!(known_elsewhere.error.contains("QueryGuestRequest"), "{}", known_elsewhere.error);
    let nobody = rig.ask(Message::new(MessageId::MIGRATE_INSTANCE_REQUEST).to_session(33)).await;
    assert!(nobody.error.contains("[00000021]"), "{}", nobody.error);
    // Contract §5.1: an answer has a session that is not 0, also one that no transaction gives; and nothing sent to it finds anybody.
    for answer in [&unknown, &known_elsewhere, &nobody] {
        assert_eq!(answer.from, NO_SESSION);
        let late = rig.ask(Message::new(MessageId::MIGRATE_INSTANCE_REQUEST).to_session(answer.from)).await;
        assert!(late.error.contains("no transaction of this cell waits"), "{}", late.error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_json_but_no_message_is_answered() {
    let mut rig = Rig::new().await;
    rig.engine.invalid(LINK, Some(MessageId::START_INSTANCE_REQUEST), 12, "a text stands where a number belongs");
    let answer = rig.answer(12).await;
    assert_eq!(answer.id, MessageId::START_INSTANCE_RESPONSE);
    assert!(answer.error.contains("a text stands where a number belongs"), "{}", answer.error);
    assert_ne!(answer.from, 0);
    rig.engine.invalid(LINK, None, 12, "no id");
    rig.engine.invalid(LINK, Some(MessageId::GUEST_STARTED_EVENT), 12, "an event");
    assert_eq!(rig.sent(), [], "nobody waits for an answer to these");
    rig.engine.invalid(LINK, Some(MessageId::COMPUTE_POOL_READY_EVENT), 13, "a broken event that is answered");
    assert_eq!(rig.answer(13).await.id, MessageId::COMPUTE_CELL_READY_EVENT);
}

#[tokio::test(start_paused = true)]
async fn every_handled_request_without_its_parameters_gets_a_failure_that_names_one() {
    for id in handlers::HANDLED {
        let mut rig = Rig::new().await;
        let before = rig.sim.state();
        let entry = handlers::find(*id).unwrap();
        let needs_nothing = [MessageId::GET_COMPUTE_POOL_CELL_REQUEST, MessageId::QUERY_CELL_STORAGE_REQUEST];
        if entry.answer.is_none() {
            rig.engine.request(LINK, Message::new(*id).from_session(1));
            rig.settle().await;
            assert_eq!(rig.sent(), [], "{id} has no answer");
            continue;
        }
        let answer = rig.ask(Message::new(*id)).await;
        assert_eq!(Some(answer.id), entry.answer);
        assert_eq!(answer.success, needs_nothing.contains(id), "{id}: {}", answer.error);
        if !answer.success {
            assert!(answer.error.contains("is missing"), "{id}: {}", answer.error);
            assert!(answer.error.contains(id.name().unwrap()), "{id}: {}", answer.error);
        }
        assert_eq!(rig.sim.state(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_parameter_of_the_wrong_type_is_named_as_such() {
    let mut rig = Rig::new().await;
    let answer = rig.ask(Message::new(MessageId::GET_GUEST_REQUEST).uint(Key::Instance, 5)).await;
    assert!(answer.error.contains("Instance(13) stands among the unsigned numbers, but a text is expected"), "{}", answer.error);
    let answer = rig.ask(Message::new(MessageId::GET_GUEST_REQUEST).string(Key::Instance, "../../etc/passwd")).await;
    assert!(answer.error.contains("is not a guest id"), "{}", answer.error);
}

#[tokio::test(start_paused = true)]
async fn a_full_table_refuses_at_once_and_recovers() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.sim.hang(id);
    for session in 1..=SESSIONS {
        rig.engine.request(LINK, stop_request(id, [0, 0]).from_session(session));
    }
    assert_eq!(rig.engine.active(), SESSIONS as usize);
    let refused = rig.ask(stop_request(id, [0, 0])).await;
    assert!(refused.error.contains("1024 sessions"), "{}", refused.error);
    assert_eq!(refused.from, NO_SESSION);
    assert!(rig.ask(about(MessageId::GET_GUEST_REQUEST, id)).await.success, "questions find a place of their own");
    rig.sim.release(id);
    rig.settle().await;
    let answers = rig.sent().into_iter().filter(|message| message.id == MessageId::STOP_INSTANCE_RESPONSE).count();
    assert_eq!(answers, SESSIONS as usize, "every request got exactly one answer");
    assert!(rig.ask(about(MessageId::GET_GUEST_REQUEST, id)).await.success);
}

#[tokio::test(start_paused = true)]
async fn a_late_transaction_is_answered_by_its_deadline_and_only_once() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    rig.sim.set_deadline(TIMEOUT * 10);
    rig.sim.set_latency(Operation::Start, TIMEOUT * 2);
    let begun = Instant::now();
    let answer = rig.ask(start_request(id)).await;
    assert!(!answer.success);
    assert_eq!(begun.elapsed(), TIMEOUT - TIMEOUT / 10);
    rig.settle().await;
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|message| message.id).collect::<Vec<_>>(), [MessageId::GUEST_STARTED_EVENT], "the Core learns how it ended");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_is_late_leaves_nothing_behind() {
    let mut rig = Rig::new().await;
    let (before, files) = (rig.sim.state(), rig.files());
    rig.sim.set_deadline(TIMEOUT * 10);
    rig.sim.set_latency(Operation::Define, TIMEOUT * 2);
    let answer = rig.ask(create_request(GuestId::from_bytes([1; 16]), "group.late")).await;
    assert!(!answer.success);
    rig.settle().await;
    assert_eq!(rig.sim.state(), before);
    assert_eq!(rig.files(), files);
    assert_eq!(rig.sent(), [], "no event about a guest that the Core gave up on");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_guest_delays_no_other() {
    let mut rig = Rig::new().await;
    let (stuck, other) = (rig.with_guest(1).await, rig.with_guest(2).await);
    assert!(rig.ask(start_request(stuck)).await.success);
    rig.sim.hang(stuck);
    rig.engine.request(LINK, stop_request(stuck, [0, 0]).from_session(5));
    let begun = Instant::now();
    assert!(rig.ask(start_request(other)).await.success);
    assert!(rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, other)).await.success);
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_closed_engine_refuses_new_requests_and_ends_the_old() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    rig.sim.set_latency(Operation::Start, TIMEOUT / 2);
    rig.engine.request(LINK, start_request(id).from_session(5));
    rig.engine.close();
    let refused = rig.ask(about(MessageId::GET_GUEST_REQUEST, id)).await;
    assert_eq!(refused.error, "this cell is shutting down");
    assert!(rig.answer(5).await.success);
}

/// A handler that is wrong.
fn broken(context: Arc<Context>) -> handlers::Work {
    Box::pin(async move {
        if context.request.from > 0 {
            panic!("a defect");
        }
        Ok(())
    })
}

/// A handler that forgets to answer.
fn silent(_: Arc<Context>) -> handlers::Work {
    Box::pin(async { Ok(()) })
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_or_forgets_to_answer_is_answered_for() {
    let mut rig = Rig::new().await;
    for (run, reason) in [(broken as fn(Arc<Context>) -> handlers::Work, "a handler panicked: a defect"), (silent, "without an answer")] {
        let session = rig.engine.sessions.allocate(true).unwrap();
        let entry = Entry { run, answer: Some(MessageId::GET_GUEST_RESPONSE), changes: false };
        rig.engine.run(entry, session, LINK, Message::new(MessageId::GET_GUEST_REQUEST).from_session(4));
        let answer = rig.answer(4).await;
        assert!(answer.error.contains(reason), "{}", answer.error);
        assert_eq!(rig.engine.active(), 0);
    }
}

/// A handler that breaks in the middle of a change.
fn breaks_off(context: Arc<Context>) -> handlers::Work {
    Box::pin(async move {
        let mut undo = Undo::new(&context, &[GuestId::from_bytes([1; 16])]);
        undo.plan(vec![Step::Volume { pool: "local0".into(), name: "left".into() }]).await?;
        context.node.host.storage.create_volume("local0", "left", 512).await?;
        if context.request.from > 0 {
            panic!("a defect");
        }
        undo.complete(context.success()).await
    })
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_leaves_is_taken_back_at_once() {
    let mut rig = Rig::new().await;
    let before = rig.sim.state();
    let session = rig.engine.sessions.allocate(true).unwrap();
    let entry = Entry { run: breaks_off, answer: Some(MessageId::GET_GUEST_RESPONSE), changes: true };
    rig.engine.run(entry, session, LINK, Message::new(MessageId::GET_GUEST_REQUEST).from_session(4));
    let answer = rig.answer(4).await;
    assert!(answer.error.contains("a handler panicked"), "{}", answer.error);
    assert_eq!(rig.sim.state(), before);
    assert!(rig.node.store.journal().open_records().is_empty());
}
