use super::*;

const CAPTURES: [&str; 3] = [
    include_str!("../../../tests/vectors/lifecycle-messages.jsonl"),
    include_str!("../../../tests/vectors/addresses-messages.jsonl"),
    include_str!("../../../tests/vectors/images-messages.jsonl"),
];

/// Every message with this id that the captured Core sent.
fn captured(id: MessageId) -> Vec<Message> {
    let lines = CAPTURES.iter().flat_map(|capture| capture.lines());
    let records = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let messages = records
        .filter(|record| record["from"] == "core")
        .map(|record| serde_json::from_value::<Message>(record["message"].clone()).unwrap())
        .filter(|message| message.id == id)
        .collect::<Vec<_>>();
    assert!(!messages.is_empty(), "the captures have no {id}");
    messages
}

fn guest(message: &Message, key: Key) -> GuestId {
    message.string_params[&key].parse().unwrap()
}

/// Compares with the captured message but for the session.
fn assert_equal(ours: Message, captured: &Message) {
    assert_eq!(ours.from_session(captured.from), *captured);
}

#[test]
fn blank_guests_are_asked_for_as_by_the_real_core() {
    let original = &captured(MessageId::CREATE_GUEST_REQUEST)[0];
    let ours = CreateGuest {
        id: guest(original, Key::Instance),
        memory: 64 << 20,
        disks: vec![64 << 20, 32 << 20],
        limits: [0, 0, 600, 500, 0, 0],
        template_id: original.string_params[&Key::Template].clone(),
        ..CreateGuest::blank("manager.life", 0)
    };
    assert_equal(ours.to_message(), original);
}

#[test]
fn guests_with_cloud_init_and_address_are_asked_for_as_by_the_real_core() {
    let original = &captured(MessageId::CREATE_GUEST_REQUEST)[1];
    let ours = CreateGuest {
        id: guest(original, Key::Instance),
        memory: 64 << 20,
        disks: vec![64 << 20, 32 << 20],
        auto_start: true,
        priority: 0,
        modules: vec!["qemu".into(), "cloud-init".into()],
        admin: "ops".into(),
        secret: "example-secret".into(),
        data_path: "/srv".into(),
        addresses: ["10.226.0.100/24".into(), String::new()],
        template_id: original.string_params[&Key::Template].clone(),
        ..CreateGuest::blank("manager.addr", 0)
    };
    assert_equal(ours.to_message(), original);
}

#[test]
fn guests_from_an_image_are_asked_for_as_by_the_real_core() {
    let original = &captured(MessageId::CREATE_GUEST_REQUEST)[2];
    let image = ImageSource { id: original.string_params[&Key::Image].clone(), host: "10.226.0.1".into(), port: 5801, size: 25_493_504 };
    let ours = CreateGuest {
        id: guest(original, Key::Instance),
        memory: 64 << 20,
        priority: 0,
        modules: vec!["qemu".into(), "cloud-init".into()],
        secret: "pw123456".into(),
        data_path: "/opt/data".into(),
        template_id: original.string_params[&Key::Template].clone(),
        image: Some(image),
        ..CreateGuest::blank(&original.string_params[&Key::Name], 64 << 20)
    };
    assert_equal(ours.to_message(), original);
}

#[test]
fn security_rules_stand_in_the_request_as_the_contract_has_them() {
    let rules = vec![
        PolicyRule { accept: true, protocol: cell::model::Protocol::Tcp, source: Some([10, 0, 0, 1].into()), target: None, port: 22 },
        PolicyRule { accept: false, protocol: cell::model::Protocol::Udp, source: None, target: Some([10, 0, 0, 2].into()), port: 53 },
    ];
    let guest = CreateGuest { policy: Some(Policy { accept: false, rules }), ..CreateGuest::blank("a.b", 1) };
    let message = guest.to_message();
    assert_eq!(message.uint_array_params[&Key::Policy], [0, 0, 0x0a00_0001, 0, 22, 1, 1, 0, 0x0a00_0002, 53]);
    assert!(!message.bool_params[&Key::Action]);
    let without = CreateGuest::blank("a.b", 1).to_message();
    assert!(!without.uint_array_params.contains_key(&Key::Policy) && !without.bool_params.contains_key(&Key::Action));
}

#[test]
fn pools_are_told_as_by_the_real_core() {
    for original in captured(MessageId::COMPUTE_POOL_READY_EVENT) {
        let network = (!original.string_params[&Key::Network].is_empty()).then(|| AddressPool {
            name: "vecnet".into(),
            gateway: "10.226.0.1".into(),
            dns: vec!["10.226.0.1".into(), "10.226.0.3".into()],
            mode: "dhcp".into(),
        });
        assert_equal(pool_ready(&PoolConfig { network, ..PoolConfig::default() }, true), &original);
    }
}

#[test]
fn adding_a_cell_to_a_pool_lacks_the_mode() {
    let network = AddressPool { name: "n".into(), gateway: "10.0.0.1".into(), dns: Vec::new(), mode: "dhcp".into() };
    let storage = crate::SharedStorage { name: "nfs0".into(), host: "10.0.0.9".into(), target: "/share".into() };
    let message = pool_ready(&PoolConfig { name: "p".into(), storage: Some(storage), network: Some(network) }, false);
    assert!(!message.string_params.contains_key(&Key::Mode));
    for (key, value) in [(Key::Storage, "nfs0"), (Key::Type, "nfs"), (Key::Host, "10.0.0.9"), (Key::Target, "/share")] {
        assert_eq!(message.string_params[&key], value);
    }
}

#[test]
fn guests_are_started_as_by_the_real_core() {
    let originals = captured(MessageId::START_INSTANCE_REQUEST);
    assert_equal(start_guest(guest(&originals[0], Key::Instance), None), &originals[0]);
    let media = Media { id: originals[1].string_params[&Key::Source].clone(), host: "10.226.0.1".into(), port: 5801 };
    assert_equal(start_guest(guest(&originals[1], Key::Instance), Some(&media)), &originals[1]);
}

#[test]
fn guests_are_stopped_as_by_the_real_core() {
    for original in captured(MessageId::STOP_INSTANCE_REQUEST) {
        assert_equal(stop_guest(guest(&original, Key::Instance), StopMode::Force), &original);
    }
    let modes = [(StopMode::Graceful, [0, 0]), (StopMode::Force, [0, 1]), (StopMode::Reboot, [1, 0]), (StopMode::Reset, [1, 1])];
    for (mode, option) in modes {
        assert_eq!(stop_guest(GuestId::random(), mode).uint_array_params[&Key::Option], option, "{mode:?}");
    }
}

#[test]
fn the_other_requests_are_those_of_the_real_core() {
    type Build = fn(&Message) -> Message;
    let cases: [(MessageId, Build); 5] = [
        (MessageId::GET_INSTANCE_STATUS_REQUEST, |message| get_status(guest(message, Key::Instance))),
        (MessageId::DELETE_GUEST_REQUEST, |message| delete_guest(guest(message, Key::Instance))),
        (MessageId::QUERY_CELL_STORAGE_REQUEST, |message| query_storage(&message.string_params[&Key::Cell])),
        (MessageId::GET_COMPUTE_POOL_CELL_REQUEST, |message| get_cell(&message.string_params[&Key::Cell])),
        (MessageId::RESET_SYSTEM_REQUEST, |message| {
            let id = message.string_params[&Key::Image].clone();
            let image = ImageSource { id, host: "10.226.0.1".into(), port: 5801, size: 25_493_504 };
            reset_system(guest(message, Key::Guest), &image)
        }),
    ];
    for (id, build) in cases {
        for original in captured(id) {
            assert_equal(build(&original), &original);
        }
    }
}
