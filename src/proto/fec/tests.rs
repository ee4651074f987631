use proptest::prelude::*;

use super::*;
use crate::proto::sim_link::Rng;

/// Data packets with the given payloads, and the parity that follows them.
fn packets(encoder: &mut Encoder, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for payload in payloads {
        let mut datagram = vec![0; DATA_HEADER];
        datagram.extend_from_slice(payload);
        encoder.seal(&mut datagram);
        packets.push(datagram);
        let mut parity = Vec::new();
        while encoder.poll_parity(&mut parity) {
            packets.push(std::mem::take(&mut parity));
        }
    }
    packets
}

fn payloads(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| (0..1 + rng.below(200)).map(|_| rng.next() as u8).collect()).collect()
}

/// What comes out of the decoder: payloads that came directly, and those that were recovered.
fn receive(decoder: &mut Decoder, datagram: &[u8]) -> Vec<Vec<u8>> {
    let packet = Packet::parse(datagram).unwrap();
    let direct = packet.payload().map(<[u8]>::to_vec);
    direct.into_iter().chain(decoder.receive(&packet).map(<[u8]>::to_vec)).collect()
}

fn sorted(mut payloads: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    payloads.sort();
    payloads
}

/// The packets numbered `lost` of a group of 13, for all ways to lose three.
fn all_losses() -> impl Iterator<Item = u16> {
    (0..1u16 << GROUP).filter(|lost| lost.count_ones() == 3)
}

#[test]
fn any_three_packets_of_a_group_come_back() {
    let payloads = payloads(1, DATA_SHARDS);
    let packets = packets(&mut Encoder::new(0), &payloads);
    assert_eq!(packets.len(), GROUP);
    assert_eq!(all_losses().count(), 286);
    for lost in all_losses() {
        let mut decoder = Decoder::new();
        let arrived = packets.iter().enumerate().filter(|(place, _)| lost & (1 << place) == 0);
        let received = arrived.flat_map(|(_, datagram)| receive(&mut decoder, datagram)).collect();
        assert_eq!(sorted(received), sorted(payloads.clone()), "lost: {lost:013b}");
    }
}

#[test]
fn order_does_not_matter_and_nothing_comes_twice() {
    let payloads = payloads(2, 4 * DATA_SHARDS);
    let packets = packets(&mut Encoder::new(0), &payloads);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut arriving: Vec<&Vec<u8>> =
            packets.iter().enumerate().filter(|(place, _)| place % 13 % 5 != 1).map(|(_, packet)| packet).collect();
        arriving.sort_by_cached_key(|_| rng.next());
        let mut decoder = Decoder::new();
        let mut received = Vec::new();
        for datagram in arriving {
            received.extend(receive(&mut decoder, datagram));
            let packet = Packet::parse(datagram).unwrap();
            assert_eq!(decoder.receive(&packet).count(), 0, "the same packet again brings nothing");
        }
        received.sort();
        received.dedup(); // a packet that comes after its recovery comes directly too; KCP drops it by its number
        assert_eq!(received, sorted(payloads.clone()));
    }
}

#[test]
fn four_lost_packets_stay_lost() {
    let packets = packets(&mut Encoder::new(0), &payloads(3, DATA_SHARDS));
    let mut decoder = Decoder::new();
    let recovered: usize = packets[4..].iter().map(|datagram| decoder.receive(&Packet::parse(datagram).unwrap()).count()).sum();
    assert_eq!(recovered, 0);
}

#[test]
fn groups_go_on_across_the_end_of_the_counter() {
    let mut encoder = Encoder::new(SEQUENCE_END - 20); // rounds down to the last group but one
    let payloads = payloads(4, 3 * DATA_SHARDS);
    let packets = packets(&mut encoder, &payloads);
    let sequences: Vec<u32> = packets.iter().map(|datagram| Packet::parse(datagram).unwrap().sequence).collect();
    let expected: Vec<u32> = (SEQUENCE_END - 26..SEQUENCE_END).chain(0..13).collect();
    assert_eq!(sequences, expected);
    assert_eq!(SEQUENCE_END, 4_294_967_287);
    let mut decoder = Decoder::new();
    let arrived = packets.iter().enumerate().filter(|(place, _)| !(3..6).contains(&(place % 13)));
    let received = arrived.flat_map(|(_, datagram)| receive(&mut decoder, datagram)).collect();
    assert_eq!(sorted(received), sorted(payloads));
}

#[test]
fn a_group_that_does_not_fill_has_no_parity() {
    let mut encoder = Encoder::new(0);
    assert_eq!(packets(&mut encoder, &payloads(5, DATA_SHARDS - 1)).len(), DATA_SHARDS - 1);
    assert!(!encoder.has_parity());
    assert!(!encoder.poll_parity(&mut Vec::new()));
}

#[test]
fn parity_that_nobody_fetches_is_skipped() {
    let mut encoder = Encoder::new(0);
    let mut last = vec![0; 40];
    for _ in 0..=DATA_SHARDS {
        encoder.seal(&mut last);
    }
    assert_eq!(Packet::parse(&last).unwrap().sequence, 13);
}

/// Parity of the group that `sequence` is in.
fn forged_parity(sequence: u32, length: usize) -> Vec<u8> {
    [&sequence.to_le_bytes()[..], &[0xf2, 0], &vec![0xaa; length]].concat()
}

fn forged_data(sequence: u32) -> Vec<u8> {
    [&sequence.to_le_bytes()[..], &[0xf1, 0, 6, 0], &[1, 2, 3, 4]].concat()
}

#[test]
fn wild_numbers_do_not_push_live_groups_out() {
    let payloads = payloads(6, DATA_SHARDS);
    let packets = packets(&mut Encoder::new(13 * 1000), &payloads);
    let mut rng = Rng::new(6);
    let mut decoder = Decoder::new();
    let mut received = Vec::new();
    for (place, datagram) in packets.iter().enumerate().filter(|(place, _)| ![0, 5, 9].contains(place)) {
        received.extend(receive(&mut decoder, datagram));
        for _ in 0..100 {
            let far = rng.below(u64::from(SEQUENCE_END / 13)) as u32 * 13;
            receive(&mut decoder, &forged_parity(far + 10 + rng.below(3) as u32, 1400));
        }
        receive(&mut decoder, &forged_data(if place % 2 == 0 { SEQUENCE_END - 13 } else { 13 * 2_000_000 }));
    }
    assert_eq!(sorted(received), sorted(payloads));
}

#[test]
fn memory_is_bounded() {
    let mut rng = Rng::new(7);
    let mut decoder = Decoder::new();
    for _ in 0..50_000 {
        let group = rng.below(u64::from(SEQUENCE_END / 13)) as u32 * 13;
        receive(&mut decoder, &forged_data(group + rng.below(10) as u32));
        receive(&mut decoder, &forged_parity(group + 10 + rng.below(3) as u32, 1000));
    }
    assert!(decoder.held_bytes() <= 8 * GROUP * 2 * MAX_DATAGRAM, "{} bytes held", decoder.held_bytes());
}

#[test]
fn contradicting_parity_brings_nothing_back() {
    for (place, length) in [(10, 3), (11, 900), (12, 1400)] {
        let mut packets = packets(&mut Encoder::new(0), &payloads(8, DATA_SHARDS));
        packets[place] = forged_parity(place as u32, length);
        let mut decoder = Decoder::new();
        let recovered: usize = packets[3..].iter().map(|datagram| decoder.receive(&Packet::parse(datagram).unwrap()).count()).sum();
        assert_eq!(recovered, 0);
    }
}

#[test]
fn what_is_no_packet_is_told_apart() {
    let parse = |bytes: &[u8]| Packet::parse(bytes).map(|packet| packet.sequence);
    assert_eq!(parse(&[]), Err(PacketError::Short(0)));
    assert_eq!(parse(&[0, 0, 0, 0, 0xf1, 0]), Err(PacketError::Short(6)));
    assert_eq!(parse(&[0, 0, 0, 0, 0xf1, 0, 1]), Err(PacketError::Short(7)));
    assert_eq!(parse(&vec![0; 1501]), Err(PacketError::Long(1501)));
    assert_eq!(parse(br#"{"type":0,"id":1}"#), Err(PacketError::UnknownKind(0x6570)));
    assert_eq!(parse(&[10, 0, 0, 0, 0xf1, 0, 2, 0]), Err(PacketError::Misplaced { sequence: 10, kind: Kind::Data }));
    assert_eq!(parse(&[9, 0, 0, 0, 0xf2, 0, 2, 0]), Err(PacketError::Misplaced { sequence: 9, kind: Kind::Parity }));
    assert_eq!(parse(&forged_data(SEQUENCE_END)), Err(PacketError::Misplaced { sequence: SEQUENCE_END, kind: Kind::Data }));
    assert_eq!(parse(&[9, 0, 0, 0, 0xf1, 0, 3, 0]), Err(PacketError::Length { field: 3, actual: 2 }));
    assert_eq!(parse(&forged_data(9)), Ok(9));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
        let mut decoder = Decoder::new();
        for datagram in datagrams {
            if let Ok(packet) = Packet::parse(&datagram) {
                decoder.receive(&packet).count();
            }
        }
    }

    /// Bytes that are packets, in few groups and with few lengths, so that groups fill and contradict themselves.
    #[test]
    fn arbitrary_packets_never_panic(packets in prop::collection::vec((0..40u32, prop::collection::vec(any::<u8>(), 2..6)), 0..200)) {
        let mut decoder = Decoder::new();
        for (sequence, shard) in packets {
            let kind = if sequence % 13 < 10 { Kind::Data } else { Kind::Parity };
            let recovered = decoder.receive(&Packet { sequence, kind, shard: &shard }).count();
            prop_assert!(recovered <= PARITY_SHARDS);
        }
    }

    #[test]
    fn packets_round_trip(start in any::<u32>(), payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1392), 1..25)) {
        let mut encoder = Encoder::new(start);
        let packets = packets(&mut encoder, &payloads);
        let data = packets.iter().filter_map(|datagram| Packet::parse(datagram).unwrap().payload());
        prop_assert!(data.eq(payloads.iter().map(Vec::as_slice)));
    }
}
