use super::*;

const ADDRESSES: &str = include_str!("../../../tests/vectors/addresses-messages.jsonl");

fn captured_ready() -> Message {
    let records = ADDRESSES.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut messages = records.map(|record| serde_json::from_value::<Message>(record["message"].clone()).unwrap());
    messages.find(|message| message.id == cell::proto::message::MessageId::COMPUTE_CELL_READY_EVENT).unwrap()
}

#[test]
fn disks_and_limits_are_given_to_the_right_guests() {
    let guests = import(&captured_ready()).unwrap();
    let named = |name: &str| guests.values().find(|guest| guest.name == name).unwrap();
    assert_eq!(named("manager.cloud").disks, [100_663_296, 33_554_432]);
    assert_eq!(named("manager.db").disks, [67_108_864]);
    assert_eq!(named("manager.web").limits, [16_777_216, 8_388_608, 600, 500, 0, 0]);
    assert_eq!(named("manager.win").limits, [0; 6]);
    assert!(named("manager.win").running && !named("manager.db").running);
}

#[test]
fn every_list_must_have_one_value_a_guest() {
    let complete = captured_ready();
    for key in complete.uint_array_params.keys().copied() {
        let mut message = complete.clone();
        message.uint_array_params.get_mut(&key).unwrap().pop();
        assert!(matches!(import(&message), Err(ImportError::Length { .. })), "{key} short");
        message.uint_array_params.remove(&key);
        assert_eq!(import(&message), Err(ImportError::Missing(key)));
    }
    for key in complete.string_array_params.keys().copied() {
        let mut message = complete.clone();
        message.string_array_params.get_mut(&key).unwrap().push(String::new());
        assert!(matches!(import(&message), Err(ImportError::Length { .. })), "{key} long");
        message.string_array_params.remove(&key);
        assert_eq!(import(&message), Err(ImportError::Missing(key)));
    }
}

#[test]
fn hostile_counts_are_refused() {
    let complete = captured_ready();
    assert!(import(&complete.clone().uint(Key::Count, u64::MAX)).is_err());
    assert!(import(&complete.clone().uints(Key::Count, [u64::MAX; 5])).is_err());
    assert!(matches!(import(&complete.strings(Key::Instance, vec!["../x".to_owned(); 5])), Err(ImportError::Id(_))));
}
