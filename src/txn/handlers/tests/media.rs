//! Media in a guest's drive (contract §6.5, §7.10).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{guest, ids};
use crate::host::sim::{Effect, Fault, Operation};
use crate::host::ErrorKind;
use crate::model::{GuestId, Media, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, start_request, stop_request, Rig};

const FILE: &str = "/images/local0/.media/cd.iso";

async fn rig() -> Rig {
    let rig = Rig::new().await;
    rig.sim.put_media("cd", 1 << 20);
    rig.sim.put_media("other", 1 << 20);
    rig
}

fn on_server(request: Message, key: Key, id: &str) -> Message {
    request.string(key, id).string(Key::Host, "10.0.0.1").uint(Key::Port, 5801)
}

fn insert(id: GuestId, media: &str) -> Message {
    on_server(about(MessageId::INSERT_MEDIA_REQUEST, id), Key::Media, media)
}

fn eject(id: GuestId) -> Message {
    about(MessageId::EJECT_MEDIA_REQUEST, id)
}

fn start_with(id: GuestId, media: &str) -> Message {
    on_server(about(MessageId::START_INSTANCE_REQUEST, id), Key::Source, media).uint(Key::Option, 1)
}

async fn running(rig: &mut Rig, number: u8) -> GuestId {
    let id = rig.with_guest(number).await;
    assert!(rig.ask(start_request(id)).await.success);
    settled(rig).await;
    rig.sent();
    id
}

async fn settled(rig: &mut Rig) {
    rig.settle().await;
    rig.take_host_events().await;
}

fn drive(rig: &Rig, id: GuestId) -> Option<String> {
    rig.sim.state().domains[&id].media.clone()
}

fn noted(rig: &Rig, id: GuestId) -> Option<Media> {
    rig.node.books.guest(id).unwrap().config.media.clone()
}

async fn told(rig: &mut Rig, id: GuestId) -> Option<String> {
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    let source = status.string_params.get(&Key::Source).cloned();
    assert_eq!(status.bool_params[&Key::Media], source.is_some());
    source
}

#[tokio::test(start_paused = true)]
async fn media_are_inserted_told_written_down_and_ejected() {
    let mut rig = rig().await;
    let id = running(&mut rig, 1).await;
    let files = rig.files();
    let answer = rig.ask(insert(id, "cd")).await;
    assert!(answer.success && answer.id == MessageId::INSERT_MEDIA_RESPONSE, "{}", answer.error);
    rig.settle().await;
    let events = rig.sent();
    assert_eq!(ids(&events), [MessageId::MEDIA_ATTACHED_EVENT]);
    assert_eq!((events[0].string_params[&Key::Instance].clone(), events[0].string_params[&Key::Media].as_str()), (id.to_string(), "cd"));
    assert_eq!(drive(&rig, id).as_deref(), Some(FILE));
    assert_eq!(told(&mut rig, id).await.as_deref(), Some("cd"));
    let file: serde_json::Value = serde_json::from_str(&rig.files()["instance.data"]).unwrap();
    assert_eq!(file["instances"][0]["media"], serde_json::json!({"id": "cd", "file": FILE}), "it is known after a restart");
    let refused = rig.ask(insert(id, "other")).await;
    assert!(refused.error.contains("eject it first"), "{}", refused.error);

    let answer = rig.ask(eject(id)).await;
    assert!(answer.success && answer.id == MessageId::EJECT_MEDIA_RESPONSE, "{}", answer.error);
    rig.settle().await;
    assert_eq!(ids(&rig.sent()), [MessageId::MEDIA_DETACHED_EVENT]);
    assert_eq!((drive(&rig, id), noted(&rig, id), told(&mut rig, id).await), (None, None, None));
    assert_eq!(rig.files(), files);
    assert!(rig.sim.state().files.is_empty(), "nobody uses the file any more");
    assert!(rig.ask(eject(id)).await.error.contains("empty"));
}

#[tokio::test(start_paused = true)]
async fn a_guest_started_with_media_has_them_for_this_run_only() {
    let mut rig = rig().await;
    let id = rig.with_guest(1).await;
    let before = rig.sim.state().domains[&id].config.clone();
    let answer = rig.ask(start_with(id, "cd")).await;
    assert!(answer.success && answer.id == MessageId::START_INSTANCE_RESPONSE, "{}", answer.error);
    settled(&mut rig).await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STARTED_EVENT, MessageId::MEDIA_ATTACHED_EVENT]);
    assert_eq!((drive(&rig, id).as_deref(), told(&mut rig, id).await.as_deref()), (Some(FILE), Some("cd")));
    assert_eq!(rig.sim.state().domains[&id].config, before, "the definition has no media");
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    settled(&mut rig).await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STOPPED_EVENT, MessageId::MEDIA_DETACHED_EVENT]);
    assert_eq!(noted(&rig, id), None);
    assert!(rig.sim.state().files.is_empty());
    assert!(rig.ask(start_request(id)).await.success);
    assert_eq!(drive(&rig, id), None);
}

#[tokio::test(start_paused = true)]
async fn d2_a_guest_that_stops_by_itself_or_by_others_loses_its_media_and_can_be_given_new_ones() {
    let mut rig = rig().await;
    let id = running(&mut rig, 1).await;
    for by_itself in [true, false] {
        assert!(rig.ask(insert(id, "cd")).await.success);
        rig.settle().await;
        rig.sent();
        if by_itself {
            assert!(rig.ask(stop_request(id, [0, 0])).await.success);
            rig.next_host_event().await;
        } else {
            rig.sim.set_power_behind(id, false);
        }
        settled(&mut rig).await;
        assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STOPPED_EVENT, MessageId::MEDIA_DETACHED_EVENT]);
        assert_eq!((noted(&rig, id), rig.sim.state().files.len()), (None, 0));
        assert!(rig.ask(start_request(id)).await.success);
        settled(&mut rig).await;
        rig.sent();
    }
    assert!(rig.ask(insert(id, "cd")).await.success, "what was forgotten does not stand in the way");
}

#[tokio::test(start_paused = true)]
async fn d2_media_survive_a_restart_and_what_happened_meanwhile_is_found_out() {
    let mut rig = rig().await;
    let (kept, emptied, stopped) = (running(&mut rig, 1).await, running(&mut rig, 2).await, running(&mut rig, 3).await);
    for id in [kept, emptied, stopped] {
        assert!(rig.ask(insert(id, "cd")).await.success);
    }
    rig.settle().await;
    rig.sent();
    rig.sim.disconnect("restart");
    rig.sim.set_media_behind(emptied, None);
    rig.sim.set_power_behind(stopped, false);
    rig.sim.connect();
    settled(&mut rig).await;
    let events: Vec<(MessageId, String)> =
        rig.sent().into_iter().map(|event| (event.id, event.string_params[&Key::Instance].clone())).collect();
    let expected = [
        (MessageId::GUEST_STOPPED_EVENT, stopped.to_string()),
        (MessageId::MEDIA_DETACHED_EVENT, stopped.to_string()),
        (MessageId::MEDIA_DETACHED_EVENT, emptied.to_string()),
    ];
    assert_eq!(events, expected);
    assert_eq!(noted(&rig, kept).map(|media| media.id).as_deref(), Some("cd"));
    assert!(rig.sim.state().files.contains_key(FILE), "one guest still uses it");
    // A drive that can't be looked into is taken as it was.
    rig.sim.disconnect("again");
    rig.sim.fail_next(Operation::Media, ErrorKind::Failed);
    rig.sim.connect();
    settled(&mut rig).await;
    assert!(noted(&rig, kept).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_large_image_is_acknowledged_in_time_and_told_when_it_is_there() {
    let mut rig = rig().await;
    rig.sim.set_latency(Operation::FetchMedia, Duration::from_secs(60));
    let (id, other) = (running(&mut rig, 1).await, rig.with_guest(2).await);
    let begun = tokio::time::Instant::now();
    assert!(rig.ask(insert(id, "cd")).await.success);
    assert!(rig.ask(start_with(other, "other")).await.success);
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!((rig.sent(), drive(&rig, id)), (vec![], None));
    // It can be used meanwhile.
    assert!(rig.ask(stop_request(id, [1, 1])).await.success);
    settled(&mut rig).await;
    let sent: BTreeSet<MessageId> = ids(&rig.sent()).into_iter().collect();
    assert_eq!(sent, BTreeSet::from([MessageId::GUEST_STARTED_EVENT, MessageId::MEDIA_ATTACHED_EVENT]));
    assert!(drive(&rig, id).is_some() && drive(&rig, other).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_large_image_that_fails_late_leaves_nothing_and_the_guest_is_told_stopped() {
    let mut rig = rig().await;
    rig.sim.set_latency(Operation::FetchMedia, Duration::from_secs(60));
    let id = rig.with_guest(1).await;
    let state = rig.sim.state();
    rig.sim.fail_next(Operation::StartWithMedia, ErrorKind::Failed);
    assert!(rig.ask(start_with(id, "cd")).await.success);
    settled(&mut rig).await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STOPPED_EVENT]);
    assert_eq!(rig.sim.state(), state);
    // A server of which nothing comes is a failure in time.
    rig.sim.set_latency(Operation::FetchMedia, Duration::from_secs(600));
    let begun = tokio::time::Instant::now();
    let answer = rig.ask(start_with(id, "cd")).await;
    assert!(!answer.success && answer.error.contains("nothing of media image cd came"), "{}", answer.error);
    assert!(begun.elapsed() < Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_possible_is_refused_before_anything_is_fetched() {
    let mut rig = rig().await;
    let (stopped, runs) = (rig.with_guest(1).await, running(&mut rig, 2).await);
    let state = rig.sim.state();
    let begun = rig.sim.operations();
    let cases = [
        (insert(stopped, "cd"), "not running"),
        (eject(stopped), "not running"),
        (eject(runs), "empty"),
        (start_with(runs, "cd"), "already running"),
        (insert(guest(9), "cd"), "no guest"),
        (start_with(guest(9), "cd"), "no guest"),
        (insert(runs, "../x"), "Media"),
        (insert(runs, "cd").uint(Key::Port, 0), "Port"),
        (insert(runs, "cd").string(Key::Host, "a/b"), "Host"),
    ];
    for (request, why) in cases {
        let answer = rig.ask(request.clone()).await;
        assert!(!answer.success && answer.error.contains(why), "{}: {}", request.id, answer.error);
    }
    assert_eq!((rig.sim.state(), rig.sim.operations()), (state.clone(), begun));
    for request in [insert(runs, "none"), start_with(stopped, "none")] {
        let answer = rig.ask(request).await;
        assert!(!answer.success && answer.error.contains("refuses"), "{}", answer.error);
    }
    assert_eq!(rig.sim.state(), state);
}

#[tokio::test(start_paused = true)]
async fn a1_a_missing_parameter_is_a_failure_that_names_it() {
    let mut rig = rig().await;
    let (stopped, runs) = (rig.with_guest(1).await, running(&mut rig, 2).await);
    for request in [insert(runs, "cd"), eject(runs), start_with(stopped, "cd")] {
        for key in request.string_params.keys().chain(request.uint_params.keys()).copied().collect::<Vec<_>>() {
            let mut cut = request.clone();
            cut.string_params.remove(&key);
            cut.uint_params.remove(&key);
            let answer = rig.ask(cut).await;
            assert!(!answer.success && answer.error.contains(&key.to_string()), "{} without {key}: {}", request.id, answer.error);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d23_a_change_that_fails_at_any_step_leaves_everything_as_it_was() {
    for (what, steps) in [("insert", 2), ("eject", 1), ("start", 3)] {
        for step in 1..=steps {
            for effect in [Effect::None, Effect::Done] {
                for kind in [ErrorKind::Failed, ErrorKind::Unsupported] {
                    // A start whose outcome is not known may well be one: that is told by libvirt's event.
                    if what == "start" && step == 3 && effect == Effect::Done {
                        continue;
                    }
                    let case = format!("{what} {step} {effect:?} {kind:?}");
                    let mut rig = rig().await;
                    let id = if what == "start" { rig.with_guest(1).await } else { running(&mut rig, 1).await };
                    if what == "eject" {
                        assert!(rig.ask(insert(id, "cd")).await.success);
                        rig.settle().await;
                    }
                    rig.sent();
                    let (state, files) = (rig.sim.state(), rig.files());
                    let request = match what {
                        "insert" => insert(id, "cd"),
                        "eject" => eject(id),
                        _ => start_with(id, "cd"),
                    };
                    rig.sim.fail_at(step, Fault { kind, effect });
                    let answer = rig.ask(request.clone()).await;
                    assert!(!answer.success, "{case}");
                    settled(&mut rig).await;
                    // What was fetched for a failure is no part of a guest; it is removed with the next change.
                    let mut after = rig.sim.state();
                    if what != "eject" {
                        after.files.clear();
                    }
                    assert_eq!((after, rig.files()), (state, files), "{case}");
                    assert_eq!(rig.sent(), [], "{case}: no event");
                    assert!(rig.ask(request).await.success, "{case}: it can be asked for again");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_written_down_is_taken_back() {
    for inserted in [false, true] {
        let mut rig = rig().await;
        let id = running(&mut rig, 1).await;
        if inserted {
            assert!(rig.ask(insert(id, "cd")).await.success);
            rig.settle().await;
        }
        rig.sent();
        let before = (drive(&rig, id), noted(&rig, id));
        std::fs::create_dir(rig.directory.path().join("instance.data.tmp")).unwrap();
        let request = if inserted { eject(id) } else { insert(id, "cd") };
        let answer = rig.ask(request).await;
        assert!(!answer.success && answer.error.contains("data"), "{}", answer.error);
        settled(&mut rig).await;
        assert_eq!((drive(&rig, id), noted(&rig, id)), before);
        assert_eq!((rig.sent(), rig.node.books.guest(id).unwrap().power), (vec![], PowerState::Running));
    }
}
