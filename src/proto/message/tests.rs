use proptest::prelude::*;

use super::boundary::{Boundary, Scan};
use super::*;

/// Everything that the decoder gives for chunks of the stream.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Message, MessageError>> {
    let mut decoder = MessageDecoder::new();
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        events.extend(std::iter::from_fn(|| decoder.poll()));
    }
    events
}

fn decode_text(text: &str) -> Vec<Result<Message, MessageError>> {
    decode([text.as_bytes()])
}

fn sample() -> Message {
    Message::new(MessageId::GET_GUEST_RESPONSE)
        .succeeded()
        .from_session(7)
        .to_session(u32::MAX)
        .bool(Key::Enable, false)
        .string(Key::Name, "a \"name\" {with} [brackets], \\ and \u{1f600}\n")
        .uint(Key::Memory, u64::MAX)
        .int(Key::Priority, i64::MIN)
        .float(Key::Usage, 0.25)
        .uints(Key::Disk, [1, 2])
        .strings(Key::Server, [])
}

fn invalid(event: &Result<Message, MessageError>) -> (Option<MessageId>, u32, &str) {
    match event {
        Err(MessageError::Invalid { id, from, reason }) => (*id, *from, reason),
        other => panic!("not an invalid object: {other:?}"),
    }
}

#[test]
fn a_message_may_be_cut_anywhere() {
    let mut encoder = MessageEncoder::new();
    let json = encoder.encode(&sample()).unwrap().to_vec();
    for at in 0..=json.len() {
        let (first, second) = json.split_at(at);
        assert_eq!(decode([first, second]), [Ok(sample())], "cut at {at}");
    }
    assert_eq!(decode(json.chunks(1)), [Ok(sample())]);
}

#[test]
fn messages_may_follow_each_other_with_white_space_or_none() {
    let events = decode_text(" {\"id\":1}{\"id\":2}\r\n\t {\"id\":3 , \"bool_params\" : null} ");
    let ids: Vec<u32> = events.into_iter().map(|event| event.unwrap().id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn endless_white_space_is_not_kept() {
    let mut decoder = MessageDecoder::new();
    for _ in 0..10_000 {
        decoder.push(&[b' '; 1368]);
        assert_eq!(decoder.poll(), None);
    }
    assert!(decoder.held_bytes() < 4096, "{} bytes held", decoder.held_bytes());
    decoder.push(br#"{"id":1}"#);
    assert_eq!(decoder.poll(), Some(Ok(Message::new(MessageId(1)))));
}

#[test]
fn an_object_that_is_no_message_is_skipped_and_reported_with_its_id() {
    let cases = [
        (r#"{"id":656640,"from":9,"uint_params":{"3":-1}}"#, Some(0xA0500), 9),
        (r#"{"id":656640,"from":9,"uint_params":{"3":1.0}}"#, Some(0xA0500), 9),
        (r#"{"id":656640,"from":9,"uint_params":{"3":18446744073709551616}}"#, Some(0xA0500), 9),
        (r#"{"id":656640,"from":4294967296}"#, Some(0xA0500), 0),
        (r#"{"from":9,"id":656640,"string_params":[]}"#, Some(0xA0500), 9),
        (r#"{"from":9,"id":656640,"bool_params":{"x":true}}"#, Some(0xA0500), 9),
        (r#"{"from":9,"id":656640,"bool_params":{"-1":true}}"#, Some(0xA0500), 9),
        (r#"{"from":9,"id":656640,"error":"\ud800"}"#, Some(0xA0500), 9),
        (r#"{"from":{"a":[1]},"id":656640}"#, Some(0xA0500), 0),
        (r#"{"from":9,"id":"656640"}"#, None, 9),
        (r#"{"from":9,"id":[1,{"a":2}]}"#, None, 9),
        (r#"{"from":9,"id":-5}"#, None, 9),
        (r#"{"from":true,"id":1.5}"#, None, 0),
        (r#"{"from":9}"#, None, 9),
        ("{}", None, 0),
    ];
    for (object, id, from) in cases {
        let events = decode_text(&format!("{object}{{\"id\":131330}}"));
        assert_eq!(events.len(), 2, "{object}");
        let (found_id, found_from, reason) = invalid(&events[0]);
        assert_eq!((found_id, found_from), (id.map(MessageId), from), "{object}");
        assert!(!reason.is_empty());
        assert_eq!(events[1], Ok(Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT)), "after {object}");
    }
}

#[test]
fn a_report_holds_nothing_that_may_be_secret() {
    let events = decode_text(r#"{"id":1,"uint_params":{"40":"pass \"word\" 12"}}"#);
    let (.., reason) = invalid(&events[0]);
    assert!(reason.starts_with("invalid type: string, expected u64"), "{reason}");
    let events = decode_text(r#"{"id":1,"uint_params":"pass"}"#);
    assert!(!events[0].as_ref().unwrap_err().to_string().contains("pass"));
}

#[test]
fn invalid_utf8_in_a_text_is_no_message() {
    let events = decode([&b"{\"id\":1,\"error\":\"\xff\xfe\"}"[..], b"{\"id\":2}"]);
    assert_eq!(invalid(&events[0]).1, 0);
    assert_eq!(events[1], Ok(Message::new(MessageId(2))));
}

#[test]
fn bytes_that_can_never_be_json_break_the_stream_at_once() {
    let cases = [
        "garbage",
        "[1]",
        "1",
        "\"x\"",
        "}",
        "\u{feff}{",
        "{1",
        "{,",
        "{\"a\"}",
        "{\"a\" 1",
        "{\"a\":}",
        "{\"a\":x",
        "{\"a\":tru3",
        "{\"a\":nul ",
        "{\"a\":01",
        "{\"a\":+1",
        "{\"a\":-x",
        "{\"a\":1.}",
        "{\"a\":1.e",
        "{\"a\":.5",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":1 2",
        "{\"a\":[1}",
        "{\"a\":{]",
        "{\"a\":[1,]",
        "{\"a\":1,}",
        "{\"a\":[,",
        "{\"a\":\"\\x",
        "{\"a\":\"\\u12g",
        "{\"a\":\"\n",
        "{\"a\":1]",
        "{'a'",
    ];
    for case in cases {
        let events = decode([br#"{"id":1}"#, case.as_bytes(), br#"{"id":2}"#]);
        assert_eq!(events.len(), 2, "{case}: {events:?}");
        assert_eq!(events[0], Ok(Message::new(MessageId(1))));
        assert!(matches!(events[1], Err(MessageError::Fatal(_))), "{case}: {events:?}");
    }
}

#[test]
fn a_message_of_two_mebibytes_is_the_longest() {
    let of_length = |length: usize| {
        let frame = r#"{"id":1,"error":""}"#.len();
        format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(length - frame)).into_bytes()
    };
    let events = decode(of_length(MESSAGE_LIMIT).chunks(1368));
    assert_eq!(events.len(), 1);
    assert!(events[0].is_ok());

    let endless = std::iter::once(br#"{"id":1,"error":""#.to_vec()).chain(std::iter::repeat_n(vec![b'x'; 1368], 3000));
    let mut decoder = MessageDecoder::new();
    let mut fatal = None;
    for (count, chunk) in endless.enumerate() {
        decoder.push(&chunk);
        if let Some(event) = decoder.poll() {
            assert!(matches!(event, Err(MessageError::Fatal(_))));
            fatal = fatal.or(Some(count));
        }
        assert!(decoder.held_bytes() <= 2 * MESSAGE_LIMIT + 1368);
    }
    assert_eq!(fatal, Some((MESSAGE_LIMIT - 17) / 1368 + 1));
    assert!(decoder.held_bytes() < 1 << 17, "what broke is let go");
    assert!(matches!(decode([&of_length(MESSAGE_LIMIT + 1)[..]])[..], [Err(MessageError::Fatal(_))]));
}

#[test]
fn a_long_message_is_let_go_once_it_is_read() {
    let mut decoder = MessageDecoder::new();
    for chunk in format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(1 << 20)).as_bytes().chunks(1368) {
        decoder.push(chunk);
        while decoder.poll().is_some() {}
    }
    assert!(decoder.held_bytes() < 1 << 17, "{} bytes held", decoder.held_bytes());
}

#[test]
fn nesting_cannot_overflow_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 100_000;
        let inner = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let typed = decode_text(&format!(r#"{{"id":656640,"bool_params":{{"1":{inner}}}}}{{"id":2}}"#));
        assert_eq!(invalid(&typed[0]).0, Some(MessageId::GET_GUEST_REQUEST));
        assert_eq!(typed[1], Ok(Message::new(MessageId(2))));
        let unknown = decode_text(&format!(r#"{{"id":1,"unknown":{inner}}}{{"id":2}}"#));
        assert_eq!(unknown, [Ok(Message::new(MessageId(1))), Ok(Message::new(MessageId(2)))]);
        let as_id = decode_text(&format!(r#"{{"id":{inner}}}{{"id":2}}"#));
        assert_eq!(invalid(&as_id[0]).0, None);
        assert_eq!(as_id[1], Ok(Message::new(MessageId(2))));
    }
}

#[test]
fn a_message_that_no_core_takes_is_not_encoded() {
    let mut encoder = MessageEncoder::new();
    let error = encoder.encode(&sample().string(Key::Data, "x".repeat(SEND_LIMIT))).unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { id: MessageId::GET_GUEST_RESPONSE, bytes } if bytes > SEND_LIMIT), "{error}");
    let longest = sample().failed("x".repeat(SEND_LIMIT - 1000));
    assert!(encoder.encode(&longest).is_ok_and(|json| json.len() <= SEND_LIMIT));
}

#[test]
fn every_byte_of_a_stream_is_scanned_once() {
    // A chunk for each byte: were the buffer scanned again for each, this would take 2^39 steps.
    let text = format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(decode(text.as_bytes().chunks(1)).len(), 1);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[\\\\\"{}\\[\\],:u0-9 ]{0,12}"]
}

fn params<T: std::fmt::Debug>(values: impl Strategy<Value = T>) -> impl Strategy<Value = Params<T>> {
    prop::collection::btree_map(any::<u32>().prop_map(Key), values, 0..4)
}

prop_compose! {
    fn any_message()(
        (id, success, from, to, transaction, error) in (any::<u32>(), any::<bool>(), any::<u32>(), any::<u32>(), any::<u32>(), text()),
        bool_params in params(any::<bool>()),
        string_params in params(text()),
        uint_params in params(any::<u64>()),
        int_params in params(any::<i64>()),
        float_params in params((-1_000_000..1_000_000i32).prop_map(|number| f64::from(number) / 64.0)),
        uint_array_params in params(prop::collection::vec(any::<u64>(), 0..4)),
        string_array_params in params(prop::collection::vec(text(), 0..4)),
    ) -> Message {
        Message {
            id: MessageId(id), success, from, to, transaction, error, bool_params, string_params, uint_params, int_params, float_params,
            uint_array_params, string_array_params,
        }
    }
}

/// Bytes that are nearly JSON.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\"id\"",
            "\"a\":",
            "1",
            "-",
            "0",
            ".5",
            "e+3",
            "true",
            "null",
            "fals",
            "\\u00e9",
            " ",
            "{\"id\":1}",
            "\u{7f}",
            "\n",
        ][..],
    );
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Cuts bytes into chunks at the given places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// What serde_json makes of the beginning of a stream.
fn reference(bytes: &[u8]) -> Scan {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        None => Scan::Between,
        Some(Ok(_)) => Scan::Complete(values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Scan::Inside,
        Some(Err(_)) => Scan::Never(0),
    }
}

proptest! {
    #[test]
    fn messages_round_trip(messages in prop::collection::vec(any_message(), 1..5), places in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut encoder = MessageEncoder::new();
        let stream: Vec<u8> = messages.iter().flat_map(|message| encoder.encode(message).unwrap().to_vec()).collect();
        let decoded: Vec<Message> = decode(cut(&stream, &places)).into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(decoded, messages);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), places in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        prop_assert_eq!(decode(cut(&bytes, &places)), decode([&bytes[..]]));
    }

    #[test]
    fn chunks_make_no_difference(bytes in nearly_json(), places in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        prop_assert_eq!(decode(cut(&bytes, &places)), decode([&bytes[..]]));
    }

    /// The scanner agrees with a whole JSON parser on what is complete, what may become so and what never will.
    #[test]
    fn the_scanner_agrees_with_a_parser(tail in nearly_json()) {
        let bytes = [b"{", &tail[..]].concat();
        prop_assume!(!bytes.ends_with(b"-")); // the parser calls a lone minus wrong, though a digit may follow
        match (Boundary::new().scan(&bytes), reference(&bytes)) {
            (Scan::Never(_), Scan::Never(_)) => {}
            (found, expected) => prop_assert_eq!(found, expected, "{}", String::from_utf8_lossy(&bytes)),
        }
    }
}
