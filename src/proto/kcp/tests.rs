use proptest::prelude::*;

use super::rtt::Rtt;
use super::*;

const CONV: u32 = 7;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn end(config: &KcpConfig) -> Kcp {
    Kcp::new(CONV, config)
}

/// All payloads that are due.
fn transmit(kcp: &mut Kcp, now: Duration) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    loop {
        let mut payload = Vec::new();
        if !kcp.poll_transmit(now, &mut payload) {
            return payloads;
        }
        assert!(payload.len() <= MAX_CHUNK + HEADER);
        payloads.push(payload);
    }
}

fn segments(payload: &[u8]) -> Vec<Segment<'_>> {
    Segments::new(payload).map(Result::unwrap).collect()
}

fn segment(command: Command, sn: u32, data: &[u8]) -> Segment<'_> {
    Segment { conv: CONV, command, fragment: 0, window: 32, ts: 0, sn, una: 0, data }
}

fn bytes(segments: &[Segment<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    segments.iter().for_each(|segment| segment.write(&mut out));
    out
}

/// Command, segment number and una of all that is due.
fn sent(kcp: &mut Kcp, now: Duration) -> Vec<(Command, u32, u32)> {
    let payloads = transmit(kcp, now);
    payloads.iter().flat_map(|payload| segments(payload)).map(|segment| (segment.command, segment.sn, segment.una)).collect()
}

#[test]
fn a_segment_reads_as_transport_2_says() {
    let raw = [0x47, 0x03, 0x05, 0x5d, 81, 0, 32, 0, 7, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 3, 1, 0, 0, 2, 0, 0, 0, b'{', b'}'];
    let (segment, rest) = Segment::parse(&raw).unwrap();
    let expected =
        Segment { conv: 0x5d05_0347, command: Command::Push, fragment: 0, window: 32, ts: 7, sn: u32::MAX - 1, una: 259, data: b"{}" };
    assert_eq!((segment, rest), (expected, &[][..]));
    assert_eq!(bytes(&[segment]), raw);
}

#[test]
fn what_is_no_segment_is_told_apart() {
    let whole = bytes(&[segment(Command::Push, 0, b"abc")]);
    assert_eq!(Segment::parse(&whole[..23]), Err(SegmentError::Truncated { need: 24, have: 23 }));
    assert_eq!(Segment::parse(&whole[..26]), Err(SegmentError::Truncated { need: 27, have: 26 }));
    let mut unknown = whole.clone();
    unknown[4] = 85;
    assert_eq!(Segment::parse(&unknown), Err(SegmentError::UnknownCommand(85)));
}

#[test]
fn a_bad_payload_counts_for_nothing() {
    let good = segment(Command::Push, 0, b"good");
    let foreign = Segment { conv: 8, ..good };
    let never = Segment { una: 1, ..good };
    let mut cut = bytes(&[good, good]);
    cut.pop();
    let cases = [
        (Vec::new(), SegmentError::Truncated { need: 24, have: 0 }),
        (cut, SegmentError::Truncated { need: 28, have: 27 }),
        (bytes(&[good, foreign]), SegmentError::ForeignConv { expected: 7, found: 8 }),
        (bytes(&[good, never]), SegmentError::NeverSent { una: 1, next: 0 }),
    ];
    for (payload, error) in cases {
        let mut kcp = end(&KcpConfig::default());
        assert_eq!(kcp.receive(ms(0), &payload, true), Err(error));
        assert_eq!(kcp.recv(), None);
        assert_eq!(sent(&mut kcp, ms(0)), []);
    }
}

#[test]
fn chunks_leave_at_once_each_in_a_segment_of_its_own() {
    let mut kcp = end(&KcpConfig::default());
    kcp.send(b"one");
    kcp.send(b"two");
    assert_eq!(kcp.next_timeout(), Some(ms(0)));
    let payloads = transmit(&mut kcp, ms(5));
    assert_eq!(payloads.len(), 1);
    let expected = [
        Segment { window: 256, ts: 5, ..segment(Command::Push, 0, b"one") },
        Segment { window: 256, ts: 5, ..segment(Command::Push, 1, b"two") },
    ];
    assert_eq!(segments(&payloads[0]), expected);
    assert!(!kcp.is_drained());
}

#[test]
fn a_long_chunk_fills_segments_with_fragment_zero() {
    let mut kcp = end(&KcpConfig::default());
    kcp.send(&vec![1; 3000]);
    let payloads = transmit(&mut kcp, ms(0));
    let lengths: Vec<usize> = payloads.iter().map(|payload| segments(payload)[0].data.len()).collect();
    assert_eq!(lengths, [1368, 1368, 264]);
    assert!(payloads.iter().flat_map(|payload| segments(payload)).all(|segment| segment.fragment == 0));
}

#[test]
fn acks_of_several_datagrams_share_one() {
    let mut kcp = end(&KcpConfig::default());
    for sn in [0, 1, 2, 4, 6] {
        kcp.receive(ms(1), &bytes(&[Segment { ts: 100 + sn, ..segment(Command::Push, sn, b"x") }]), true).unwrap();
    }
    // What is before 3 is covered by una; 4 and 6 came early.
    assert_eq!(sent(&mut kcp, ms(1)), [(Command::Ack, 4, 3), (Command::Ack, 6, 3)]);
    assert_eq!(sent(&mut kcp, ms(1)), []);
    kcp.receive(ms(1), &bytes(&[segment(Command::Push, 3, b"x"), segment(Command::Push, 5, b"x")]), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(1)), [(Command::Ack, 5, 7)], "one ack for its time stamp, una for the rest");
    assert_eq!(std::iter::from_fn(|| kcp.recv()).count(), 7);
}

#[test]
fn a_repeated_push_is_acknowledged_and_not_delivered_again() {
    let mut kcp = end(&KcpConfig::default());
    let push = bytes(&[segment(Command::Push, 0, b"x")]);
    for _ in 0..3 {
        kcp.receive(ms(1), &push, true).unwrap();
        assert_eq!(sent(&mut kcp, ms(1)), [(Command::Ack, 0, 1)]);
    }
    assert_eq!(kcp.recv(), Some(b"x".to_vec()));
    assert_eq!(kcp.recv(), None);
}

#[test]
fn a_push_beyond_the_window_is_not_acknowledged() {
    let mut kcp = end(&KcpConfig { receive_window: 4, ..KcpConfig::default() });
    for sn in [4, 5, 1000, 1 << 31, u32::MAX / 2] {
        kcp.receive(ms(1), &bytes(&[segment(Command::Push, sn, b"x")]), true).unwrap();
        assert_eq!(sent(&mut kcp, ms(1)), [], "{sn}");
    }
    assert_eq!(kcp.held_bytes(), 0);
}

#[test]
fn an_unread_window_shuts_and_its_opening_is_told() {
    let mut kcp = end(&KcpConfig { receive_window: 2, ..KcpConfig::default() });
    for sn in 0..4 {
        kcp.receive(ms(1), &bytes(&[segment(Command::Push, sn, b"x")]), true).unwrap();
    }
    let payloads = transmit(&mut kcp, ms(1));
    assert_eq!(segments(&payloads[0])[0].window, 0);
    assert!(kcp.recv().is_some());
    // Of the four, two could be read and two waited behind them: the window is still shut.
    assert_eq!(sent(&mut kcp, ms(2)), []);
    while kcp.recv().is_some() {}
    let payloads = transmit(&mut kcp, ms(2));
    let told = segments(&payloads[0])[0];
    assert_eq!((told.command, told.window, told.una), (Command::WindowTell, 2, 4));
}

#[test]
fn a_shut_peer_is_asked_until_it_opens() {
    let mut kcp = end(&KcpConfig::default());
    kcp.receive(ms(0), &bytes(&[Segment { window: 0, ..segment(Command::WindowTell, 0, b"") }]), true).unwrap();
    kcp.send(b"x");
    let mut asked = Vec::new();
    for now in 0..10_000 {
        for (command, ..) in sent(&mut kcp, ms(now)) {
            assert_eq!(command, Command::WindowAsk);
            asked.push(now);
        }
        assert!(kcp.next_timeout().is_some_and(|at| at > ms(now)));
    }
    assert_eq!(asked, [500, 1_500, 3_500, 7_500]);
    kcp.receive(ms(10_000), &bytes(&[segment(Command::WindowTell, 0, b"")]), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(10_000)), [(Command::Push, 0, 0)]);
}

#[test]
fn a_question_for_the_window_is_answered() {
    let mut kcp = end(&KcpConfig::default());
    kcp.receive(ms(0), &bytes(&[segment(Command::WindowAsk, 0, b"")]), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(0)), [(Command::WindowTell, 0, 0)]);
}

#[test]
fn a_segment_is_sent_again_ever_more_rarely_until_the_link_counts_as_dead() {
    let config = KcpConfig { dead_link: 6, ..KcpConfig::default() };
    let mut kcp = end(&config);
    kcp.send(b"x");
    let mut times = Vec::new();
    let mut now = ms(0);
    while !kcp.is_dead() {
        times.extend(sent(&mut kcp, now).iter().map(|_| now.as_millis()));
        now = kcp.next_timeout().unwrap();
    }
    assert_eq!(
        times,
        [0, 200, 500, 950, 1_625, 2_625, 3_625],
        "before anything is measured: 200 ms, half as much more each time, 1 s at most"
    );
    kcp.receive(now, &bytes(&[Segment { una: 1, ..segment(Command::Ack, 0, b"") }]), true).unwrap();
    assert!(kcp.is_drained());
    assert_eq!(kcp.next_timeout(), None);
}

#[test]
fn an_overtaken_segment_is_sent_again_before_its_time() {
    let mut kcp = end(&KcpConfig::default());
    for sn in 0..4u64 {
        kcp.send(b"x");
        assert_eq!(transmit(&mut kcp, ms(sn)).len(), 1, "each in a datagram of its own");
    }
    let ack = |sn| bytes(&[Segment { ts: sn, ..segment(Command::Ack, sn, b"") }]);
    kcp.receive(ms(5), &ack(1), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(5)), [], "one may have been overtaken");
    kcp.receive(ms(5), &ack(2), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(5)), [(Command::Push, 0, 0)]);
    kcp.receive(ms(6), &ack(3), true).unwrap();
    assert_eq!(sent(&mut kcp, ms(6)), [], "what was sent before the repetition says nothing about it");
}

#[test]
fn acks_of_one_datagram_are_one_sign_of_loss() {
    let mut kcp = end(&KcpConfig::default());
    kcp.send(b"first");
    transmit(&mut kcp, ms(0));
    for _ in 0..10 {
        kcp.send(b"together");
    }
    assert_eq!(transmit(&mut kcp, ms(0)).len(), 1);
    for sn in 1..11 {
        kcp.receive(ms(1), &bytes(&[segment(Command::Ack, sn, b"")]), true).unwrap();
    }
    assert_eq!(sent(&mut kcp, ms(1)), []);
}

#[test]
fn acks_of_what_is_not_in_flight_are_ignored() {
    let mut kcp = end(&KcpConfig { start_sn: u32::MAX, ..KcpConfig::default() });
    kcp.send(b"x");
    transmit(&mut kcp, ms(0));
    for sn in [0, 1, 5, u32::MAX - 1, 1 << 31] {
        let ack = Segment { una: u32::MAX, ..segment(Command::Ack, sn, b"") };
        kcp.receive(ms(0), &bytes(&[ack]), true).unwrap();
        assert!(!kcp.is_drained(), "{sn}");
    }
    kcp.receive(ms(0), &bytes(&[Segment { una: u32::MAX, ..segment(Command::Ack, u32::MAX, b"") }]), true).unwrap();
    assert!(kcp.is_drained());
}

#[test]
fn numbers_are_compared_on_the_ring() {
    assert!(ring::before(u32::MAX, 0) && !ring::before(0, u32::MAX));
    assert!(ring::at_or_before(5, 5) && !ring::before(5, 5));
    assert_eq!(ring::offset(u32::MAX, 1, 10), Some(2));
    assert_eq!(ring::offset(1, u32::MAX, 10), None);
    assert_eq!(ring::ahead(u32::MAX, 2), 1);
}

#[test]
fn the_peers_window_bounds_what_is_in_flight() {
    let mut kcp = end(&KcpConfig::default());
    for _ in 0..100 {
        kcp.send(&[0; 1000]);
    }
    assert_eq!(transmit(&mut kcp, ms(0)).len(), 32, "until the peer has spoken: 32");
    kcp.receive(ms(1), &bytes(&[Segment { window: 40, ..segment(Command::WindowTell, 0, b"") }]), true).unwrap();
    assert_eq!(transmit(&mut kcp, ms(1)).len(), 8);
    let shrunk = Segment { window: 5, una: 3, ..segment(Command::WindowTell, 0, b"") };
    kcp.receive(ms(2), &bytes(&[shrunk]), true).unwrap();
    assert_eq!(transmit(&mut kcp, ms(2)).len(), 0);
}

#[test]
fn what_comes_from_parity_changes_no_window_and_no_timeout() {
    let mut kcp = end(&KcpConfig::default());
    kcp.send(b"x");
    transmit(&mut kcp, ms(0));
    let late = Segment { window: 0, ..segment(Command::Ack, 0, b"") };
    kcp.receive(ms(900), &bytes(&[late]), false).unwrap();
    assert!(kcp.is_drained());
    kcp.send(b"y");
    assert_eq!(sent(&mut kcp, ms(900)), [(Command::Push, 1, 0)]);
    assert_eq!(kcp.next_timeout(), Some(ms(1_100)));
}

#[test]
fn a_core_like_end_waits_for_its_tick_but_not_with_what_it_sends() {
    let mut core = end(&KcpConfig::core());
    core.send(b"first");
    assert_eq!(sent(&mut core, ms(1_010)), [(Command::Push, 0, 0)]);
    core.receive(ms(1_020), &bytes(&[Segment { una: 1, ..segment(Command::Push, 0, b"x") }]), true).unwrap();
    assert_eq!(sent(&mut core, ms(1_020)), []);
    assert_eq!(core.next_timeout(), Some(ms(1_100)));
    assert_eq!(sent(&mut core, ms(1_100)), [(Command::Ack, 0, 1)]);
    core.receive(ms(5_030), &bytes(&[Segment { una: 1, ..segment(Command::Push, 1, b"x") }]), true).unwrap();
    assert_eq!(core.next_timeout(), Some(ms(5_100)), "ticks go on while it is idle");
    core.send(b"second");
    assert_eq!(sent(&mut core, ms(5_040)), [(Command::Ack, 1, 2), (Command::Push, 1, 2)], "the ack rides along");
}

#[test]
fn the_congestion_window_opens_with_acks_and_shuts_on_timeouts() {
    let mut kcp = end(&KcpConfig { prompt: true, ..KcpConfig::core() });
    for _ in 0..64 {
        kcp.send(&[0; 1000]);
    }
    let mut rounds = Vec::new();
    let mut now = 0;
    for _ in 0..6 {
        let count = sent(&mut kcp, ms(now)).len();
        rounds.push(count);
        now += 1;
        let una = rounds.iter().sum::<usize>() as u32;
        kcp.receive(ms(now), &bytes(&[Segment { una, ..segment(Command::WindowTell, 0, b"") }]), true).unwrap();
    }
    assert_eq!(rounds[0], 1);
    assert!(rounds.windows(2).all(|pair| pair[0] <= pair[1]) && rounds[5] > 3, "{rounds:?}");
    assert!(sent(&mut kcp, ms(now)).len() > 3);
    let at = kcp.next_timeout().unwrap();
    sent(&mut kcp, at);
    let una = rounds.iter().sum::<usize>() as u32;
    kcp.receive(at, &bytes(&[Segment { una: una + 1, ..segment(Command::WindowTell, 0, b"") }]), true).unwrap();
    assert_eq!(sent(&mut kcp, at), [], "a timeout shuts it to one");
}

#[test]
fn the_timeout_follows_the_round_trip_and_remembers_its_peak() {
    let mut rtt = Rtt::new(30, 1_000, 10);
    assert_eq!(rtt.rto(), 200);
    for now in 0..100 {
        rtt.sample(1, now);
    }
    assert_eq!(rtt.rto(), 30);
    rtt.sample(100, 100);
    for now in 101..5_000 {
        rtt.sample(1, now);
        assert!(rtt.rto() >= 125, "a tick of 100 ms is not forgotten at {now} ms");
    }
    for now in 5_000..30_000 {
        rtt.sample(1, now);
    }
    assert_eq!(rtt.rto(), 30);
    rtt.sample(u64::from(u32::MAX), 30_000);
    assert_eq!(rtt.rto(), 30, "an impossible time");
    rtt.sample(50_000, 30_001);
    assert_eq!(rtt.rto(), 1_000);
    assert_eq!(rtt.backoff(200), 1_000);
}

#[test]
fn the_queue_has_an_end() {
    let kcp = end(&KcpConfig { queue_bytes: 100, queue_segments: 3, ..KcpConfig::default() });
    assert_eq!(kcp.reserve(100, 3), Ok(()));
    assert_eq!(kcp.reserve(101, 1), Err(QueueFull { segments: 0, bytes: 0, wanted: 101 }));
    assert!(kcp.reserve(1, 4).is_err());
}

fn any_segment() -> impl Strategy<Value = (u8, u32, u32, u32, u16, Vec<u8>)> {
    let number = prop_oneof![0..64u32, Just(u32::MAX), any::<u32>()];
    (81..85u8, number.clone(), number.clone(), number, any::<u16>(), prop::collection::vec(any::<u8>(), 0..8))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Segments::new(&payload).count() <= 9);
        let mut kcp = end(&KcpConfig::default());
        let _ = kcp.receive(ms(0), &payload, true);
    }

    #[test]
    fn segments_round_trip((command, ts, sn, una, window, data) in any_segment(), conv in any::<u32>(), fragment in any::<u8>()) {
        let command = [Command::Push, Command::Ack, Command::WindowAsk, Command::WindowTell][usize::from(command - 81)];
        let segment = Segment { conv, command, fragment, window, ts, sn, una, data: &data };
        let bytes = bytes(&[segment]);
        prop_assert_eq!(Segment::parse(&bytes), Ok((segment, &[][..])));
    }

    /// A peer that knows the connection's id and sends what it likes: memory stays within the windows, what is sent is well-formed.
    #[test]
    fn a_hostile_peer_does_no_harm(segments_in in prop::collection::vec(any_segment(), 0..100), start_sn in prop_oneof![Just(0), Just(u32::MAX - 5)]) {
        let mut kcp = end(&KcpConfig { receive_window: 16, start_sn, ..KcpConfig::default() });
        for (at, (command, ts, sn, una, window, data)) in segments_in.into_iter().enumerate() {
            let now = ms(at as u64 * 50);
            kcp.send(b"ours");
            let command = [Command::Push, Command::Ack, Command::WindowAsk, Command::WindowTell][usize::from(command - 81)];
            let sn = start_sn.wrapping_add(sn);
            let una = start_sn.wrapping_add(una);
            let _ = kcp.receive(now, &bytes(&[Segment { conv: CONV, command, fragment: 0, window, ts, sn, una, data: &data }]), at % 3 > 0);
            for payload in transmit(&mut kcp, now) {
                prop_assert!(segments(&payload).iter().all(|segment| segment.conv == CONV && segment.fragment == 0));
            }
            prop_assert!(kcp.held_bytes() <= 100 * 4 + 32 * 8);
            if at % 7 == 0 {
                kcp.recv();
            }
        }
    }
}
