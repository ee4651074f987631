//! Taking over the directory of the reference Cell 1.4.1 and handing it back.
//!
//! `tests/vectors/takeover/reference-1.4.1/` is what that Cell left behind after an orderly stop with five guests: `web` (two disks, limits, security rules that reject by
//! default, auto start), `db` (snapshots s1 ← s2 ← s3 and s2 ← s4, at s4), `cloud` (from an image, cloud-init, data disk), `old` (IDE, rtl8139, cirrus) and
//! `win` (left running). Here its libvirt is simulated; `tests/root/takeover.rs` does the same with a real one.
//!
//! What we leave must be something that the reference starts on: `reference.rs` holds its demands (contract §8.6) and reads nothing but the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, missing_docs)]

mod host;
mod reference;

use cell::model::{GuestId, PowerState};
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{self, CreateGuest, StopMode};
use corelet::{AddressPool, PoolConfig};
use serde_json::{json, Value};

use host::{Takeover, CLOUD, DB, OLD, WEB, WIN};

fn captured(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(host::fixture(&format!("data/{file}"))).unwrap()).unwrap()
}

fn captured_guest(id: GuestId) -> Value {
    let book = captured("instance.data");
    book["instances"].as_array().unwrap().iter().find(|guest| guest["id"] == id.to_string()).unwrap().clone()
}

fn guest_of<'a>(files: &'a mut Value, id: &str) -> &'a mut Value {
    let guests = files["instance.data"]["instances"].as_array_mut().unwrap();
    guests.iter_mut().find(|guest| guest["id"] == id).unwrap()
}

/// The pool that the captured Cell was in.
fn pool() -> PoolConfig {
    let network = AddressPool { name: "net0".into(), gateway: "10.226.0.1".into(), dns: vec!["10.226.0.1".into()], mode: "dhcp".into() };
    PoolConfig { name: "default".into(), storage: None, network: Some(network) }
}

fn texts(report: &Message, key: Key) -> &[String] {
    &report.string_array_params[&key]
}

fn numbers(report: &Message, key: Key) -> &[u64] {
    &report.uint_array_params[&key]
}

#[tokio::test]
async fn the_core_is_told_of_every_guest_as_the_reference_knew_it() {
    let mut cell = Takeover::begin().await;
    let report = cell.done(requests::pool_ready(&pool(), true)).await;
    assert_eq!(report.id, MessageId::COMPUTE_CELL_READY_EVENT);
    assert_eq!(report.uint_params[&Key::Count], 5);
    let ids = texts(&report, Key::Instance);
    let mut disks = numbers(&report, Key::Disk).iter();
    for (at, id) in ids.iter().enumerate() {
        let id: GuestId = id.parse().unwrap();
        let known = captured_guest(id);
        let text = |field: &str| known[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| known[field].as_u64().unwrap_or_default();
        for (key, field) in [
            (Key::Name, "name"),
            (Key::User, "user"),
            (Key::Group, "group"),
            (Key::Secret, "monitor_secret"),
            (Key::Create, "create_time"),
            (Key::Internal, "internal_address"),
            (Key::External, "external_address"),
            (Key::Hardware, "hardware_address"),
        ] {
            assert_eq!(texts(&report, key)[at], text(field), "{field} of {id}");
        }
        for (key, field) in [(Key::Core, "cores"), (Key::Memory, "memory"), (Key::Monitor, "monitor_port"), (Key::Priority, "cpu_priority")]
        {
            assert_eq!(numbers(&report, key)[at], number(field), "{field} of {id}");
        }
        assert_eq!(texts(&report, Key::System)[at], known["template"]["operating_system"].as_str().unwrap());
        assert_eq!(numbers(&report, Key::Option)[at], u64::from(known["auto_start"].as_bool().unwrap()));
        assert_eq!(numbers(&report, Key::Enable)[at], 1, "all are complete");
        assert_eq!(numbers(&report, Key::Status)[at], u64::from(id == WIN), "only win runs");
        let limits = ["read_speed", "write_speed", "read_iops", "write_iops", "receive_speed", "send_speed"].map(number);
        assert_eq!(numbers(&report, Key::Limit)[at * 6..at * 6 + 6], limits);
        let sizes: Vec<u64> = known["disks"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).collect();
        assert_eq!(numbers(&report, Key::Count)[at], sizes.len() as u64);
        assert_eq!(disks.by_ref().take(sizes.len()).copied().collect::<Vec<_>>(), sizes);
    }
    assert_eq!(ids.len(), 5);
    assert_eq!(disks.next(), None);
}

#[tokio::test]
async fn snapshots_rules_and_accounts_are_there() {
    let mut cell = Takeover::begin().await;
    let list = cell.done(host::about(MessageId::QUERY_SNAPSHOT_REQUEST, DB)).await;
    assert_eq!(texts(&list, Key::Name), ["s1", "s2", "s3", "s4"]);
    assert_eq!(texts(&list, Key::Previous), ["", "s1", "s2", "s2"]);
    assert_eq!(numbers(&list, Key::Source), [1, 0, 0, 0]);
    assert_eq!(numbers(&list, Key::Current), [0, 0, 0, 1]);
    for (name, description) in [("s1", "snapshot s1"), ("s4", "branch")] {
        let snapshot = cell.done(host::about(MessageId::GET_SNAPSHOT_REQUEST, DB).string(Key::Name, name)).await;
        assert_eq!(snapshot.string_params[&Key::Description], description);
    }
    let rules = cell.done(host::about(MessageId::GET_GUEST_RULE_REQUEST, WEB)).await;
    assert_eq!(numbers(&rules, Key::Port), [80, 53]);
    assert_eq!(numbers(&rules, Key::From), [0x0a00_0001, 0]);
    assert_eq!(numbers(&rules, Key::Action), [0, 0, 1], "both accept, the rest is rejected");
    let account = cell.done(Message::new(MessageId::GET_AUTH_REQUEST).string(Key::Guest, CLOUD.to_string())).await;
    assert_eq!((account.string_params[&Key::User].as_str(), account.string_params[&Key::Secret].as_str()), ("ops", "example-secret"));
    let storage = cell.done(requests::query_storage("")).await;
    assert_eq!(texts(&storage, Key::System), ["/var/lib/libvirt/images"]);
    let network = cell.node.books.lock().network.clone();
    assert_eq!((network.gateway.as_str(), network.dns.as_slice()), ("10.226.0.1", ["10.226.0.1".to_owned()].as_slice()));
}

#[tokio::test]
async fn taking_over_changes_nothing_on_the_host_and_no_word_in_the_files() {
    let cell = Takeover::begin().await;
    assert_eq!(cell.sim.state(), cell.before, "the host was touched");
    let sorted = |mut book: Value| {
        let guests = book["instances"].as_array_mut().unwrap();
        guests.sort_by_key(|guest| guest["id"].to_string());
        book
    };
    assert_eq!(sorted(cell.file("instance.data")), sorted(captured("instance.data")));
    for file in ["storage.data", "network.data"] {
        assert_eq!(cell.file(file), captured(file), "{file}");
    }
    reference::check(&cell.data(), &cell.domains()).unwrap();
}

#[tokio::test]
async fn keys_that_we_do_not_know_survive_a_write() {
    let mut cell = Takeover::prepared(|files| {
        files["instance.data"]["of_a_later_version"] = json!({ "kept": [1, 2.5, "three"] });
        files["instance.data"]["instances"][1]["note"] = json!("by hand");
        files["storage.data"]["unheard_of"] = json!(true);
        files["network.data"]["vlan"] = json!(7);
    })
    .await;
    cell.done(host::setting(MessageId::MODIFY_AUTO_START_REQUEST, DB).bool(Key::Enable, true)).await;
    cell.done(host::about(MessageId::CREATE_SNAPSHOT_REQUEST, WEB).string(Key::Name, "now").string(Key::Description, "")).await;
    cell.done(requests::pool_ready(&pool(), true)).await;
    let instance = cell.file("instance.data");
    assert_eq!(instance["of_a_later_version"], json!({ "kept": [1, 2.5, "three"] }));
    let web = instance["instances"].as_array().unwrap().iter().find(|guest| guest["id"] == WEB.to_string()).unwrap();
    assert_eq!(web["note"], "by hand");
    assert_eq!(cell.file("storage.data")["unheard_of"], true);
    assert_eq!(cell.file("network.data")["vlan"], 7);
    reference::check(&cell.data(), &cell.domains()).unwrap();
}

#[tokio::test]
async fn the_reference_can_start_on_what_our_work_leaves() {
    let mut cell = Takeover::begin().await;
    let mut step = 0;
    let sound = |cell: &Takeover, step: &mut u32| {
        *step += 1;
        reference::check(&cell.data(), &cell.domains()).unwrap_or_else(|violations| panic!("after step {step}: {violations:#?}"));
    };
    let snapshot = |id, name: &str| host::about(id, DB).string(Key::Name, name).string(Key::Description, "ours");
    let new = CreateGuest { disks: vec![64 << 20, 32 << 20], ..CreateGuest::blank("manager.new", 64 << 20) };
    for request in [
        requests::pool_ready(&pool(), true),
        new.to_message(),
        requests::start_guest(new.id, None),
        requests::stop_guest(new.id, StopMode::Force),
        snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, "s5"),
        snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, "s3"),
        snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "s5"),
        snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, "s6"),
        snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "s6"),
        snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "s3"),
        host::setting(MessageId::MODIFY_GUEST_NAME_REQUEST, OLD).string(Key::Name, "manager.renamed"),
        host::setting(MessageId::MODIFY_CORE_REQUEST, WEB).uint(Key::Core, 4),
        host::setting(MessageId::MODIFY_MEMORY_REQUEST, WEB).uint(Key::Memory, 256 << 20),
        host::setting(MessageId::MODIFY_PRIORITY_REQUEST, WIN).uint(Key::Priority, 2),
        host::setting(MessageId::MODIFY_DISK_THRESHOLD_REQUEST, WEB).uints(Key::Limit, [0, 0, 0, 0]),
        host::setting(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST, WIN).uints(Key::Limit, [1 << 20, 0]),
        host::setting(MessageId::RESET_SECRET_REQUEST, WIN),
        host::setting(MessageId::RESIZE_DISK_REQUEST, WEB).uint(Key::Disk, 1).uint(Key::Size, 128 << 20),
        host::setting(MessageId::SHRINK_DISK_REQUEST, OLD).uint(Key::Disk, 0),
        host::about(MessageId::CHANGE_GUEST_RULE_DEFAULT_ACTION_REQUEST, CLOUD).bool(Key::Action, false),
        host::about(MessageId::ADD_GUEST_RULE_REQUEST, CLOUD)
            .bool(Key::Action, true)
            .uint(Key::From, 0)
            .uint(Key::To, 0)
            .uint(Key::Port, 22)
            .uint(Key::Protocol, 0),
        requests::stop_guest(WIN, StopMode::Force),
        host::about(MessageId::CREATE_SNAPSHOT_REQUEST, WIN).string(Key::Name, "first").string(Key::Description, ""),
        requests::start_guest(WIN, None),
        requests::delete_guest(OLD),
        requests::delete_guest(new.id),
    ] {
        cell.done(request).await;
        sound(&cell, &mut step);
    }
    // What fails leaves it sound as well.
    for refused in [requests::delete_guest(WIN), snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, "none"), requests::start_guest(OLD, None)] {
        assert!(!cell.ask(refused).await.success);
        sound(&cell, &mut step);
    }
    assert_eq!(step, 29);
    assert_eq!(cell.node.books.guest(WIN).unwrap().power, PowerState::Running);
    let ours = cell.file("instance.data");
    let names: Vec<&str> = ours["instances"].as_array().unwrap().iter().map(|guest| guest["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["manager.cloud", "manager.win", "manager.web", "manager.db"]);
}

/// Also after each guest is gone: the reference starts anew on a file without pools, and its own loss is complete on `null` groups.
#[tokio::test]
async fn the_reference_can_start_on_what_is_left_of_nothing() {
    let mut cell = Takeover::begin().await;
    cell.done(requests::stop_guest(WIN, StopMode::Force)).await;
    for guest in [WEB, DB, CLOUD, OLD, WIN] {
        cell.done(requests::delete_guest(guest)).await;
        reference::check(&cell.data(), &cell.domains()).unwrap();
    }
    assert_eq!(cell.file("instance.data")["instances"], Value::Null);
    assert_eq!(cell.file("storage.data")["groups"], json!({}));
    assert!(cell.sim.state().directories["/var/lib/libvirt/images/local0"].is_empty(), "files are left");
}

/// Changes the files, by name, in what concerns the guest with this id.
type Spoil = fn(&mut Value, &str);

/// A check that lets everything pass proves nothing.
#[tokio::test]
async fn each_demand_of_the_reference_is_checked() {
    let cell = Takeover::begin().await;
    let guest = WEB.to_string();
    let cases: [(&str, Spoil); 16] = [
        ("has no domain", |files, guest| guest_of(files, guest)["id"] = json!("00000000-0000-4000-8000-000000000000")),
        ("neither template nor auth_user", |files, guest| {
            let guest = guest_of(files, guest).as_object_mut().unwrap();
            guest.remove("template");
            guest.remove("auth_user");
        }),
        ("without its template", |files, guest| drop(guest_of(files, guest).as_object_mut().unwrap().remove("template"))),
        ("no entry in groups", |files, guest| drop(files["storage.data"]["groups"].as_object_mut().unwrap().remove(guest))),
        ("volumes", |files, guest| files["storage.data"]["groups"][guest]["data"] = Value::Null),
        ("is not in its group", |files, guest| guest_of(files, guest)["storage_volumes"][1] = json!("other.qcow2")),
        ("groups", |files, _| files["storage.data"]["groups"] = Value::Null),
        ("pools", |files, _| files["storage.data"]["pools"] = json!({})),
        ("volumes of pool", |files, _| files["storage.data"]["pools"]["local0"]["volumes"] = Value::Null),
        ("current pool", |files, _| files["storage.data"]["current_pool"] = json!("gone")),
        ("default_bridge", |files, _| files["network.data"]["default_bridge"] = json!("")),
        ("no entry in resources", |files, guest| drop(files["network.data"]["resources"].as_object_mut().unwrap().remove(guest))),
        ("monitor_port", |files, guest| files["network.data"]["resources"][guest]["monitor_port"] = json!(5900)),
        ("base_snapshot", |files, _| files["storage.data"]["groups"][DB.to_string()]["base_snapshot"] = json!("")),
        ("active_snapshot", |files, _| files["storage.data"]["groups"][DB.to_string()]["active_snapshot"] = json!("s3")),
        ("cores", |files, guest| guest_of(files, guest)["cores"] = json!(-1)),
    ];
    for (expected, spoil) in cases {
        let mut data = cell.data();
        let mut files = json!({});
        for (name, content) in &data {
            files[name.as_str()] = serde_json::from_slice(content).unwrap();
        }
        spoil(&mut files, &guest);
        for (name, content) in &mut data {
            *content = host::as_the_reference_writes(&files[name.as_str()]);
        }
        let violations = reference::check(&data, &cell.domains()).expect_err(expected);
        assert!(violations.iter().any(|violation| violation.contains(expected)), "{expected:?} is not among {violations:#?}");
    }
    let mut data = cell.data();
    data.get_mut("network.data").unwrap().push(b'\n');
    let violations = reference::check(&data, &cell.domains()).unwrap_err();
    assert!(violations.iter().any(|violation| violation.contains("newline")), "{violations:#?}");
}
