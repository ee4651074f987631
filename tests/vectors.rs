//! Traffic captured between a real Core and the reference Cell, held against our codecs and our state machines.
//!
//! `vectors/*-datagrams.jsonl` has one datagram a line with its decoded segments, `vectors/*-messages.jsonl` the messages put together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cell::proto::fec::{self, Kind, Packet};
use cell::proto::kcp::{Segment, Segments};
use cell::proto::message::{Message, MessageDecoder};
use cell::proto::transport::{Transport, TransportConfig};
use serde_json::Value;

const DATAGRAMS: [&str; 3] = [
    include_str!("vectors/addresses-datagrams.jsonl"),
    include_str!("vectors/images-datagrams.jsonl"),
    include_str!("vectors/lifecycle-datagrams.jsonl"),
];
const MESSAGES: [&str; 3] = [
    include_str!("vectors/addresses-messages.jsonl"),
    include_str!("vectors/images-messages.jsonl"),
    include_str!("vectors/lifecycle-messages.jsonl"),
];

/// A datagram of a connection.
struct Captured {
    time: Duration,
    from: String,
    /// The Cell's port, which tells the connections of a capture apart.
    port: u64,
    bytes: Vec<u8>,
    line: Value,
}

/// A message of a connection.
struct Spoken {
    time: Duration,
    from: String,
    conv: u32,
    json: Value,
}

fn lines(text: &str) -> impl Iterator<Item = Value> + '_ {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn time(line: &Value) -> Duration {
    Duration::from_secs_f64(line["t"].as_f64().unwrap())
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn datagrams(capture: usize) -> Vec<Captured> {
    lines(DATAGRAMS[capture])
        .filter(|line| line["kind"] != "discovery")
        .map(|line| Captured {
            time: time(&line),
            from: text(&line["from"]),
            port: line[if line["from"] == "cell" { "from_port" } else { "to_port" }].as_u64().unwrap(),
            bytes: unhex(line["hex"].as_str().unwrap()),
            line,
        })
        .collect()
}

fn messages(capture: usize) -> Vec<Spoken> {
    lines(MESSAGES[capture])
        .map(|line| Spoken { time: time(&line), from: text(&line["from"]), conv: number(&line["conv"]), json: line["message"].clone() })
        .collect()
}

/// The datagrams of one direction of one connection.
type Directions = BTreeMap<(u64, String), Vec<Captured>>;

fn directions(capture: usize) -> Directions {
    let mut directions = Directions::new();
    for datagram in datagrams(capture) {
        directions.entry((datagram.port, datagram.from.clone())).or_default().push(datagram);
    }
    directions
}

fn segments(datagram: &[u8]) -> Vec<Segment<'_>> {
    Segments::new(Packet::parse(datagram).unwrap().payload().unwrap()).map(Result::unwrap).collect()
}

fn conv_of(direction: &[Captured]) -> u32 {
    segments(&direction[0].bytes)[0].conv
}

#[test]
fn every_datagram_decodes_to_the_captured_segments() {
    let mut seen = 0;
    for datagram in (0..3).flat_map(datagrams) {
        let packet = Packet::parse(&datagram.bytes).unwrap();
        assert_eq!(packet.sequence, number(&datagram.line["fec_seq"]));
        match datagram.line["kind"].as_str().unwrap() {
            "fec-data" => assert_eq!(packet.kind, Kind::Data),
            "fec-parity" => assert_eq!(packet.kind, Kind::Parity),
            other => panic!("a kind that nobody knows: {other}"),
        }
        let Some(payload) = packet.payload() else {
            assert!(datagram.line["segments"].as_array().is_none_or(Vec::is_empty));
            continue;
        };
        let expected = datagram.line["segments"].as_array().unwrap();
        let decoded = segments(&datagram.bytes);
        assert_eq!(decoded.len(), expected.len());
        let mut again = Vec::new();
        for (segment, expected) in decoded.iter().zip(expected) {
            assert_eq!(segment.conv, number(&expected["conv"]));
            assert_eq!(u32::from(segment.command.number()), number(&expected["cmd"]));
            assert_eq!(u32::from(segment.fragment), number(&expected["frg"]));
            assert_eq!(u32::from(segment.window), number(&expected["wnd"]));
            assert_eq!(segment.ts, number(&expected["ts"]));
            assert_eq!(segment.sn, number(&expected["sn"]));
            assert_eq!(segment.una, number(&expected["una"]));
            assert_eq!(segment.data.len(), number(&expected["len"]) as usize);
            segment.write(&mut again);
            seen += 1;
        }
        assert_eq!(again, payload, "written again, the segments give the same bytes");
    }
    assert!(seen > 200, "only {seen} segments in the vectors");
}

#[test]
fn a_first_datagram_is_known_as_one() {
    for ((_, from), direction) in (0..3).flat_map(directions) {
        let conv = conv_of(&direction);
        let first = &direction[0].bytes;
        match from.as_str() {
            "cell" => assert_eq!(Transport::accept(first), Some(conv)),
            _ => assert_eq!(Transport::accept(first), None, "a Core's first datagram is an ack: it answers, it does not begin"),
        }
    }
}

/// `null` stands for an empty list, and `0` in a capture is the same number as `0.0`.
fn normal(json: &Value) -> Value {
    match json {
        Value::Null => Value::Array(Vec::new()),
        Value::Number(number) => number.as_f64().filter(|_| number.as_u64().is_none()).map_or(json.clone(), |number| {
            let is_whole = number.fract() == 0.0 && number >= 0.0;
            if is_whole {
                Value::from(number as u64)
            } else {
                json.clone()
            }
        }),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), normal(value))).collect(),
        other => other.clone(),
    }
}

fn decode(json: &Value) -> Message {
    serde_json::from_value(json.clone()).unwrap()
}

#[test]
fn messages_encode_to_equal_json() {
    let all: Vec<Spoken> = (0..3).flat_map(messages).collect();
    assert!(all.len() > 150);
    for spoken in &all {
        assert_eq!(normal(&serde_json::to_value(decode(&spoken.json)).unwrap()), normal(&spoken.json));
    }
}

/// Plays the end that `direction` was captured going to: sends what that end said, takes the datagrams of the other but those that `is_lost`
/// picks by their place, and gives the messages that come out.
fn replay(direction: &[Captured], spoken: &[Spoken], is_lost: impl Fn(usize) -> bool) -> Vec<Message> {
    let conv = conv_of(direction);
    let from = &direction[0].from;
    let mut own = spoken.iter().filter(|message| message.conv == conv && message.from != *from).peekable();
    let mut end = Transport::new(TransportConfig::new(conv));
    let mut received = Vec::new();
    for (place, datagram) in direction.iter().enumerate() {
        let now = datagram.time;
        while let Some(message) = own.next_if(|message| message.time <= now) {
            end.send(&decode(&message.json)).unwrap();
            while end.poll_transmit(message.time).is_some() {}
        }
        if !is_lost(place) {
            end.receive(now, &datagram.bytes).unwrap();
        }
        received.extend(std::iter::from_fn(|| end.poll_message()).map(Result::unwrap));
        while end.poll_transmit(now).is_some() {}
    }
    received
}

/// Puts a connection together that was open before the capture began, and so has no beginning to play.
fn put_together(direction: &[Captured]) -> Vec<Message> {
    let data = direction.iter().filter(|datagram| datagram.line["kind"] == "fec-data");
    let pushes: BTreeMap<u32, &[u8]> = data
        .flat_map(|datagram| segments(&datagram.bytes))
        .filter(|segment| !segment.data.is_empty())
        .map(|segment| (segment.sn, segment.data))
        .collect();
    let mut decoder = MessageDecoder::new();
    let mut received = Vec::new();
    for chunk in pushes.values() {
        decoder.push(chunk);
        received.extend(std::iter::from_fn(|| decoder.poll()).map(Result::unwrap));
    }
    received
}

/// The capture has the whole connection.
fn is_whole(direction: &[Captured]) -> bool {
    Packet::parse(&direction[0].bytes).unwrap().sequence == 0
}

fn expected(direction: &[Captured], spoken: &[Spoken]) -> Vec<Message> {
    let conv = conv_of(direction);
    let of_direction = spoken.iter().filter(|message| message.conv == conv && message.from == direction[0].from);
    of_direction.map(|message| decode(&message.json)).collect()
}

#[test]
fn the_captured_messages_come_out_of_the_streams() {
    let mut seen = 0;
    for capture in 0..3 {
        let spoken = messages(capture);
        for direction in directions(capture).values() {
            let received = if is_whole(direction) { replay(direction, &spoken, |_| false) } else { put_together(direction) };
            assert_eq!(received, expected(direction, &spoken));
            seen += received.len();
        }
        assert_eq!(seen, (0..=capture).map(|capture| messages(capture).len()).sum::<usize>(), "no message belongs to no stream");
    }
}

/// All ways to lose three packets of a group.
fn losses() -> impl Iterator<Item = [u32; 3]> {
    (0..13).flat_map(|a| (a + 1..13).flat_map(move |b| (b + 1..13).map(move |c| [a, b, c])))
}

/// Groups of a direction of which all 13 packets were captured.
fn full_groups(direction: &[Captured]) -> BTreeSet<u32> {
    let mut count = BTreeMap::<u32, usize>::new();
    for datagram in direction {
        *count.entry(Packet::parse(&datagram.bytes).unwrap().group()).or_default() += 1;
    }
    count.into_iter().filter(|(_, count)| *count == fec::GROUP).map(|(group, _)| group).collect()
}

#[test]
fn any_three_packets_of_each_full_group_may_be_lost() {
    assert_eq!(losses().count(), 286);
    let mut groups = 0;
    for capture in 0..3 {
        let spoken = messages(capture);
        for direction in directions(capture).values().filter(|direction| is_whole(direction)) {
            let full = full_groups(direction);
            groups += full.len();
            let place: Vec<(u32, u32)> = direction
                .iter()
                .map(|datagram| Packet::parse(&datagram.bytes).unwrap().sequence)
                .map(|sequence| (sequence / 13, sequence % 13))
                .collect();
            let expected = expected(direction, &spoken);
            for lost in losses() {
                let is_lost = |at: usize| full.contains(&place[at].0) && lost.contains(&place[at].1);
                assert_eq!(replay(direction, &spoken, is_lost), expected, "lost: {lost:?}");
            }
        }
    }
    assert!(groups >= 20, "only {groups} full groups in the vectors");
}

#[test]
fn our_parity_is_the_captured_parity() {
    let mut compared = 0;
    for direction in (0..3).flat_map(directions).map(|(_, direction)| direction) {
        let mut out = vec![0; 50];
        let first = Packet::parse(&direction[0].bytes).unwrap().sequence;
        let mut encoder = fec::Encoder::new(first);
        for _ in 0..first % 13 {
            encoder.seal(&mut out); // a capture may begin inside a group; none of those fills
        }
        for datagram in &direction {
            let packet = Packet::parse(&datagram.bytes).unwrap();
            out.clear();
            if packet.kind == Kind::Data {
                out.resize(fec::DATA_HEADER, 0);
                out.extend_from_slice(packet.payload().unwrap());
                encoder.seal(&mut out);
            } else {
                assert!(encoder.poll_parity(&mut out));
                compared += 1;
            }
            assert_eq!(out, datagram.bytes);
        }
    }
    assert_eq!(compared, 72, "parity packets in the vectors");
}
