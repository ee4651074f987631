//! Datagrams from anybody into the FEC decoder: no panic, at most three shards back from a group, bounded memory.
#![no_main]

use cell::proto::fec::{Decoder, Packet, GROUP, MAX_DATAGRAM, PARITY_SHARDS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagrams: Vec<Vec<u8>>| {
    let mut decoder = Decoder::new();
    for datagram in &datagrams {
        if let Ok(packet) = Packet::parse(datagram) {
            assert!(packet.shard.len() <= MAX_DATAGRAM);
            assert!(decoder.receive(&packet).count() <= PARITY_SHARDS);
        }
    }
    assert!(decoder.held_bytes() <= 8 * GROUP * 2 * MAX_DATAGRAM);
});
