use cell::proto::message::MessageId;

use super::*;

const LIFECYCLE: &str = include_str!("../../../tests/vectors/lifecycle-messages.jsonl");

/// The first captured message of the reference Cell with this id.
fn captured(id: MessageId) -> Message {
    let records = LIFECYCLE.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut messages = records.map(|record| serde_json::from_value::<Message>(record["message"].clone()).unwrap());
    messages.find(|message| message.id == id).unwrap()
}

#[test]
fn the_captured_status_is_read() {
    let status = GuestAnswer::from_status(&captured(MessageId::GET_INSTANCE_STATUS_RESPONSE)).unwrap();
    assert_eq!((status.name.as_str(), status.running, status.created), ("manager.life", true, true));
    assert_eq!(status.disks, [67_108_864, 33_554_432]);
    assert_eq!(status.limits, [0, 0, 600, 500, 0, 0]);
    let usage = status.usage.unwrap();
    assert_eq!((usage.memory_available, usage.bytes_received, usage.media), (17_936_384, 516, false));
}

#[test]
fn the_captured_reports_and_lists_are_read() {
    let report = StatusReport::from_message(&captured(MessageId::CELL_STATUS_REPORT_EVENT)).unwrap();
    assert_eq!((report.cores, report.memory_total), (2, 25_276_502_016));
    let paths = StoragePaths::from_message(&captured(MessageId::QUERY_CELL_STORAGE_RESPONSE)).unwrap();
    assert_eq!((paths.mode, paths.system.as_slice()), ("local", ["/var/lib/libvirt/images".to_owned()].as_slice()));
    assert_eq!(attached_storage(&captured(MessageId::GET_COMPUTE_POOL_CELL_RESPONSE)), Ok(Vec::new()));
}

#[test]
fn what_the_real_core_requires_is_required() {
    let complete = captured(MessageId::GET_INSTANCE_STATUS_RESPONSE);
    type Remove = fn(&mut Message, Key) -> bool;
    let required: [(Key, Remove); 6] = [
        (Key::Name, |message, key| message.string_params.remove(&key).is_some()),
        (Key::Secret, |message, key| message.string_params.remove(&key).is_some()),
        (Key::Status, |message, key| message.uint_params.remove(&key).is_some()),
        (Key::Usage, |message, key| message.float_params.remove(&key).is_some()),
        (Key::Media, |message, key| message.bool_params.remove(&key).is_some()),
        (Key::Disk, |message, key| message.uint_array_params.remove(&key).is_some()),
    ];
    for (key, remove) in required {
        let mut message = complete.clone();
        assert!(remove(&mut message, key), "the capture has {key}");
        assert_eq!(GuestAnswer::from_status(&message), Err(AnswerError::Missing(key)));
    }
    let short = complete.clone().uints(Key::IO, [1, 2, 3]);
    assert_eq!(GuestAnswer::from_status(&short), Err(AnswerError::Length { key: Key::IO, found: 3, expected: 4 }));
    let odd = complete.uint(Key::Priority, 3);
    assert_eq!(GuestAnswer::from_status(&odd), Err(AnswerError::Value { key: Key::Priority, value: 3 }));
}

#[test]
fn lists_of_shared_storage_must_have_one_length() {
    let message = Message::new(MessageId::GET_COMPUTE_POOL_CELL_RESPONSE)
        .strings(Key::Storage, ["a".to_owned()])
        .strings(Key::Error, [])
        .uints(Key::Attach, [1]);
    assert_eq!(attached_storage(&message), Err(AnswerError::Length { key: Key::Error, found: 0, expected: 1 }));
}
