use super::*;

const LIFECYCLE: &str = include_str!("../../../tests/vectors/lifecycle-messages.jsonl");
const IMAGES: &str = include_str!("../../../tests/vectors/images-messages.jsonl");

fn step(steps: &[Step], id: MessageId) -> &Step {
    steps.iter().find(|step| step.request.id == id).unwrap()
}

#[test]
fn a_capture_is_read_into_requests_with_answers_and_events() {
    let steps = parse(LIFECYCLE).unwrap();
    assert!(steps.iter().all(|step| step.answer.is_some()), "every request of this capture was answered");
    let ids = |step: &Step| step.events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(step(&steps, MessageId::CREATE_GUEST_REQUEST)), [MessageId::GUEST_CREATED_EVENT]);
    assert_eq!(ids(step(&steps, MessageId::STOP_INSTANCE_REQUEST)), [MessageId::GUEST_STOPPED_EVENT]);
    assert_eq!(ids(step(&steps, MessageId::DELETE_GUEST_REQUEST)), [MessageId::GUEST_DELETED_EVENT]);
    assert_eq!(step(&steps, MessageId::SHRINK_DISK_REQUEST).answer.as_ref().unwrap().id, MessageId::RESIZE_DISK_RESPONSE);
    let error = parse("\n{\"t\": 0}\n").unwrap_err();
    assert_eq!(error.to_string(), "line 2 of the capture is no record of a message");
}

#[test]
fn guests_names_and_the_cell_are_exchanged() {
    let steps = parse(LIFECYCLE).unwrap();
    let mut mapping = Mapping::new("Cell_live");
    let captured = &step(&steps, MessageId::CREATE_GUEST_REQUEST).request;
    let live = mapping.translate(captured).unwrap();
    let id = mapping.guest(&captured.string_params[&Key::Instance]).unwrap();
    assert_eq!(live.string_params[&Key::Instance], id.to_string());
    assert!(live.string_params[&Key::Name].starts_with("manager.life-"));
    assert_eq!(live.uint_array_params, captured.uint_array_params);
    let rename = mapping.translate(&step(&steps, MessageId::MODIFY_GUEST_NAME_REQUEST).request).unwrap();
    assert_eq!(rename.string_params[&Key::Guest], id.to_string());
    let snapshot = mapping.translate(&step(&steps, MessageId::CREATE_SNAPSHOT_REQUEST).request).unwrap();
    assert_eq!(snapshot.string_params[&Key::Name], "s1", "only names of guests are exchanged");
    let storage = mapping.translate(&step(&steps, MessageId::QUERY_CELL_STORAGE_REQUEST).request).unwrap();
    assert_eq!(storage.string_params[&Key::Cell], "Cell_live");
    assert_eq!(mapping.guests(), [id]);
}

#[test]
fn what_cannot_be_repeated_is_named() {
    let steps = parse(IMAGES).unwrap();
    let mut mapping = Mapping::new("Cell_live");
    let image = mapping.translate(&step(&steps, MessageId::CREATE_GUEST_REQUEST).request);
    assert_eq!(image.unwrap_err(), "it needs the capture's image server");
    let status = mapping.translate(&step(&steps, MessageId::GET_INSTANCE_STATUS_REQUEST).request);
    assert!(status.unwrap_err().starts_with("the capture does not create its guest"));
}

/// The captured answer to the first such request.
fn answer(id: MessageId) -> Message {
    step(&parse(LIFECYCLE).unwrap(), id).answer.clone().unwrap()
}

fn differences(id: MessageId, live: &Message) -> Vec<String> {
    compare::answers(id, &answer(id), live).differences
}

#[test]
fn equal_answers_are_equal_whatever_their_values() {
    let id = MessageId::GET_INSTANCE_STATUS_REQUEST;
    let live = answer(id).from_session(900).string(Key::Name, "manager.other").uint(Key::Monitor, 5999).float(Key::Usage, 12.5);
    assert_eq!(compare::answers(id, &answer(id), &live).outcome(), Outcome::Equal);
}

#[test]
fn every_kind_of_difference_is_found() {
    let id = MessageId::GET_INSTANCE_STATUS_REQUEST;
    let mut missing = answer(id);
    missing.string_params.remove(&Key::Secret);
    assert_eq!(differences(id, &missing), ["Secret(40) is missing in the texts"]);
    assert_eq!(differences(id, &answer(id).int(Key::Index, 1)), ["Index(76) is new in the signed numbers"]);
    assert_eq!(differences(id, &answer(id).uints(Key::IO, [1])), ["IO(6) of the lists of numbers has 1 values instead of 4"]);
    assert_eq!(differences(id, &answer(id).from_session(0)), ["the answer bears no session of the Cell"]);
    assert_eq!(differences(id, &answer(id).failed("no such guest")), ["it failed: no such guest"]);
    let mut retyped = answer(id);
    retyped.uint_params.remove(&Key::Status);
    let retyped = retyped.bool(Key::Status, true);
    assert_eq!(differences(id, &retyped), ["Status(10) is missing in the numbers", "Status(10) is new in the flags"]);
    assert_eq!(
        differences(id, &Message { id: MessageId::GET_GUEST_RESPONSE, ..answer(id) }),
        ["answered by GetGuestResponse (0x000A0501) instead of GetInstanceStatusResponse (0x000E0601)"]
    );
}

#[test]
fn deliberate_differences_are_told_apart() {
    let id = MessageId::SHRINK_DISK_REQUEST;
    let live = Message { id: MessageId::SHRINK_DISK_RESPONSE, ..answer(id) };
    let outcome = compare::answers(id, &answer(id), &live).outcome();
    assert!(matches!(&outcome, Outcome::Deliberate { reasons } if reasons.len() == 1), "{outcome:?}");
    let other = MessageId::RESIZE_DISK_REQUEST;
    let live = Message { id: MessageId::SHRINK_DISK_RESPONSE, ..answer(other) };
    assert!(matches!(compare::answers(other, &answer(other), &live).outcome(), Outcome::Different { .. }), "only there");
}
