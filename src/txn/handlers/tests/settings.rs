//! Settings of a guest (contract §6.3).

use std::collections::BTreeSet;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use super::guest;
use crate::host::sim::{Effect, Fault, Operation};
use crate::host::ErrorKind;
use crate::model::{GuestConfig, GuestId, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{create_request, start_request, stop_request, Rig};

fn about(request: MessageId, id: GuestId) -> Message {
    Message::new(request).string(Key::Guest, id.to_string())
}

/// Every change of a setting that goes through libvirt's definition, different from what [`create_request`] asks for.
fn changes(id: GuestId) -> Vec<Message> {
    vec![
        about(MessageId::MODIFY_CORE_REQUEST, id).uint(Key::Core, 3),
        about(MessageId::MODIFY_MEMORY_REQUEST, id).uint(Key::Memory, 128 << 20),
        about(MessageId::MODIFY_PRIORITY_REQUEST, id).uint(Key::Priority, 2),
        about(MessageId::MODIFY_DISK_THRESHOLD_REQUEST, id).uints(Key::Limit, [10, 20, 30, 40]),
        about(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST, id).uints(Key::Limit, [5000, 6000]),
        about(MessageId::MODIFY_AUTO_START_REQUEST, id).bool(Key::Enable, true),
        about(MessageId::MODIFY_GUEST_NAME_REQUEST, id).string(Key::Name, "group.other"),
        about(MessageId::RESET_SECRET_REQUEST, id),
    ]
}

fn books(rig: &Rig, id: GuestId) -> GuestConfig {
    rig.node.books.guest(id).unwrap().config.as_ref().clone()
}

/// The guest as `data/instance.data` has it.
fn written(rig: &Rig, id: GuestId) -> GuestConfig {
    let file: serde_json::Value = serde_json::from_str(&rig.files()["instance.data"]).unwrap();
    let guests: Vec<GuestConfig> = serde_json::from_value(file["instances"].clone()).unwrap();
    guests.into_iter().find(|guest| guest.id == id).unwrap()
}

async fn running(rig: &mut Rig, number: u8) -> GuestId {
    let id = rig.with_guest(number).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    rig.sent();
    id
}

#[tokio::test(start_paused = true)]
async fn each_setting_is_on_the_host_in_the_books_and_on_disk() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let before = books(&rig, id);
    for request in changes(id) {
        let name = request.id;
        let expected = name.response();
        let answer = rig.ask(request.clone()).await;
        assert!(answer.success, "{name}: {}", answer.error);
        assert_eq!(answer.id, expected);
        let after = books(&rig, id);
        assert_eq!(written(&rig, id), after, "{name}");
        let domain = rig.sim.state().domains[&id].clone();
        assert_eq!((domain.config.cores, domain.config.memory), (after.cores, after.memory), "{name}");
        assert_eq!((domain.config.limits(), domain.config.cpu_priority), (after.limits(), after.cpu_priority), "{name}");
        assert_eq!((&domain.config.name, &domain.config.monitor_secret), (&after.name, &after.monitor_secret), "{name}");
        assert_eq!(domain.autostart, after.auto_start, "{name}");
    }
    let after = books(&rig, id);
    assert_eq!((after.cores, after.memory, after.cpu_priority, after.auto_start), (3, 128 << 20, 2, true));
    // Reading before writing, at the Core, in the books and on the host (§14 B4).
    assert_eq!((after.read_speed, after.write_speed, after.read_iops, after.write_iops), (10, 20, 30, 40));
    assert_eq!((after.receive_speed, after.send_speed), (5000, 6000));
    assert_eq!(after.name, "group.other", "d1: a rename is written down");
    assert_ne!(after.monitor_secret, before.monitor_secret);
    // Nothing else has changed.
    let rest = GuestConfig {
        cores: before.cores,
        memory: before.memory,
        cpu_priority: before.cpu_priority,
        auto_start: before.auto_start,
        name: before.name.clone(),
        monitor_secret: before.monitor_secret.clone(),
        read_speed: before.read_speed,
        write_speed: before.write_speed,
        read_iops: before.read_iops,
        write_iops: before.write_iops,
        receive_speed: before.receive_speed,
        send_speed: before.send_speed,
        ..after
    };
    assert_eq!(rest, before);
    assert_eq!(rig.sent(), [], "no event tells of a setting");
}

#[tokio::test(start_paused = true)]
async fn a_running_guest_feels_what_libvirt_can_change_and_keeps_the_rest_until_its_next_start() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    let started = rig.sim.state().domains[&id].live.clone().unwrap();
    for request in changes(id).into_iter().filter(|request| request.id != MessageId::MODIFY_GUEST_NAME_REQUEST) {
        let answer = rig.ask(request.clone()).await;
        assert!(answer.success, "{}: {}", request.id, answer.error);
    }
    let domain = rig.sim.state().domains[&id].clone();
    let live = domain.live.unwrap();
    assert_eq!((live.cores, live.memory), (started.cores, started.memory));
    assert_eq!((live.limits(), live.cpu_priority), ([10, 20, 30, 40, 5000, 6000], 2));
    assert_eq!(live.monitor_secret, books(&rig, id).monitor_secret);
    assert_eq!((domain.config.cores, domain.config.memory), (3, 128 << 20));
}

#[tokio::test(start_paused = true)]
async fn e3_limits_are_lifted_by_zero() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    for values in [[7, 8, 9, 10], [0, 8, 0, 0], [0; 4]] {
        assert!(rig.ask(about(MessageId::MODIFY_DISK_THRESHOLD_REQUEST, id).uints(Key::Limit, values)).await.success);
        assert_eq!(rig.sim.state().domains[&id].live.as_ref().unwrap().limits()[..4], values);
    }
    for values in [[7, 8], [0, 8], [0, 0]] {
        assert!(rig.ask(about(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST, id).uints(Key::Limit, values)).await.success);
        assert_eq!(rig.sim.state().domains[&id].live.as_ref().unwrap().limits()[4..], values);
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_value_again_is_a_failure() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    for request in changes(id).into_iter().filter(|request| request.id != MessageId::RESET_SECRET_REQUEST) {
        assert!(rig.ask(request.clone()).await.success);
        let (state, operations) = (rig.sim.state(), rig.sim.operations());
        let answer = rig.ask(request.clone()).await;
        assert!(!answer.success && answer.error.contains("already"), "{}: {}", request.id, answer.error);
        assert_eq!((rig.sim.state(), rig.sim.operations()), (state, operations));
    }
}

#[tokio::test(start_paused = true)]
async fn a1_a_missing_or_bad_parameter_is_a_failure_that_names_it() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    let mut requests = changes(id);
    requests.push(about(MessageId::MODIFY_AUTH_REQUEST, id).string(Key::User, "").string(Key::Secret, ""));
    requests.push(about(MessageId::GET_AUTH_REQUEST, id));
    let state = rig.sim.state();
    for request in requests {
        let strings = request.string_params.keys().copied();
        let others = request.uint_params.keys().chain(request.bool_params.keys()).chain(request.uint_array_params.keys()).copied();
        for key in strings.chain(others).collect::<BTreeSet<_>>() {
            let mut cut = request.clone();
            cut.string_params.remove(&key);
            cut.uint_params.remove(&key);
            cut.bool_params.remove(&key);
            cut.uint_array_params.remove(&key);
            let answer = rig.ask(cut).await;
            assert!(!answer.success && answer.error.contains(&key.to_string()), "{} without {key}: {}", request.id, answer.error);
            assert_eq!(answer.id, request.id.response());
        }
    }
    let bad = [
        about(MessageId::MODIFY_CORE_REQUEST, id).uint(Key::Core, 0),
        about(MessageId::MODIFY_CORE_REQUEST, id).uint(Key::Core, 1 << 40),
        about(MessageId::MODIFY_MEMORY_REQUEST, id).uint(Key::Memory, 1000),
        about(MessageId::MODIFY_PRIORITY_REQUEST, id).uint(Key::Priority, 3),
        about(MessageId::MODIFY_DISK_THRESHOLD_REQUEST, id).uints(Key::Limit, [1, 2, 3]),
        about(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST, id).uints(Key::Limit, [1, 2, 3]),
        about(MessageId::MODIFY_GUEST_NAME_REQUEST, id).string(Key::Name, "a/b"),
        about(MessageId::MODIFY_AUTH_REQUEST, id).string(Key::User, "a\nb").string(Key::Secret, ""),
        about(MessageId::MODIFY_AUTH_REQUEST, id).string(Key::User, "").string(Key::Secret, "x".repeat(600)),
    ];
    for request in bad {
        let answer = rig.ask(request.clone()).await;
        assert!(!answer.success && answer.error.contains("parameter"), "{}: {}", request.id, answer.error);
    }
    assert_eq!(rig.sim.state(), state);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_there_or_lost_is_refused() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    for request in changes(guest(9)) {
        assert!(rig.ask(request).await.error.contains("no guest"));
    }
    rig.sim.undefine_behind(id);
    rig.take_host_events().await;
    for request in changes(id) {
        let answer = rig.ask(request.clone()).await;
        assert!(!answer.success && answer.error.contains("missing"), "{}: {}", request.id, answer.error);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_at_any_step_is_taken_back() {
    for index in 0..changes(guest(1)).len() {
        for runs in [false, true] {
            for effect in [Effect::None, Effect::Done] {
                for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::Unsupported] {
                    let mut rig = Rig::new().await;
                    let id = if runs { running(&mut rig, 1).await } else { rig.with_guest(1).await };
                    let request = changes(id).swap_remove(index);
                    if runs && request.id == MessageId::MODIFY_GUEST_NAME_REQUEST {
                        continue;
                    }
                    let (state, files, config) = (rig.sim.state(), rig.files(), books(&rig, id));
                    rig.sim.fail_at(1, Fault { kind, effect });
                    let answer = rig.ask(request.clone()).await;
                    let case = format!("{} running {runs} {kind:?} {effect:?}", request.id);
                    assert!(!answer.success && !answer.error.is_empty(), "{case}");
                    rig.settle().await;
                    assert_eq!(rig.sim.state(), state, "{case}");
                    assert_eq!((rig.files(), books(&rig, id)), (files, config), "{case}");
                    assert!(rig.ask(request).await.success, "{case}: it can be asked for again");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_written_down_is_taken_back() {
    for index in 0..changes(guest(1)).len() {
        let mut rig = Rig::new().await;
        let id = rig.with_guest(1).await;
        let (state, config) = (rig.sim.state(), books(&rig, id));
        // A directory where the file is written beside its target: the write fails for root as well.
        std::fs::create_dir(rig.directory.path().join("instance.data.tmp")).unwrap();
        let request = changes(id).swap_remove(index);
        let answer = rig.ask(request.clone()).await;
        assert!(!answer.success && answer.error.contains("data"), "{}: {}", request.id, answer.error);
        assert_eq!((rig.sim.state(), books(&rig, id)), (state, config), "{}", request.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_came_too_late_is_taken_back() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let (state, config) = (rig.sim.state(), books(&rig, id));
    rig.sim.set_latency(Operation::Reconfigure, Duration::from_millis(9500));
    let answer = rig.ask(about(MessageId::MODIFY_CORE_REQUEST, id).uint(Key::Core, 8)).await;
    assert!(!answer.success && answer.error.contains("in time"), "{}", answer.error);
    rig.settle().await;
    assert_eq!((rig.sim.state(), books(&rig, id)), (state, config));
}

#[tokio::test(start_paused = true)]
async fn c17_a_guest_that_hangs_holds_up_no_other() {
    let mut rig = Rig::new().await;
    let (stuck, other) = (running(&mut rig, 1).await, running(&mut rig, 2).await);
    rig.sim.hang(stuck);
    let request = |id| about(MessageId::MODIFY_PRIORITY_REQUEST, id).uint(Key::Priority, 2);
    rig.engine.request(crate::txn::testing::LINK, request(stuck).from_session(5));
    let begun = tokio::time::Instant::now();
    assert!(rig.ask(request(other)).await.success);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(!rig.answer(5).await.success);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_or_a_running_guest_is_no_rename() {
    let mut rig = Rig::new().await;
    let (id, other) = (rig.with_guest(1).await, rig.with_guest(2).await);
    let rename = |name: &str| about(MessageId::MODIFY_GUEST_NAME_REQUEST, id).string(Key::Name, name);
    let state = rig.sim.state();
    let answer = rig.ask(rename("group.guest2")).await;
    assert!(answer.error.contains(&other.to_string()), "{}", answer.error);
    assert_eq!(rig.sim.state(), state);
    assert!(rig.ask(start_request(id)).await.success);
    let answer = rig.ask(rename("group.new")).await;
    assert!(answer.error.contains("stop it first"), "{}", answer.error);
    assert_eq!(rig.sim.state().domains[&id].config.name, "group.guest1");
    // The name is free again once it was left.
    rig.sim.set_power_behind(id, false);
    rig.take_host_events().await;
    assert!(rig.ask(rename("group.new")).await.success);
    assert!(rig.ask(create_request(guest(3), "group.guest1")).await.success);
}

#[tokio::test(start_paused = true)]
async fn f3_a_reset_monitor_secret_is_told_and_has_eight_characters() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let one = rig.ask(about(MessageId::RESET_SECRET_REQUEST, id)).await.string_params[&Key::Secret].clone();
    let two = rig.ask(about(MessageId::RESET_SECRET_REQUEST, id)).await.string_params[&Key::Secret].clone();
    assert_eq!((one.len(), two.len()), (8, 8));
    assert_ne!(one, two);
    assert_eq!(books(&rig, id).monitor_secret.reveal(), two);
}

const SET_PASSWORD: &str = "guest-set-user-password";

fn set_auth(id: GuestId, user: &str, secret: &str) -> Message {
    about(MessageId::MODIFY_AUTH_REQUEST, id).string(Key::User, user).string(Key::Secret, secret)
}

/// Account and password of each command that the agent got.
fn told(rig: &Rig, id: GuestId) -> Vec<(String, String)> {
    let read = |command: String| {
        let command: serde_json::Value = serde_json::from_str(&command).unwrap();
        assert_eq!((command["execute"].as_str(), command["arguments"]["crypted"].as_bool()), (Some(SET_PASSWORD), Some(false)));
        let text = |key: &str| command["arguments"][key].as_str().unwrap().to_owned();
        (text("username"), String::from_utf8(STANDARD.decode(text("password")).unwrap()).unwrap())
    };
    rig.sim.agent_commands(id).into_iter().map(read).collect()
}

#[tokio::test(start_paused = true)]
async fn a_password_is_set_by_the_agent_told_and_remembered() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    rig.sim.set_agent_answer(id, SET_PASSWORD, "{\"return\":{}}");
    let answer = rig.ask(set_auth(id, "", "")).await;
    assert!(answer.success, "{}", answer.error);
    let secret = answer.string_params[&Key::Secret].clone();
    assert_eq!((answer.string_params[&Key::User].as_str(), secret.len()), ("root", 10));
    assert_eq!(told(&rig, id), [("root".to_owned(), secret.clone())]);
    let known = rig.ask(about(MessageId::GET_AUTH_REQUEST, id)).await;
    assert_eq!((&known.string_params[&Key::User], &known.string_params[&Key::Secret]), (&"root".to_owned(), &secret));
    let answer = rig.ask(set_auth(id, "nano", "pa ß\"word")).await;
    assert_eq!((answer.string_params[&Key::User].as_str(), answer.string_params[&Key::Secret].as_str()), ("nano", "pa ß\"word"));
    assert_eq!(told(&rig, id)[1], ("nano".to_owned(), "pa ß\"word".to_owned()));
    assert_eq!((written(&rig, id).auth_user.as_str(), written(&rig, id).auth_secret.reveal()), ("nano", "pa ß\"word"));
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_a_stored_account_has_the_usual_one_of_its_system() {
    let mut rig = Rig::new().await;
    for (number, system, user) in [(1, 0, "root"), (2, 1, "Administrator")] {
        let request = create_request(guest(number), &format!("g.{number}")).string(Key::Admin, "");
        assert!(rig.ask(request.uints(Key::Template, [system, 1, 2, 0, 0, 0, 1])).await.success);
        let answer = rig.ask(about(MessageId::GET_AUTH_REQUEST, guest(number))).await;
        assert_eq!((answer.string_params[&Key::User].as_str(), answer.string_params[&Key::Secret].as_str()), (user, ""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_that_could_not_be_set_is_not_remembered() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let before = books(&rig, id);
    assert!(rig.ask(set_auth(id, "", "new")).await.error.contains("not running"));
    assert!(rig.ask(start_request(id)).await.success);
    let answer = rig.ask(set_auth(id, "", "new")).await;
    assert!(answer.error.contains("no agent") && !answer.error.contains("taking it back"), "{}", answer.error);
    // An agent that hangs is given 5 s.
    rig.sim.set_agent_answer(id, SET_PASSWORD, "{\"return\":{}}");
    rig.sim.hang(id);
    let begun = tokio::time::Instant::now();
    let answer = rig.ask(set_auth(id, "", "new")).await;
    assert!(!answer.success && begun.elapsed() < Duration::from_secs(9), "{}", answer.error);
    assert_eq!(books(&rig, id), before);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_cannot_be_written_down_is_set_back_where_the_former_is_known() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    rig.sim.set_agent_answer(id, SET_PASSWORD, "{\"return\":{}}");
    assert!(rig.ask(set_auth(id, "", "first")).await.success);
    let before = books(&rig, id);
    let obstacle = rig.directory.path().join("instance.data.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(!rig.ask(set_auth(id, "", "second")).await.success);
    let passwords: Vec<String> = told(&rig, id).into_iter().map(|(_, password)| password).collect();
    assert_eq!(passwords, ["first", "second", "first"]);
    let answer = rig.ask(set_auth(id, "other", "second")).await;
    assert!(answer.error.contains("an earlier change has to be cleaned up first"), "{}", answer.error);
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(rig.ask(set_auth(id, "", "first")).await.success, "now it can be");
    std::fs::create_dir(&obstacle).unwrap();
    let answer = rig.ask(set_auth(id, "other", "second")).await;
    assert!(answer.error.contains("taking it back failed") && answer.error.contains("'other'"), "{}", answer.error);
    assert!(!answer.error.contains("second"));
    assert_eq!(books(&rig, id), before);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_unknown_is_taken_back() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    rig.sim.set_agent_answer(id, SET_PASSWORD, "{\"return\":{}}");
    assert!(rig.ask(set_auth(id, "", "first")).await.success);
    rig.sim.fail_next(Operation::Agent, Fault { kind: ErrorKind::Unknown, effect: Effect::Done });
    assert!(!rig.ask(set_auth(id, "", "second")).await.success);
    assert_eq!(told(&rig, id).last().unwrap().1, "first");
    assert_eq!(books(&rig, id).auth_secret.reveal(), "first");
    assert_eq!(rig.node.books.guest(id).unwrap().power, PowerState::Running);
}

/// Its agent says nothing, also on the way back, and then the guest is ended by force.
#[tokio::test(start_paused = true)]
async fn a_password_change_that_broke_off_keeps_no_guest_from_starting() {
    let mut rig = Rig::new().await;
    let id = running(&mut rig, 1).await;
    rig.sim.set_agent_answer(id, SET_PASSWORD, "{\"return\":{}}");
    assert!(rig.ask(set_auth(id, "", "first")).await.success);
    for _ in 0..2 {
        rig.sim.fail_next(Operation::Agent, ErrorKind::Unknown);
    }
    assert!(!rig.ask(set_auth(id, "", "second")).await.success);
    rig.settle().await;
    assert_eq!(rig.node.store.journal().open_records().len(), 1, "the former password is still to be set");
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    rig.take_host_events().await;
    let answer = rig.ask(start_request(id)).await;
    assert!(answer.success, "{}", answer.error);
    assert!(rig.node.store.journal().open_records().is_empty());
}
