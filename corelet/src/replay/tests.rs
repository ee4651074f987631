use super::mapping::LiveImage;
use super::*;

const LIFECYCLE: &str = include_str!("../../../tests/vectors/lifecycle-messages.jsonl");
const ADDRESSES: &str = include_str!("../../../tests/vectors/addresses-messages.jsonl");
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
fn what_another_host_has_otherwise_does_not_count() {
    let id = MessageId::GET_INSTANCE_STATUS_REQUEST;
    let live = answer(id).from_session(900).string(Key::Secret, "other").string(Key::Hardware, "00:16:3e:00:00:01");
    let live = live.uint(Key::Monitor, 5999).float(Key::Usage, 12.5).uints(Key::IO, [1, 2, 3, 4]);
    assert_eq!(compare::answers(id, &answer(id), &live).outcome(), Outcome::Equal);
    let id = MessageId::QUERY_CELL_STORAGE_REQUEST;
    let live = answer(id).strings(Key::System, ["/srv".to_owned()]);
    assert_eq!(compare::answers(id, &answer(id), &live).outcome(), Outcome::Equal);
}

#[test]
fn values_with_a_meaning_count() {
    let id = MessageId::GET_INSTANCE_STATUS_REQUEST;
    let captured = answer(id);
    assert_eq!(differences(id, &captured.clone().uint(Key::Status, 0)), ["Status(10) of the numbers is 0 instead of 1"]);
    assert_eq!(differences(id, &captured.clone().bool(Key::Media, true)), ["Media(36) of the flags is true instead of false"]);
    assert_eq!(differences(id, &captured.string(Key::User, "other")), ["User(18) of the texts is \"other\" instead of \"admin\""]);
    let id = MessageId::QUERY_SNAPSHOT_REQUEST;
    let live = answer(id).strings(Key::Name, ["s2".to_owned()]);
    assert_eq!(differences(id, &live), ["Name(0) of the lists of texts is [\"s2\"] instead of [\"s1\"]"]);
}

#[test]
fn an_answer_is_expected_with_the_live_guest_and_its_name() {
    let steps = parse(LIFECYCLE).unwrap();
    let mut mapping = Mapping::new("Cell_live");
    let request = mapping.translate(&step(&steps, MessageId::CREATE_GUEST_REQUEST).request).unwrap();
    let expected = mapping.expect(&answer(MessageId::GET_INSTANCE_STATUS_REQUEST));
    assert_eq!(expected.string_params[&Key::Instance], request.string_params[&Key::Instance]);
    assert_eq!(expected.string_params[&Key::Name], request.string_params[&Key::Name]);
    let snapshots = mapping.expect(&answer(MessageId::QUERY_SNAPSHOT_REQUEST));
    assert_eq!(snapshots, answer(MessageId::QUERY_SNAPSHOT_REQUEST));
}

#[test]
fn requests_about_images_are_about_the_live_server() {
    let steps = parse(IMAGES).unwrap();
    let mut mapping = Mapping::new("Cell_live");
    let server = "192.0.2.1:5807".parse().unwrap();
    mapping.use_image(LiveImage { server, id: "live".into(), size: 7 });
    let create = mapping.translate(&step(&steps, MessageId::CREATE_GUEST_REQUEST).request).unwrap();
    assert_eq!((create.string_params[&Key::Host].as_str(), create.uint_params[&Key::Port]), ("192.0.2.1", 5807));
    assert_eq!((create.string_params[&Key::Image].as_str(), create.uint_params[&Key::Size]), ("live", 7));
    let captured = step(&steps, MessageId::CREATE_DISK_IMAGE_REQUEST);
    assert_eq!(captured.updates.len(), 2, "progress, and the end");
    let upload = mapping.translate(&captured.request).unwrap();
    assert!(upload.string_params[&Key::Image].starts_with(&captured.request.string_params[&Key::Image]));
    assert!(!upload.uint_params.contains_key(&Key::Size));
}

/// The captured list of guests, as a Cell would give it that has the same guests under other ids and names.
fn live_list(captured: &Message, mapping: &mut Mapping) -> Message {
    let mut live = captured.clone();
    for id in live.string_array_params.get_mut(&Key::Instance).unwrap() {
        *id = mapping.enter(id).to_string();
    }
    for name in live.string_array_params.get_mut(&Key::Name).unwrap() {
        *name = mapping.name(name);
    }
    live
}

#[test]
fn lists_of_guests_are_compared_guest_by_guest() {
    let captured = step(&parse(ADDRESSES).unwrap(), MessageId::COMPUTE_POOL_READY_EVENT).answer.clone().unwrap();
    let mut mapping = Mapping::new("Cell_live");
    let live = live_list(&captured, &mut mapping);
    assert_eq!(guests::compare(&captured, &live, &mapping, &[]), [""; 0]);
    let mut other = live.clone();
    other.uint_array_params.get_mut(&Key::Status).unwrap()[0] = 1;
    other.string_array_params.get_mut(&Key::System).unwrap()[1] = "linux".into();
    let found = guests::compare(&captured, &other, &mapping, &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|text| text.contains("running: true")) && found.iter().any(|text| text.contains("System(42)")), "{found:?}");
    let stranger = GuestId::random();
    let mut more = live;
    more.string_array_params.get_mut(&Key::Instance).unwrap()[4] = stranger.to_string();
    let found = guests::compare(&captured, &more, &mapping, &[]);
    assert_eq!(found.len(), 2, "one is missing, one is more: {found:?}");
    assert_eq!(guests::compare(&captured, &more, &mapping, &[stranger]).len(), 1, "it was there before");
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

#[test]
fn the_manual_lists_every_deliberate_difference() {
    let manual = include_str!("../../../docs/corelet.md");
    for known in DELIBERATE {
        assert!(manual.contains(known.reason), "{}", known.reason);
    }
}
