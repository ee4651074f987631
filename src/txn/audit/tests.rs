use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::host::sim::Operation;
use crate::host::ErrorKind;
use crate::txn::testing::pair::{detach_request, Pair};
use crate::txn::testing::{about, create_request, start_request, Rig, LINK};
use crate::txn::Engine;

#[derive(Default)]
struct Lines(Mutex<Vec<Value>>);

impl AuditLog for Lines {
    fn note(&self, record: &Record) -> oneshot::Receiver<()> {
        self.0.lock().push(serde_json::to_value(record).unwrap());
        oneshot::channel().1
    }
}

impl Lines {
    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.0.lock())
    }
}

fn audit(rig: &mut Rig) -> Arc<Lines> {
    let lines = Arc::<Lines>::default();
    *rig.engine = Engine::new(rig.node.clone(), Duration::from_secs(10)).audited(lines.clone());
    rig.engine.joined(Asker { name: "Core_1".into(), address: "10.0.0.1:5600".parse().unwrap() });
    lines
}

#[tokio::test(start_paused = true)]
async fn a_change_gives_one_record_and_a_query_none() {
    let mut rig = Rig::new().await;
    let lines = audit(&mut rig);
    let id = rig.with_guest(1).await;
    rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    let records = lines.take();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record["message"], "CreateGuestRequest");
    assert_eq!(record["core"], serde_json::json!({ "name": "Core_1", "address": "10.0.0.1:5600" }));
    assert_eq!(record["core_session"], 900);
    assert_eq!((&record["guest"], &record["guest_name"]), (&Value::from(id.to_string()), &Value::from("group.guest1")));
    assert_eq!((&record["outcome"], record["parameters"]["disk"][0].as_u64()), (&Value::from("done"), Some(64 << 20)));
    assert_eq!(record["transaction"].as_str().unwrap().len(), 8);
    assert!(chrono::DateTime::parse_from_rfc3339(record["time"].as_str().unwrap()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failed_change_is_told_only_where_it_would_have_destroyed_something() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let lines = audit(&mut rig);
    let absent = GuestId::from_bytes([9; 16]);
    assert!(!rig.ask(start_request(absent)).await.success);
    assert!(!rig.ask(about(MessageId::DELETE_GUEST_REQUEST, absent)).await.success);
    rig.sim.fail_next(Operation::Undefine, ErrorKind::Failed);
    assert!(!rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    rig.settle().await;
    let outcomes: Vec<_> =
        lines.take().iter().map(|line| (line["message"].clone(), line["outcome"].clone(), line["reason"].is_string())).collect();
    let delete = |outcome: &str| (Value::from("DeleteGuestRequest"), Value::from(outcome), true);
    assert_eq!(outcomes, [delete("refused"), delete("failed")]);
}

#[tokio::test(start_paused = true)]
async fn a_destructive_request_that_was_never_begun_is_told_too() {
    let mut rig = Rig::new().await;
    let lines = audit(&mut rig);
    rig.engine.close();
    rig.engine.request(LINK, about(MessageId::DELETE_GUEST_REQUEST, GuestId::from_bytes([1; 16])).from_session(5));
    rig.engine.request(LINK, start_request(GuestId::from_bytes([1; 16])).from_session(6));
    let records = lines.take();
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["outcome"], records[0].get("transaction")), (&Value::from("refused"), None));
    assert!(records[0]["reason"].as_str().unwrap().contains("shutting down"));
}

#[tokio::test(start_paused = true)]
async fn a_purge_names_every_guest_and_what_was_done_to_it() {
    let mut pair = Pair::new().await;
    let shared = pair.b.with_guest(1).await;
    let lines = audit(&mut pair.b);
    let answer = pair.b.ask(detach_request(&[])).await;
    assert!(answer.success, "{}", answer.error);
    pair.b.settle().await;
    let records = lines.take();
    let [record] = &records[..] else { panic!("{records:?}") };
    let guests = serde_json::json!([{ "id": shared.to_string(), "name": "group.guest1", "done": "removed" }]);
    assert_eq!((&record["guests"], &record["outcome"]), (&guests, &Value::from("done")));

    pair.b.engine.request(LINK, Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT));
    pair.b.settle().await;
    let records = lines.take();
    assert_eq!((records.len(), &records[0]["message"]), (1, &Value::from("ComputeCellRemovedEvent")));
    assert_eq!(records[0]["guests"], serde_json::json!([]));
}

#[tokio::test(start_paused = true)]
async fn secrets_and_unknown_parameters_stay_out_and_texts_are_bounded() {
    let mut rig = Rig::new().await;
    let lines = audit(&mut rig);
    let id = GuestId::from_bytes([1; 16]);
    let request =
        create_request(id, "group.vm").string(Key::Secret, "m4rk3r").string(Key(4000), "m4rk3r").string(Key::Pool, "p".repeat(100_000));
    assert!(rig.ask(request).await.success);
    rig.settle().await;
    let text = format!("{:?}", lines.take());
    assert!(text.contains("group.vm") && !text.contains("m4rk3r") && text.len() < 4000, "{text}");
}

/// The trail takes its time, and the process dies meanwhile: the next run tells.
#[tokio::test(start_paused = true)]
async fn a_change_that_could_not_be_noted_before_the_process_died_is_noted_by_the_next_one() {
    #[derive(Default)]
    struct Never(Mutex<Vec<oneshot::Sender<()>>>);
    impl AuditLog for Never {
        fn note(&self, _: &Record) -> oneshot::Receiver<()> {
            let (sender, receiver) = oneshot::channel();
            self.0.lock().push(sender);
            receiver
        }
    }
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    *rig.engine = Engine::new(rig.node.clone(), Duration::from_secs(10)).audited(Arc::<Never>::default());
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    let lines = Arc::<Lines>::default();
    let Ok(rig) = rig.reboot_with(lines.clone()).await else { unreachable!("nothing kills it") };
    let records = lines.take();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (&record["message"], &record["guest"], &record["outcome"]),
        (&"DeleteGuestRequest".into(), &id.to_string().into(), &"done".into())
    );
    assert!(record["reason"].as_str().unwrap().contains("it is completed now"), "{record}");
    assert!(rig.node.store.journal().open_records().is_empty());
}
