use super::*;

fn build(message: &str, parameters: &[&str]) -> Result<Message, RawError> {
    let parameters: Vec<String> = parameters.iter().map(|text| (*text).to_owned()).collect();
    parse(message, &parameters, |name| (name == "cell").then(|| "Cell_1".to_owned()))
}

#[test]
fn names_and_numbers_of_the_contract_are_understood() {
    let expected = Message::new(MessageId::STOP_INSTANCE_REQUEST).string(Key::Instance, "x").uints(Key::Option, [0, 1]);
    for id in ["StopInstanceRequest", "stopinstancerequest", "0x000D0600", "853504"] {
        assert_eq!(build(id, &["s.Instance=x", "ua.16=0,1"]).unwrap(), expected, "{id}");
    }
}

#[test]
fn every_map_can_be_filled() {
    let message = build("1", &["b.Enable=true", "s.Cell=@cell", "u.Port=7", "i.Index=-1", "f.Usage=0.5", "ua.Limit=", "sa.Name=a,b"]);
    let expected = Message::new(MessageId(1))
        .bool(Key::Enable, true)
        .string(Key::Cell, "Cell_1")
        .uint(Key::Port, 7)
        .int(Key::Index, -1)
        .float(Key::Usage, 0.5)
        .uints(Key::Limit, [])
        .strings(Key::Name, ["a".to_owned(), "b".to_owned()]);
    assert_eq!(message.unwrap(), expected);
}

#[test]
fn a_whole_message_is_taken_as_it_is() {
    let message = build(r#"{"id":203520,"string_params":{"12":"c"}}"#, &[]).unwrap();
    assert_eq!(message, Message::new(MessageId::QUERY_CELL_STORAGE_REQUEST).string(Key::Cell, "c"));
    assert_eq!(build(r#"{"id":1}"#, &["u.1=1"]), Err(RawError::Surplus));
    assert!(matches!(build("{", &[]), Err(RawError::Json(_))));
}

#[test]
fn mistakes_are_named() {
    assert_eq!(build("NoSuchRequest", &[]), Err(RawError::Id("NoSuchRequest".into())));
    assert_eq!(build("1", &["s.Nokey=1"]), Err(RawError::Key("Nokey".into())));
    assert_eq!(build("1", &["x.Name=1"]), Err(RawError::Map("x".into())));
    assert_eq!(build("1", &["Name"]), Err(RawError::Form("Name".into())));
    assert_eq!(build("1", &["u.Port=-1"]), Err(RawError::Value { map: "u".into(), value: "-1".into() }));
    assert_eq!(build("1", &["s.Cell=@nobody"]), Err(RawError::Value { map: "s".into(), value: "@nobody".into() }));
}
