//! Defects of the reference that no other test of a transaction is about (contract §14).

use std::time::Duration;

use super::{guest, ids};
use crate::model::{GuestConfig, Resource};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::Store;
use crate::txn::node::Books;
use crate::txn::testing::{about, create_request, start_request, Rig};

/// Lacks one parameter, in whichever map it stands.
fn without(mut message: Message, key: Key) -> Message {
    message.string_params.remove(&key);
    message.uint_params.remove(&key);
    message.bool_params.remove(&key);
    message.uint_array_params.remove(&key);
    message.string_array_params.remove(&key);
    message
}

#[tokio::test(start_paused = true)]
async fn a2_a_create_without_one_of_its_parameters_is_answered() {
    let mut rig = Rig::new().await;
    let (state, files) = (rig.sim.state(), rig.files());
    let whole = || create_request(guest(1), "g.a");
    let needed = [
        Key::Name,
        Key::Instance,
        Key::User,
        Key::Group,
        Key::Core,
        Key::Memory,
        Key::Disk,
        Key::Option,
        Key::Admin,
        Key::Template,
        Key::Mode,
        Key::Flag,
    ];
    for key in needed {
        let answer = rig.ask(without(whole(), key)).await;
        assert!(!answer.success && answer.error.contains(&key.to_string()), "without {key}: {}", answer.error);
    }
    assert_eq!((rig.sim.state(), rig.files()), (state, files));
    for key in [Key::Address, Key::Limit, Key::Priority, Key::Module, Key::Pool] {
        let answer = rig.ask(without(create_request(guest(2), "g.b"), key)).await;
        assert!(answer.success, "{key} may be absent: {}", answer.error);
        rig.settle().await;
        assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, guest(2))).await.success);
    }
}

/// The kind of network and storage plays no part in taking a guest down.
#[tokio::test(start_paused = true)]
async fn a6_a_guest_of_a_kind_that_is_not_made_any_more_is_deleted_whole() {
    let mut rig = Rig::new().await;
    let empty = rig.sim.state();
    let id = rig.with_guest(1).await;
    let strange = |config: &mut GuestConfig| (config.network_mode, config.storage_mode) = (4, 1);
    rig.node.books.lock().update(id, strange).unwrap();
    let answer = rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    assert!(answer.success, "{}", answer.error);
    assert_eq!((rig.sim.state(), ids(&rig.sent())), (empty, vec![MessageId::GUEST_DELETED_EVENT]));
}

#[tokio::test(start_paused = true)]
async fn a7_books_without_a_bridge_hold_up_no_create() {
    let mut rig = Rig::new().await;
    rig.node.books.lock().network.default_bridge.clear();
    let answer = rig.ask(create_request(guest(1), "g.a")).await;
    assert!(answer.success, "{}", answer.error);
    assert_eq!(rig.node.books.guest(guest(1)).unwrap().config.network_source, "br0");
}

#[tokio::test(start_paused = true)]
async fn b9_the_status_has_the_assigned_addresses_and_the_templates_system() {
    let mut rig = Rig::new().await;
    let addresses = ["10.0.0.5/24".to_owned(), "192.0.2.5/24".to_owned()];
    let windows = create_request(guest(1), "g.a").strings(Key::Address, addresses.clone()).uints(Key::Template, [1, 1, 2, 0, 0, 0, 1]);
    assert!(rig.ask(windows).await.success);
    rig.settle().await;
    let status = rig.ask(about(MessageId::GET_INSTANCE_STATUS_REQUEST, guest(1))).await;
    let told = [Key::Internal, Key::External, Key::System].map(|key| status.string_params[&key].as_str());
    assert_eq!(told, [&addresses[0], &addresses[1], "windows"]);
    assert!(!status.string_params.contains_key(&Key::Source), "no media, no id of them");
}

/// What `network.data` lacks of a guest is added, and what no guest has any more goes.
#[tokio::test(start_paused = true)]
async fn d9_the_assignments_of_every_guest_are_on_record_after_a_start() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(7).await;
    let config = rig.node.books.guest(id).unwrap().config;
    let expected = rig.node.books.lock().network.resources.clone();
    let mut loaded = Store::open(rig.directory.path(), "br0").unwrap().loaded;
    assert_eq!(loaded.network.resources, expected);
    loaded.network.resources.clear();
    loaded.network.resources.insert(guest(8), Resource { monitor_port: 5908, ..Resource::default() });
    let books = Books::new(loaded);
    assert_eq!(books.lock().network.resources, expected);
    // They are given to nobody else, and go with their guest.
    let other = GuestConfig { id: guest(9), name: "g.other".into(), ..config.as_ref().clone() };
    assert!(books.lock().reserve_moved(&other).is_err());
    books.lock().remove(id);
    assert!(books.lock().network.resources.is_empty());
    assert!(books.lock().reserve_moved(&other).is_ok());
}

#[tokio::test(start_paused = true)]
async fn d25_a_running_guest_whose_cores_were_changed_is_measured_on() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.take_host_events().await;
    let status = || about(MessageId::GET_INSTANCE_STATUS_REQUEST, id);
    tokio::time::advance(Duration::from_secs(10)).await;
    let before = rig.ask(status()).await;
    let cores = Message::new(MessageId::MODIFY_CORE_REQUEST).string(Key::Guest, id.to_string()).uint(Key::Core, 4);
    assert!(rig.ask(cores).await.success);
    tokio::time::advance(Duration::from_secs(10)).await;
    let begun = rig.sim.operations();
    let after = rig.ask(status()).await;
    assert!(rig.sim.operations() > begun, "it was looked at anew");
    assert_eq!((after.uint_params[&Key::Core], after.uint_params[&Key::Status]), (4, 1));
    assert!(after.uint_array_params[&Key::Available][0] > 0 && before.uint_array_params[&Key::Available][0] > 0);
    assert!((0.0..=100.0).contains(&after.float_params[&Key::Usage]));
}
