//! A Core and Cells that speak the real protocol, over loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod common;

use std::time::Duration;

use cell::proto::message::{Key, Message, MessageId};
use common::{core_with, empty_ready, guest_of, instance, joining, obedient, success, FakeCell, PATIENCE};
use corelet::requests::{self, CreateGuest, StopMode};
use corelet::{CellState, CreateError, Event, RequestError, WaitError};

#[tokio::test]
async fn a_cell_joins_lives_and_leaves() {
    let core = core_with(|_| {}).await;
    let mut events = core.all_events();
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    let joined = core.wait_cell(None, PATIENCE).await.unwrap();
    assert_eq!((joined.name.as_str(), joined.state), ("Cell_a", CellState::Ready));
    assert_eq!(cell.received()[0], requests::pool_ready(&core.config().pool, true).from_session(2), "the first session is 2");

    cell.leave().await;
    let left = events.wait(PATIENCE, |event| matches!(event, Event::CellLeft { .. })).await.unwrap();
    assert!(matches!(left.event, Event::CellLeft { graceful: true, .. }), "{left:?}");
    assert_eq!(core.cell("Cell_a").unwrap().state, CellState::Left { graceful: true });
    core.close().await;
}

#[tokio::test]
async fn a_guest_lives_its_life() {
    let core = core_with(|_| {}).await;
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    core.wait_cell(Some("Cell_a"), PATIENCE).await.unwrap();
    let mut events = core.events();

    let guest = core.create_and_wait("Cell_a", &CreateGuest::blank("manager.one", 1 << 20), PATIENCE).await.unwrap();
    assert_eq!((guest.created, guest.running, guest.monitor_port), (true, false, 5901));
    core.start_guest("Cell_a", guest.id).await.unwrap();
    events.wait(PATIENCE, |event| event.is_started(guest.id)).await.unwrap();
    assert!(core.guest("Cell_a", guest.id).unwrap().running);
    core.stop_guest("Cell_a", guest.id, StopMode::Force).await.unwrap();
    events.wait(PATIENCE, |event| event.is_stopped(guest.id)).await.unwrap();
    core.delete_guest("Cell_a", guest.id).await.unwrap();
    events.wait(PATIENCE, |event| event.is_deleted(guest.id)).await.unwrap();
    assert_eq!(core.guest("Cell_a", guest.id), None);
    core.close().await;
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason_and_leaves_nothing_in_the_books() {
    let core = core_with(|_| {}).await;
    let refuse = |message: &Message| vec![Message::new(message.id.response()).to_session(message.from).failed("disk full")];
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(refuse)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let error = core.create("Cell_a", &CreateGuest::blank("manager.one", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "Cell_a refused CreateGuestRequest (0x00000500): disk full");
    assert!(core.cell("Cell_a").unwrap().guests.is_empty());
    core.close().await;
}

#[tokio::test]
async fn a_creation_that_fails_later_is_told() {
    let core = core_with(|_| {}).await;
    let fail_later = |message: &Message| {
        vec![success(message), instance(MessageId::GUEST_UPDATED_EVENT, guest_of(message)).failed("the image is corrupt")]
    };
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(fail_later)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let error = core.create_and_wait("Cell_a", &CreateGuest::blank("manager.one", 1), PATIENCE).await.unwrap_err();
    assert!(matches!(&error, CreateError::Failed { reason, .. } if reason == "the image is corrupt"), "{error}");
    assert!(core.cell("Cell_a").unwrap().guests.is_empty());
    core.close().await;
}

#[tokio::test]
async fn a_silent_cell_is_a_timeout_and_its_late_answer_is_ignored() {
    let core = core_with(|_| {}).await;
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(|_| Vec::new())).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let mut events = core.events();
    let asked = core.exchange_within("Cell_a", requests::query_storage("Cell_a"), Duration::from_millis(100));
    let error = asked.await.unwrap_err();
    assert!(matches!(error, RequestError::Timeout { id: MessageId::QUERY_CELL_STORAGE_REQUEST, .. }), "{error}");
    let request = cell.received().pop().unwrap();
    cell.send(success(&request));
    let ignored = events.wait(PATIENCE, |event| matches!(event, Event::Ignored { .. })).await.unwrap();
    assert!(matches!(ignored.event, Event::Ignored { id: Some(MessageId::QUERY_CELL_STORAGE_RESPONSE), .. }), "{ignored:?}");
    core.close().await;
}

#[tokio::test]
async fn the_first_message_with_the_session_is_the_answer_whatever_its_id() {
    let core = core_with(|_| {}).await;
    let odd = |message: &Message| vec![Message::new(MessageId::RESIZE_DISK_RESPONSE).succeeded().to_session(message.from)];
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(odd)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let answer = core.request("Cell_a", Message::new(MessageId::SHRINK_DISK_REQUEST)).await.unwrap();
    assert_eq!(answer.id, MessageId::RESIZE_DISK_RESPONSE);
    core.close().await;
}

#[tokio::test]
async fn requests_to_a_cell_that_goes_away_end_with_it() {
    let core = core_with(|_| {}).await;
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(|_| Vec::new())).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let (outcome, ()) = tokio::join!(core.request("Cell_a", requests::query_storage("Cell_a")), cell.leave());
    assert!(matches!(outcome, Err(RequestError::Gone { .. })), "{outcome:?}");
    let error = core.request("Cell_a", requests::query_storage("Cell_a")).await.unwrap_err();
    assert_eq!(error.to_string(), "no Cell named Cell_a is connected");
    core.close().await;
}

#[tokio::test]
async fn guests_are_imported_from_the_ready_event() {
    let core = core_with(|_| {}).await;
    let captured = captured_ready();
    let answer = move |message: &Message| vec![captured.clone().to_session(message.from)];
    let _cell = FakeCell::connect(core.address(), "Cell_a", answer).await;
    let cell = core.wait_cell(None, PATIENCE).await.unwrap();
    assert_eq!(cell.guests.len(), 5);
    let web = cell.guests.values().find(|guest| guest.name == "manager.web").unwrap();
    assert_eq!((web.cores, web.memory, web.auto_start, web.running), (2, 134_217_728, true, false));
    assert_eq!(web.disks, [67_108_864, 33_554_432]);
    assert_eq!(web.limits, [16_777_216, 8_388_608, 600, 500, 0, 0]);
    core.close().await;
}

/// The ready event of `addresses-messages.jsonl`.
fn captured_ready() -> Message {
    let capture = include_str!("../../tests/vectors/addresses-messages.jsonl");
    let lines = capture.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let messages = lines.map(|line| serde_json::from_value::<Message>(line["message"].clone()).unwrap());
    messages.into_iter().find(|message| message.id == MessageId::COMPUTE_CELL_READY_EVENT).unwrap()
}

#[tokio::test]
async fn a_ready_event_that_would_crash_the_real_core_is_refused_with_the_reason() {
    let core = core_with(|_| {}).await;
    let short = |message: &Message| vec![empty_ready(message).uint(Key::Count, 1)];
    let _cell = FakeCell::connect(core.address(), "Cell_a", short).await;
    let error = core.wait_cell(None, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(&error, WaitError::PoolRefused { reason, .. } if reason.contains("is missing")), "{error}");
    core.close().await;
}

#[tokio::test]
async fn the_second_connection_of_a_name_is_swallowed_as_by_the_real_core() {
    let core = core_with(|_| {}).await;
    let _first = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let mut events = core.events();
    let second = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    events.wait(PATIENCE, |event| matches!(event, Event::CellSwallowed { .. })).await.unwrap();
    assert_eq!(second.received(), [], "not even its pool");
    second.leave().await;
    events.wait(PATIENCE, |event| matches!(event, Event::CellLeft { .. })).await.unwrap();
    core.close().await;
}

#[tokio::test]
async fn without_that_quirk_the_newer_connection_counts() {
    let core = core_with(|config| config.swallow_same_name = false).await;
    let first = FakeCell::connect(core.address(), "Cell_a", joining(|_| Vec::new())).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    first.kill();
    let mut events = core.events();
    let _second = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    events.wait(PATIENCE, |event| matches!(event, Event::CellReady { .. })).await.unwrap();
    core.request("Cell_a", requests::query_storage("Cell_a")).await.unwrap(); // the first one answers nothing
    core.close().await;
}

#[tokio::test]
async fn a_thousand_requests_at_once_get_their_own_answers() {
    let core = core_with(|_| {}).await;
    let echo = |message: &Message| vec![success(message).string(Key::Path, &message.string_params[&Key::Path])];
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(echo)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let core = std::sync::Arc::new(core);
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let core = core.clone();
        requests.spawn(async move {
            let path = number.to_string();
            let answer = core.request("Cell_a", requests::modify_storage("Cell_a", &path)).await.unwrap();
            assert_eq!(answer.string_params[&Key::Path], path);
        });
    }
    while let Some(done) = requests.join_next().await {
        done.unwrap();
    }
}
