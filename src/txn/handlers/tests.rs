mod defects;
mod hostile;
mod media;
mod rules;
mod settings;
mod steps;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::host::sim::{Effect, Fault, Operation};
use crate::host::ErrorKind;
use crate::model::{AddressMode, GuestId, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, create_request, start_request, stop_request, Rig};

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

fn guest(number: u8) -> GuestId {
    GuestId::from_bytes([number; 16])
}

#[tokio::test(start_paused = true)]
async fn create_answers_then_tells_and_writes_it_down() {
    let mut rig = Rig::new().await;
    let id = guest(1);
    let answer = rig.ask(create_request(id, "manager.life")).await;
    assert!(answer.success, "{}", answer.error);
    assert_eq!(answer.id, MessageId::CREATE_GUEST_RESPONSE);
    assert_eq!(answer.string_params[&Key::Instance], id.to_string());
    assert!(!answer.bool_params[&Key::Enable]);
    let events = rig.sent();
    assert_eq!(ids(&events), [MessageId::GUEST_CREATED_EVENT]);
    let created = &events[0];
    assert!((5901..=6000).contains(&created.uint_params[&Key::Monitor]));
    assert_eq!(created.string_params[&Key::Secret].len(), 8);
    let mac = &created.string_params[&Key::Hardware];
    assert!(mac.starts_with("00:16:3e:"));
    assert_eq!(created.from, answer.from);
    let files = rig.files();
    assert!(files["instance.data"].contains("\"name\": \"manager.life\""));
    assert!(files["network.data"].contains(mac.as_str()));
    assert!(files["storage.data"].contains(&format!("{id}_0.qcow2")));
    let state = rig.sim.state();
    assert_eq!(state.domains.len(), 1);
    assert_eq!(state.directories["/images/local0"].len(), 2);
}

#[tokio::test(start_paused = true)]
async fn create_with_auto_start_runs_and_tells_both() {
    let mut rig = Rig::new().await;
    let answer = rig.ask(create_request(guest(1), "g.a").bool(Key::Option, true)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    rig.take_host_events().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_CREATED_EVENT, MessageId::GUEST_STARTED_EVENT]);
    let state = rig.sim.state();
    assert!(state.domains[&guest(1)].autostart);
    assert_eq!(state.domains[&guest(1)].power, PowerState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_at_any_step_leaves_nothing_behind() {
    let request = || create_request(guest(1), "g.a").bool(Key::Option, true);
    let steps = {
        let mut rig = Rig::new().await;
        let before = rig.sim.operations();
        assert!(rig.ask(request()).await.success);
        // libvirt's mark and the start follow the answer: they are not part of the create.
        rig.settle().await;
        rig.sim.operations() - before - 4
    };
    assert!(steps >= 5, "two looks at what is there, two volumes, a domain: {steps}");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::NoSpace, ErrorKind::Unavailable] {
                let mut rig = Rig::new().await;
                let (state, files) = (rig.sim.state(), rig.files());
                rig.sim.fail_at(step, Fault { kind, effect });
                let answer = rig.ask(request()).await;
                assert!(!answer.success, "step {step} {kind:?} {effect:?}");
                assert!(!answer.error.is_empty());
                rig.settle().await;
                assert_eq!(rig.sim.state(), state, "step {step} {kind:?} {effect:?}");
                assert_eq!(rig.files(), files, "step {step} {kind:?} {effect:?}");
                assert_eq!(rig.sent(), [], "no event");
                assert!(rig.ask(request()).await.success, "the name, port and id are free again");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_cannot_be_written_down_leaves_nothing_behind() {
    let mut rig = Rig::new().await;
    let state = rig.sim.state();
    // A directory where the file is written beside its target: the write fails for root as well.
    for name in ["instance.data", "storage.data", "network.data"] {
        std::fs::create_dir(rig.directory.path().join(format!("{name}.tmp"))).unwrap();
    }
    let answer = rig.ask(create_request(guest(1), "g.a")).await;
    assert!(!answer.success);
    assert!(answer.error.contains("data"), "{}", answer.error);
    assert_eq!(rig.sim.state(), state);
    assert_eq!(rig.node.guest_counts(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn bad_creates_are_refused_before_anything_is_touched() {
    let ok = || create_request(guest(1), "g.a");
    let cases: Vec<(&str, Message)> = vec![
        ("Host(29)", ok().string(Key::Image, "img").uint(Key::Port, 5801).uint(Key::Size, 1)),
        ("Port(22)", ok().string(Key::Image, "img").string(Key::Host, "10.0.0.1").uint(Key::Port, 0).uint(Key::Size, 1)),
        ("Size(34)", ok().string(Key::Image, "img").string(Key::Host, "10.0.0.1").uint(Key::Port, 5801).uint(Key::Size, 0)),
        ("more than fit", ok().string(Key::Image, "img").string(Key::Host, "10.0.0.1").uint(Key::Port, 5801).uint(Key::Size, 70 << 20)),
        ("Image(38)", ok().string(Key::Image, "../img").string(Key::Host, "10.0.0.1").uint(Key::Port, 5801).uint(Key::Size, 1)),
        ("\"other\"", ok().strings(Key::Module, ["other".to_owned()])),
        ("Name(0)", ok().string(Key::Name, "../x")),
        ("Name(0)", ok().string(Key::Name, "")),
        ("Core(2)", ok().uint(Key::Core, 0)),
        ("Memory(3)", ok().uint(Key::Memory, 0)),
        ("Disk(4)", ok().uints(Key::Disk, [])),
        ("Disk(4)", ok().uints(Key::Disk, [0])),
        ("7 are expected", ok().uints(Key::Template, [0, 1])),
        ("disk bus 9", ok().uints(Key::Template, [0, 9, 0, 0, 0, 0, 0])),
        ("network mode 3", ok().uints(Key::Mode, [3, 0])),
        ("2 are expected", ok().uints(Key::Mode, [1])),
        ("Priority(23)", ok().uint(Key::Priority, 3)),
        ("6 are expected", ok().uints(Key::Limit, [1, 2])),
        ("Address(21)", ok().strings(Key::Address, ["x".to_owned(), String::new()])),
        ("Address(21)", ok().strings(Key::Address, ["10.0.0.5".to_owned(), String::new()])),
        ("Address(21)", ok().strings(Key::Address, [String::new(), "0.0.0.0/24".to_owned()])),
        ("multiple of 5", ok().uints(Key::Policy, [0, 0, 0]).bool(Key::Action, true)),
        ("Action(72)", ok().uints(Key::Policy, [])),
        ("protocol 7", ok().uints(Key::Policy, [0, 7, 0, 0, 80]).bool(Key::Action, true)),
        ("port 70000", ok().uints(Key::Policy, [0, 0, 0, 0, 70000]).bool(Key::Action, true)),
    ];
    for (expected, request) in cases {
        let mut rig = Rig::new().await;
        let (state, files) = (rig.sim.state(), rig.files());
        let answer = rig.ask(request).await;
        assert!(!answer.success);
        assert!(answer.error.contains(expected), "{expected:?} in {:?}", answer.error);
        assert_eq!(rig.sim.state(), state);
        assert_eq!(rig.files(), files);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_and_names_are_taken_once() {
    let mut rig = Rig::new().await;
    rig.with_guest(1).await;
    let same_id = rig.ask(create_request(guest(1), "g.other")).await;
    assert!(same_id.error.contains("exists already"), "{}", same_id.error);
    let same_name = rig.ask(create_request(guest(2), "group.guest1")).await;
    assert!(same_name.error.contains("is taken by guest"), "{}", same_name.error);
}

#[tokio::test(start_paused = true)]
async fn parallel_creates_get_different_ports_and_macs() {
    let mut rig = Rig::new().await;
    rig.sim.set_latency(Operation::CreateVolume, Duration::from_millis(100));
    for number in 1..=90_u8 {
        let request = create_request(guest(number), &format!("g.n{number}"));
        rig.engine.request(crate::txn::testing::LINK, request.from_session(u32::from(number)));
    }
    rig.settle().await;
    let created: Vec<Message> = rig.sent().into_iter().filter(|message| message.id == MessageId::GUEST_CREATED_EVENT).collect();
    assert_eq!(created.len(), 90);
    let ports: BTreeSet<u64> = created.iter().map(|message| message.uint_params[&Key::Monitor]).collect();
    let macs: BTreeSet<&String> = created.iter().map(|message| &message.string_params[&Key::Hardware]).collect();
    assert_eq!((ports.len(), macs.len()), (90, 90));
}

#[tokio::test(start_paused = true)]
async fn the_last_monitor_port_is_given_and_then_no_more() {
    let mut rig = Rig::new().await;
    for number in 1..=100_u8 {
        rig.with_guest(number).await;
    }
    let answer = rig.ask(create_request(guest(101), "g.late")).await;
    assert!(answer.error.contains("no monitor port is free"), "{}", answer.error);
    rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest(50))).await;
    assert!(rig.ask(create_request(guest(101), "g.late")).await.success);
}

#[tokio::test(start_paused = true)]
async fn the_whole_life_of_a_guest() {
    let mut rig = Rig::new().await;
    let empty = rig.sim.state();
    let id = rig.with_guest(9).await;
    let refused = rig.ask(stop_request(id, [0, 1])).await;
    assert!(refused.error.contains("not running"), "{}", refused.error);
    assert!(rig.ask(start_request(id)).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STARTED_EVENT], "told once");
    assert!(rig.ask(start_request(id)).await.error.contains("already running"));
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert_eq!(status.uint_params[&Key::Status], 1);
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.error.contains("stop it first"));
    for flags in [[1, 0], [1, 1]] {
        assert!(rig.ask(stop_request(id, flags)).await.success);
    }
    rig.take_host_events().await;
    assert_eq!(rig.sent(), [], "a reboot is no stop");
    assert!(rig.ask(stop_request(id, [0, 0])).await.success);
    assert_eq!(rig.sent(), [], "asked, not stopped");
    rig.next_host_event().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STOPPED_EVENT]);
    assert!(rig.ask(start_request(id)).await.success);
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STARTED_EVENT, MessageId::GUEST_STOPPED_EVENT]);
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    rig.take_host_events().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_DELETED_EVENT]);
    assert_eq!(rig.sim.state(), empty);
    let storage = rig.files().remove("storage.data").unwrap();
    assert!(!storage.contains(&id.to_string()), "{storage}");
    assert!(rig.ask(about(MessageId::GET_GUEST_REQUEST, id)).await.error.contains("no guest"));
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_fails_keeps_the_guest_and_can_be_repeated() {
    for (operation, kind) in [(Operation::Undefine, ErrorKind::Unavailable), (Operation::DeleteVolume, ErrorKind::Failed)] {
        let mut rig = Rig::new().await;
        let empty = rig.sim.state();
        let id = rig.with_guest(1).await;
        rig.sim.fail_next(operation, kind);
        let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
        assert!(!answer.success);
        assert_eq!(rig.sent(), [], "it is not deleted yet");
        assert!(rig.files()["instance.data"].contains(&id.to_string()));
        assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
        assert_eq!(rig.sim.state().directories["/images/local0"], empty.directories["/images/local0"]);
        assert_eq!(ids(&rig.sent()), [MessageId::GUEST_DELETED_EVENT]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_says_why_and_changes_nothing() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    rig.sim.fail_next(Operation::Start, ErrorKind::Failed);
    let answer = rig.ask(start_request(id)).await;
    assert!(!answer.success && !answer.error.is_empty());
    assert_eq!(rig.node.books.guest(id).unwrap().power, PowerState::Stopped);
    assert_eq!(rig.sent(), []);
    let network = rig.ask(about(MessageId::START_INSTANCE_REQUEST, id).uint(Key::Option, 2)).await;
    assert!(network.error.contains("not supported"), "{}", network.error);
}

#[tokio::test(start_paused = true)]
async fn what_happens_behind_our_back_is_told() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    for (running, event) in [(true, MessageId::GUEST_STARTED_EVENT), (false, MessageId::GUEST_STOPPED_EVENT)] {
        rig.sim.set_power_behind(id, running);
        rig.take_host_events().await;
        let sent = rig.sent();
        assert_eq!(ids(&sent), [event]);
        assert_eq!(sent[0].from, 0);
    }
    rig.sim.set_power_behind(id, true);
    rig.sim.undefine_behind(id);
    rig.take_host_events().await;
    assert_eq!(rig.node.guest_counts(), (1, 0, 1));
    assert!(rig.ask(start_request(id)).await.error.contains("its libvirt domain is missing"));
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success, "its remains can be deleted");
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_libvirt_was_away_is_told_after_the_reconnect() {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.with_guest(1).await, rig.with_guest(2).await);
    assert!(rig.ask(start_request(one)).await.success);
    rig.take_host_events().await;
    rig.sent();
    rig.sim.disconnect("gone");
    let answer = rig.ask(start_request(two)).await;
    assert!(!answer.success);
    rig.sim.set_power_behind(one, false);
    rig.sim.set_power_behind(two, true);
    rig.take_host_events().await;
    rig.sent();
    rig.sim.connect();
    rig.take_host_events().await;
    assert_eq!(rig.node.books.guest(one).unwrap().power, PowerState::Stopped);
    assert_eq!(rig.node.books.guest(two).unwrap().power, PowerState::Running);
    assert!(rig.ask(stop_request(two, [0, 1])).await.success);
}

#[tokio::test(start_paused = true)]
async fn a_force_stop_goes_past_a_stuck_shutdown() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.sim.set_latency(Operation::Shutdown, Duration::from_secs(3600));
    rig.engine.request(crate::txn::testing::LINK, stop_request(id, [0, 0]).from_session(4));
    let begun = tokio::time::Instant::now();
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_force_stop_of_a_process_that_hangs_is_answered_in_time_and_told_when_done() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.take_host_events().await;
    rig.sent();
    rig.sim.set_deadline(Duration::from_secs(60));
    rig.sim.set_latency(Operation::Destroy, Duration::from_secs(15));
    let begun = tokio::time::Instant::now();
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    assert_eq!(begun.elapsed(), Duration::from_secs(8));
    assert_eq!(rig.sent(), [], "it has not ended yet");
    rig.settle().await;
    rig.take_host_events().await;
    assert_eq!(ids(&rig.sent()), [MessageId::GUEST_STOPPED_EVENT]);
}

fn pool_ready() -> Message {
    Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "default").string(Key::Storage, "").string(Key::Network, "")
}

#[tokio::test(start_paused = true)]
async fn the_ready_report_has_an_entry_for_each_guest_in_every_list() {
    let mut rig = Rig::new().await;
    let empty = rig.ask(pool_ready()).await;
    assert_eq!(empty.id, MessageId::COMPUTE_CELL_READY_EVENT);
    assert_eq!(empty.uint_params[&Key::Count], 0);
    assert!(empty.uint_array_params.is_empty() && empty.string_array_params.is_empty());
    for number in 1..=3 {
        rig.with_guest(number).await;
    }
    assert!(rig.ask(start_request(guest(2))).await.success);
    let report = rig.ask(pool_ready()).await;
    assert!(report.success);
    assert_eq!(report.uint_params[&Key::Count], 3);
    for (key, list) in &report.string_array_params {
        assert_eq!(list.len(), 3, "{key}");
    }
    for (key, list) in &report.uint_array_params {
        let each = match *key {
            Key::Limit => 6,
            Key::Disk => 2,
            _ => 1,
        };
        assert_eq!(list.len(), 3 * each, "{key}");
    }
    assert_eq!(report.uint_array_params[&Key::Status], [0, 1, 0]);
    let captured = include_str!("../../../tests/vectors/lifecycle-messages.jsonl");
    let captured = captured.lines().find(|line| line.contains("0x00010302")).unwrap();
    let captured: serde_json::Value = serde_json::from_str(captured).unwrap();
    let ours = serde_json::to_value(&report).unwrap();
    for map in ["uint_array_params", "string_array_params", "uint_params"] {
        let keys = |message: &serde_json::Value| message[map].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&ours), keys(&captured["message"]), "{map}");
    }
}

#[tokio::test(start_paused = true)]
async fn pool_ready_takes_addresses_keeps_an_unsaid_mode_and_clears_them_without_a_network() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let addresses =
        pool_ready().string(Key::Network, "net0").string(Key::Gateway, "10.0.0.1").strings(Key::Server, ["10.0.0.2".to_owned()]);
    assert!(rig.ask(addresses.clone().string(Key::Mode, "dhcp")).await.success);
    let network = || rig.node.books.lock().network.clone();
    assert_eq!((network().gateway.as_str(), network().allocation_mode), ("10.0.0.1", AddressMode::Dhcp));
    assert_eq!(rig.node.books.guest(id).unwrap().config.address_allocation, AddressMode::Dhcp);
    // The Core leaves the mode out when an administrator adds the cell (contract §13.1).
    assert!(rig.ask(addresses.clone().string(Key::Gateway, "10.0.0.9")).await.success);
    let network = rig.node.books.lock().network.clone();
    assert_eq!((network.gateway.as_str(), network.allocation_mode), ("10.0.0.9", AddressMode::Dhcp));
    for bad in [
        addresses.clone().string(Key::Gateway, ""),
        addresses.clone().string(Key::Mode, "magic"),
        pool_ready().string(Key::Storage, "nfs0"),
    ] {
        let answer = rig.ask(bad).await;
        assert!(!answer.success && !answer.error.is_empty());
        assert_eq!(rig.node.books.lock().network, network, "a refused request switches nothing");
    }
    assert!(rig.ask(pool_ready()).await.success);
    assert_eq!(rig.node.books.lock().network.gateway, "");
    assert!(!rig.files()["network.data"].contains("10.0.0.9"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_pool_is_taken_without_an_answer() {
    let mut rig = Rig::new().await;
    let event = Message::new(MessageId::ADDRESS_POOL_CHANGED_EVENT)
        .from_session(3)
        .string(Key::Address, "net0")
        .string(Key::Gateway, "10.0.0.1")
        .string(Key::Mode, "cloudinit")
        .strings(Key::Server, []);
    rig.engine.request(crate::txn::testing::LINK, event);
    rig.settle().await;
    assert_eq!(rig.sent(), []);
    assert_eq!(rig.node.books.lock().network.allocation_mode, AddressMode::CloudInit);
    rig.engine.request(crate::txn::testing::LINK, Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT));
    rig.settle().await;
    assert_eq!(rig.node.books.lock().network.allocation_mode, AddressMode::None);
}

#[tokio::test(start_paused = true)]
async fn storage_paths_are_told_changed_and_refused() {
    let mut rig = Rig::new().await;
    let query = || Message::new(MessageId::QUERY_CELL_STORAGE_REQUEST);
    let modify = |path: &str| Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, path);
    assert_eq!(rig.ask(query()).await.string_array_params[&Key::System], ["/images"]);
    for bad in ["images", "/", "/a/../b", "", "/images", "/images/"] {
        assert!(!rig.ask(modify(bad)).await.success, "{bad:?}");
    }
    assert!(rig.ask(modify("/other/")).await.success);
    let answer = rig.ask(query()).await;
    assert_eq!(answer.string_array_params[&Key::Data], ["/other"]);
    assert_eq!(answer.uint_params[&Key::Mode], 0);
    assert_eq!(rig.sim.state().pools["local0"].target, "/other/local0");
    rig.with_guest(1).await;
    let refused = rig.ask(modify("/third")).await;
    assert!(refused.error.contains("1 guests have disks"), "{}", refused.error);
}

#[tokio::test(start_paused = true)]
async fn a_storage_change_that_fails_at_any_step_is_taken_back() {
    let request = || Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, "/other");
    for operation in [Operation::Pool, Operation::RemovePool, Operation::EnsureLocalPool] {
        let mut rig = Rig::new().await;
        let (state, files) = (rig.sim.state(), rig.files());
        rig.sim.fail_next(operation, ErrorKind::Failed);
        assert!(!rig.ask(request()).await.success);
        let target = |state: &crate::host::sim::SimState| state.pools["local0"].target.clone();
        assert_eq!(target(&rig.sim.state()), target(&state), "{operation:?}");
        assert_eq!(rig.files(), files);
        assert!(rig.ask(request()).await.success);
    }
}

#[tokio::test(start_paused = true)]
async fn status_has_true_figures_and_zeroes_for_a_stopped_guest() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    let stopped = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert_eq!(stopped.uint_array_params[&Key::IO], [0; 4]);
    assert_eq!(stopped.uint_array_params[&Key::Available], [0; 2]);
    assert_eq!(stopped.float_params[&Key::Usage], 0.0);
    assert!(!stopped.bool_params[&Key::Media]);
    assert_eq!(stopped.string_params[&Key::System], "linux");
    assert!(rig.ask(start_request(id)).await.success);
    tokio::time::advance(Duration::from_secs(2)).await;
    let running = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert!(running.uint_array_params[&Key::Available][0] > 0);
    assert!((0.0..=100.0).contains(&running.float_params[&Key::Usage]));
    let config = rig.ask(about(MessageId::GET_GUEST_REQUEST, id)).await;
    for key in config.uint_params.keys() {
        assert_eq!(config.uint_params[key], running.uint_params[key], "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn status_of_a_stuck_guest_comes_soon_with_what_was_known() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    tokio::time::advance(Duration::from_secs(2)).await;
    let before = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    rig.sim.hang(id);
    tokio::time::advance(Duration::from_secs(60)).await;
    let begun = tokio::time::Instant::now();
    let stuck = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, id)).await;
    assert!(stuck.success && begun.elapsed() < Duration::from_secs(1));
    assert_eq!(stuck.uint_array_params[&Key::IO], before.uint_array_params[&Key::IO]);
}
