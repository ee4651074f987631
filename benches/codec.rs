//! Medians of the codecs and of a whole connection in memory: `cargo bench --bench codec`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use cell::proto::fec::{Decoder, Encoder, Packet, DATA_HEADER};
use cell::proto::kcp::{Kcp, KcpConfig};
use cell::proto::message::{Key, Message, MessageDecoder, MessageEncoder, MessageId};
use cell::proto::transport::{Transport, TransportConfig};
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};

const CONV: u32 = 7;
const NOW: Duration = Duration::from_secs(1);

fn request() -> Message {
    Message::new(MessageId::GET_GUEST_REQUEST).from_session(77).string(Key::Instance, "5a9e1b99-630e-4b6d-9825-7de9d4e679b5")
}

fn response() -> Message {
    let zeros = || vec![0_u64; 6];
    Message::new(MessageId::GET_GUEST_RESPONSE)
        .succeeded()
        .from_session(3)
        .to_session(77)
        .string(Key::Name, "manager.test")
        .string(Key::Instance, "5a9e1b99-630e-4b6d-9825-7de9d4e679b5")
        .string(Key::User, "admin")
        .string(Key::Group, "manager")
        .string(Key::Secret, "vVauWlX7")
        .string(Key::Create, "2026-01-20 06:51:33")
        .string(Key::Hardware, "00:16:3e:26:53:a7")
        .uint(Key::Core, 2)
        .uint(Key::Memory, 1 << 30)
        .uint(Key::Monitor, 5921)
        .uints(Key::Disk, [1 << 33])
        .uints(Key::Limit, zeros())
        .uints(Key::IO, zeros())
        .bool(Key::Enable, true)
        .float(Key::Usage, 0.125)
}

/// A full group: ten data packets with payloads of that length, and their parity.
fn group(encoder: &mut Encoder, length: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for number in 0..10 {
        let mut datagram = vec![number; DATA_HEADER + length];
        encoder.seal(&mut datagram);
        packets.push(datagram);
    }
    let mut parity = Vec::new();
    while encoder.poll_parity(&mut parity) {
        packets.push(std::mem::take(&mut parity));
    }
    packets
}

fn fec(c: &mut Criterion) {
    let mut benches = c.benchmark_group("fec");
    for length in [100, 1392] {
        benches.throughput(Throughput::Bytes(10 * u64::try_from(length).unwrap()));
        benches.bench_with_input(BenchmarkId::new("encode a group", length), &length, |b, &length| {
            let mut encoder = Encoder::new(0);
            let mut datagram = vec![1; DATA_HEADER + length];
            let mut parity = Vec::new();
            b.iter(|| {
                for _ in 0..10 {
                    encoder.seal(black_box(&mut datagram));
                }
                while encoder.poll_parity(&mut parity) {
                    parity.clear();
                }
            });
        });
        for (name, lost) in [("decode a whole group", 0), ("decode a group that lost three", 3)] {
            benches.bench_with_input(BenchmarkId::new(name, length), &length, |b, &length| {
                let mut encoder = Encoder::new(0);
                let groups: Vec<Vec<Vec<u8>>> = (0..64).map(|_| group(&mut encoder, length)).collect();
                let mut groups = groups.iter().cycle();
                let mut decoder = Decoder::new();
                b.iter(|| {
                    for datagram in groups.next().unwrap().iter().skip(lost) {
                        let packet = Packet::parse(black_box(datagram)).unwrap();
                        black_box(decoder.receive(&packet).count());
                    }
                });
            });
        }
    }
    benches.finish();
}

fn hand_over(from: &mut Kcp, to: &mut Kcp, payload: &mut Vec<u8>) {
    payload.clear();
    assert!(from.poll_transmit(NOW, payload));
    to.receive(NOW, payload, true).unwrap();
}

fn kcp(c: &mut Criterion) {
    let mut here = Kcp::new(CONV, &KcpConfig::default());
    let mut there = Kcp::new(CONV, &KcpConfig::default());
    let mut payload = Vec::new();
    c.bench_function("kcp/a segment there, its ack back", |b| {
        b.iter(|| {
            here.send(black_box(&[b'x'; 200]));
            hand_over(&mut here, &mut there, &mut payload);
            hand_over(&mut there, &mut here, &mut payload);
            black_box(there.recv().unwrap());
        });
    });
}

fn messages(c: &mut Criterion) {
    let mut encoder = MessageEncoder::new();
    let long = request().string(Key::Data, "x".repeat(1 << 20));
    for (name, message) in [("request", request()), ("response", response()), ("1 MiB", long)] {
        let json = encoder.encode(&message).unwrap().to_vec();
        let mut benches = c.benchmark_group(format!("message/{name}"));
        benches.throughput(Throughput::Bytes(u64::try_from(json.len()).unwrap()));
        benches.bench_function("encode", |b| b.iter(|| black_box(encoder.encode(black_box(&message)).unwrap().len())));
        let mut decoder = MessageDecoder::new();
        benches.bench_function("decode", |b| {
            b.iter(|| {
                let mut decoded = 0;
                for chunk in json.chunks(1368) {
                    decoder.push(black_box(chunk));
                    decoded += std::iter::from_fn(|| decoder.poll()).count();
                }
                assert_eq!(decoded, 1);
            });
        });
        benches.finish();
    }
}

/// Hands over all that is due.
fn carry(from: &mut Transport, to: &mut Transport, datagram: &mut Vec<u8>) {
    while from.poll_transmit_into(NOW, datagram) {
        to.receive(NOW, datagram).unwrap();
    }
}

fn transport(c: &mut Criterion) {
    let mut benches = c.benchmark_group("transport");
    for in_flight in [1_usize, 64] {
        benches.throughput(Throughput::Elements(u64::try_from(in_flight).unwrap()));
        benches.bench_with_input(BenchmarkId::new("requests and responses, both ends", in_flight), &in_flight, |b, &in_flight| {
            let mut core = Transport::new(TransportConfig::new(CONV));
            let mut cell = Transport::new(TransportConfig::new(CONV));
            let (request, response) = (request(), response());
            let mut datagram = Vec::new();
            b.iter(|| {
                let mut answered = 0;
                for _ in 0..in_flight {
                    core.send(&request).unwrap();
                }
                while answered < in_flight {
                    carry(&mut core, &mut cell, &mut datagram);
                    while let Some(message) = cell.poll_message() {
                        black_box(message.unwrap());
                        cell.send(&response).unwrap();
                    }
                    carry(&mut cell, &mut core, &mut datagram);
                    while let Some(message) = core.poll_message() {
                        black_box(message.unwrap());
                        answered += 1;
                    }
                }
            });
        });
    }
    benches.finish();
}

criterion_group!(benches, fec, kcp, messages, transport);
criterion_main!(benches);
