//! The bench and the replay against a Cell that does at once what it is asked for.
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

use cell::proto::message::{Message, MessageId};
use common::{core_with, guest_of, joining, obedient, FakeCell, PATIENCE};
use corelet::bench::{self, BenchError, Plan, Process, Storm};
use corelet::replay::{self, Options, Outcome};
use tokio_util::sync::CancellationToken;

const ADDRESSES: &str = include_str!("../../tests/vectors/addresses-messages.jsonl");

fn small_plan() -> Plan {
    Plan {
        guests: 3,
        keep: false,
        running: 1,
        parallel: 4,
        change_parallel: 2,
        duration: Duration::from_millis(30),
        idle: Duration::from_millis(10),
        cell_process: Some(Process::new(std::process::id()).unwrap()),
        libvirtd_process: None,
    }
}

fn guests_in(messages: &[Message], id: MessageId) -> Vec<cell::model::GuestId> {
    let mut guests: Vec<_> = messages.iter().filter(|message| message.id == id).map(guest_of).collect();
    guests.sort();
    guests
}

#[tokio::test]
async fn a_bench_measures_every_phase_and_removes_what_it_made() {
    let core = core_with(|_| {}).await;
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let mut told = Vec::new();
    let stop = CancellationToken::new();
    let report = bench::run(&core, "Cell_a", &small_plan(), &stop, &mut |text| told.push(text.to_owned())).await.unwrap();

    let phases: Vec<(&str, usize)> = report.lines.iter().map(|line| (line.name.as_str(), line.parallel)).collect();
    assert_eq!(
        phases,
        [
            ("create blank guest", 2),
            ("get guest", 1),
            ("get guest", 4),
            ("instance status, stopped", 1),
            ("instance status, stopped", 4),
            ("instance status, running", 1),
            ("instance status, running", 4),
            ("delete guest", 2),
        ]
    );
    for line in &report.lines {
        let latency = line.latency;
        assert!(latency.count > 0 && line.failures == 0 && line.rate > 0.0, "{line:?}");
        assert!(latency.p50_ms <= latency.p99_ms && latency.p99_ms <= latency.max_ms, "{line:?}");
    }
    assert_eq!((report.guests, report.idle.len(), report.memory.len()), (3, 1, 4));
    assert!(told.iter().any(|text| text.contains("get guest, 4 at a time")), "{told:?}");

    let messages = cell.received();
    let made = guests_in(&messages, MessageId::CREATE_GUEST_REQUEST);
    assert_eq!(made.len(), 3);
    assert_eq!(guests_in(&messages, MessageId::DELETE_GUEST_REQUEST), made);
    assert_eq!(guests_in(&messages, MessageId::STOP_INSTANCE_REQUEST), guests_in(&messages, MessageId::START_INSTANCE_REQUEST));
    core.close().await;
}

#[tokio::test]
async fn a_bench_that_is_called_off_removes_its_guests() {
    let core = core_with(|_| {}).await;
    let stop = CancellationToken::new();
    let brake = stop.clone();
    let answer = move |message: &Message| {
        if message.id == MessageId::GET_GUEST_REQUEST {
            brake.cancel();
        }
        obedient(message)
    };
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(answer)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let plan = Plan { duration: PATIENCE * 100, ..small_plan() };
    let outcome = bench::run(&core, "Cell_a", &plan, &stop, &mut |_| {}).await;
    assert!(matches!(outcome, Err(BenchError::Interrupted)), "{outcome:?}");
    assert_eq!(guests_in(&cell.received(), MessageId::DELETE_GUEST_REQUEST).len(), 3);
    core.close().await;
}

#[tokio::test]
async fn a_bench_of_a_cell_that_answers_nothing_fails_with_the_reason() {
    let core = core_with(|_| {}).await;
    let refuse = |message: &Message| match message.id {
        MessageId::GET_GUEST_REQUEST => vec![Message::new(message.id.response()).to_session(message.from).failed("not today")],
        _ => obedient(message),
    };
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(refuse)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let error = bench::run(&core, "Cell_a", &small_plan(), &CancellationToken::new(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(&error, BenchError::NoAnswer { source, .. } if source.to_string().contains("not today")), "{error:?}");
    assert!(core.cell("Cell_a").unwrap().guests.is_empty(), "also then");
    core.close().await;
}

#[tokio::test]
async fn a_replay_finds_what_differs_and_leaves_nothing_behind() {
    let core = core_with(|_| {}).await;
    let never_stops = |message: &Message| match message.id {
        MessageId::STOP_INSTANCE_REQUEST => {
            vec![Message::new(message.id.response()).from_session(3).to_session(message.from).failed("it hangs")]
        }
        MessageId::CREATE_GUEST_REQUEST => {
            let mut messages = obedient(message);
            messages.push(common::instance(MessageId::GUEST_STARTED_EVENT, guest_of(message)));
            messages
        }
        _ => obedient(message),
    };
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(never_stops)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let steps = replay::parse(ADDRESSES).unwrap();
    let mut told = 0;
    let results = replay::run(&core, "Cell_a", &steps, Options::default(), &CancellationToken::new(), &mut |_| told += 1).await;
    let outcomes: Vec<(&str, &Outcome)> = results.iter().map(|result| (result.request.as_str(), &result.outcome)).collect();
    assert_eq!(
        outcomes,
        [
            ("ComputePoolReadyEvent", &Outcome::Equal),
            ("CreateGuestRequest", &Outcome::Equal),
            ("StopInstanceRequest", &Outcome::Different { differences: vec!["it failed: it hangs".into()] }),
        ]
    );
    assert_eq!(told, 3);
    assert_eq!(guests_in(&cell.received(), MessageId::DELETE_GUEST_REQUEST).len(), 1);
    let last_pool = cell.received().into_iter().rfind(|message| message.id == MessageId::COMPUTE_POOL_READY_EVENT).unwrap();
    assert_eq!(last_pool.string_params[&cell::proto::message::Key::Network], "", "our own pool again");

    let skip = [MessageId::CREATE_GUEST_REQUEST];
    let results =
        replay::run(&core, "Cell_a", &steps, Options { skip: &skip, ..Options::default() }, &CancellationToken::new(), &mut |_| {}).await;
    assert!(results[1..].iter().all(|result| matches!(result.outcome, Outcome::Skipped { .. })), "{results:?}");
    core.close().await;
}

#[tokio::test]
async fn a_replay_names_what_the_cell_does_not_support() {
    let core = core_with(|_| {}).await;
    let refuse = |message: &Message| {
        let reason = format!("{} is not supported by this cell", message.id);
        vec![Message::new(message.id.response()).to_session(message.from).failed(reason)]
    };
    let _cell = FakeCell::connect(core.address(), "Cell_a", joining(refuse)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let steps = replay::parse(ADDRESSES).unwrap();
    let results = replay::run(&core, "Cell_a", &steps, Options::default(), &CancellationToken::new(), &mut |_| {}).await;
    assert!(matches!(results[1].outcome, Outcome::Unsupported { .. }), "{results:?}");
    core.close().await;
}

#[tokio::test]
async fn a_bench_leaves_its_guests_when_told_to() {
    let core = core_with(|_| {}).await;
    let cell = FakeCell::connect(core.address(), "Cell_a", joining(obedient)).await;
    core.wait_cell(None, PATIENCE).await.unwrap();
    let plan = Plan { keep: true, ..small_plan() };
    bench::run(&core, "Cell_a", &plan, &CancellationToken::new(), &mut |_| {}).await.unwrap();
    assert!(guests_in(&cell.received(), MessageId::DELETE_GUEST_REQUEST).is_empty());
    core.close().await;
}

/// More requests at once than a real Core has sessions; what is not answered is counted.
#[tokio::test]
async fn a_storm_counts_answers_by_kind_and_those_that_did_not_come() {
    let stuck = [1, 2].map(|number| cell::model::GuestId::from_bytes([number; 16]));
    let others = vec![cell::model::GuestId::from_bytes([9; 16])];
    let plan = Storm { requests: 1500, within: Duration::from_millis(100), slow: 300, stuck: stuck.to_vec(), others };
    for silent in [false, true] {
        let core =
            core_with(|config| (config.sessions, config.timeout) = (2000, if silent { Duration::from_secs(10) } else { PATIENCE })).await;
        let answer = move |message: &Message| match message.id {
            MessageId::STOP_INSTANCE_REQUEST if silent => Vec::new(),
            MessageId::STOP_INSTANCE_REQUEST => vec![Message::new(message.id.response()).to_session(message.from).failed("it hangs")],
            _ => obedient(message),
        };
        let cell = FakeCell::connect(core.address(), "Cell_a", joining(answer)).await;
        core.wait_cell(None, PATIENCE).await.unwrap();
        let report = bench::storm(&core, "Cell_a", &plan).await;
        assert_eq!((report.requests, report.successes, report.disconnects), (1500, 1200, 0), "{report:?}");
        assert_eq!(report.quick.map(|quick| quick.count), Some(1200));
        if silent {
            assert_eq!((report.unanswered, report.failures), (300, 0), "{report:?}");
            assert!(report.slow.is_none() && report.last_reason.is_some());
        } else {
            assert_eq!((report.unanswered, report.failures), (0, 300), "{report:?}");
            assert_eq!(report.slow.map(|slow| slow.count), Some(300));
        }
        assert_eq!(guests_in(&cell.received(), MessageId::STOP_INSTANCE_REQUEST).len(), 300);
        core.close().await;
    }
}
