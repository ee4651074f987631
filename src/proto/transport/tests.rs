use std::collections::{HashSet, VecDeque};

use super::*;
use crate::proto::message::{Key, MessageId, MESSAGE_LIMIT};
use crate::proto::sim_link::{Link, Rng, Weather};

const CONV: u32 = 0x1234_5678;
/// A connection may hold its windows, a message that is not complete, and the groups of FEC; the queue of unsent messages comes on top.
const HELD_LIMIT: usize = 4 << 20;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(conv: u32, start_sn: u32, fec_start: u32) -> TransportConfig {
    TransportConfig { conv, kcp: KcpConfig { start_sn, ..KcpConfig::default() }, fec_start }
}

/// Two ends and the link between them in virtual time.
struct Pair {
    now: Duration,
    ends: [Transport; 2],
    /// `links[i]` carries what end i sends.
    links: [Link; 2],
    received: [Vec<Message>; 2],
    most_held: usize,
    /// Segment numbers that each end has sent, and how often it sent one again.
    pushed: [HashSet<u32>; 2],
    repeated: [usize; 2],
}

impl Pair {
    fn new(seed: u64, weather: Weather, configs: [TransportConfig; 2]) -> Self {
        Self {
            now: ms(5_000_000),
            ends: configs.map(Transport::new),
            links: [Link::new(seed, weather), Link::new(seed + 1, weather)],
            received: Default::default(),
            most_held: 0,
            pushed: Default::default(),
            repeated: [0; 2],
        }
    }

    fn cells(seed: u64, weather: Weather) -> Self {
        Self::new(seed, weather, [TransportConfig::new(CONV), TransportConfig::new(CONV)])
    }

    fn cell_and_core(seed: u64, weather: Weather) -> Self {
        Self::new(seed, weather, [TransportConfig::new(CONV), TransportConfig::core(CONV)])
    }

    /// Lets everything happen that is due now.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for end in 0..2 {
                while let Some(datagram) = self.ends[end].poll_transmit(self.now) {
                    assert!(datagram.len() <= 1400);
                    self.note_pushes(end, &datagram);
                    self.links[end].send(self.now, datagram);
                    quiet = false;
                }
                while let Some(datagram) = self.links[1 - end].receive(self.now) {
                    self.ends[end].receive(self.now, &datagram).unwrap();
                    quiet = false;
                }
                while let Some(message) = self.ends[end].poll_message() {
                    self.received[end].push(message.unwrap());
                }
                let held = self.ends[end].held_bytes() - self.ends[end].unsent_bytes();
                self.most_held = self.most_held.max(held);
            }
            if quiet {
                return;
            }
        }
    }

    fn note_pushes(&mut self, end: usize, datagram: &[u8]) {
        let Some(payload) = Packet::parse(datagram).unwrap().payload() else { return };
        for segment in Segments::new(payload).map(Result::unwrap).filter(|segment| segment.command == Command::Push) {
            let is_new = self.pushed[end].insert(segment.sn);
            self.repeated[end] += usize::from(!is_new);
        }
    }

    /// Goes on to the next event; false if there is none.
    fn step(&mut self) -> bool {
        self.settle();
        let timeouts = self.ends.iter().filter_map(Transport::next_timeout);
        let Some(next) = timeouts.chain(self.links.iter().filter_map(Link::next_arrival)).min() else { return false };
        assert!(next > self.now, "something is due and nothing happens");
        self.now = next;
        true
    }

    /// Runs until `done`, for at most so long.
    fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        loop {
            self.settle();
            if done(self) {
                return self.now - start;
            }
            assert!(self.step(), "nothing more happens, but it is not done");
            assert!(self.now - start < limit, "not done after {limit:?}");
        }
    }

    fn is_drained(&self) -> bool {
        self.ends.iter().all(Transport::is_drained)
    }

    /// Sends the messages from both ends, as fast as the queues take them, and checks that each arrives once and in order.
    fn exchange(&mut self, messages: [Vec<Message>; 2], limit: Duration) -> Duration {
        let start = self.now;
        let mut waiting: [VecDeque<Message>; 2] = messages.clone().map(VecDeque::from);
        loop {
            for (end, queue) in waiting.iter_mut().enumerate() {
                while let Some(message) = queue.front() {
                    match self.ends[end].send(message) {
                        Ok(()) => queue.pop_front(),
                        Err(TransportError::QueueFull(_)) => break,
                        Err(other) => panic!("{other}"),
                    };
                }
            }
            self.settle();
            if waiting.iter().all(VecDeque::is_empty) && self.is_drained() {
                break;
            }
            assert!(self.step(), "nothing more happens, but something is left to send");
            assert!(self.now - start < limit, "not done after {limit:?}");
        }
        let [first, second] = messages;
        assert!(self.received[1] == first, "what the first end sent is not what the second got");
        assert!(self.received[0] == second, "what the second end sent is not what the first got");
        assert!(self.most_held <= HELD_LIMIT, "{} bytes held", self.most_held);
        assert!(!self.ends.iter().any(Transport::is_dead));
        self.received = Default::default();
        self.now - start
    }
}

/// A message that is about so long.
fn message(rng: &mut Rng, length: usize) -> Message {
    let letters = (0..length).map(|_| char::from(b'a' + rng.below(26) as u8)).collect::<String>();
    Message::new(MessageId::QUERY_GUEST_REQUEST).from_session(rng.below(1 << 32) as u32).string(Key::Name, letters)
}

fn small_messages(seed: u64, count: usize) -> Vec<Message> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| {
            let length = rng.below(300) as usize;
            message(&mut rng, length)
        })
        .collect()
}

/// Messages of all sizes, from 1 B to `longest` of content.
fn mixed_messages(seed: u64, longest: usize) -> Vec<Message> {
    let mut rng = Rng::new(seed);
    [1, 2, 1300, 1368, 1369, 5_000, 70_000, longest, 1, 40, 10_000].map(|length| message(&mut rng, length)).to_vec()
}

const LAN: Weather = Weather { loss: 0, duplicates: 0, delay: Duration::from_micros(200), jitter: Duration::from_micros(100) };

#[test]
fn messages_cross_a_perfect_link_at_once() {
    let mut pair = Pair::cells(1, Weather { jitter: Duration::ZERO, ..LAN });
    let took = pair.exchange([small_messages(1, 20), small_messages(2, 20)], ms(100));
    assert!(took <= Duration::from_millis(1), "there and back is 0.4 ms, it took {took:?}");
}

#[test]
fn queued_messages_share_datagrams() {
    let mut pair = Pair::cells(1, LAN);
    let mut rng = Rng::new(1);
    pair.exchange([(0..30).map(|_| message(&mut rng, 20)).collect(), Vec::new()], ms(1000));
    assert!(pair.links[0].sent <= 3, "30 short messages took {} datagrams", pair.links[0].sent);
    assert!(pair.links[1].sent <= 3, "their acks took {} datagrams", pair.links[1].sent);
}

#[test]
fn nothing_is_lost_or_doubled_in_any_weather() {
    for loss in [0, 5, 10, 20, 30, 40] {
        for (delay, jitter, duplicates) in [(0, 0, 0), (1, 2, 5), (20, 60, 20)] {
            let weather = Weather { loss, duplicates, delay: ms(delay), jitter: ms(jitter) };
            let mut pair = Pair::cells(loss * 7 + delay, weather);
            let longest = if loss % 20 == 0 { 1 << 20 } else { 100_000 };
            pair.exchange([mixed_messages(loss, longest), small_messages(loss, 300)], ms(120_000));
            pair.exchange([small_messages(delay, 100), mixed_messages(delay, 100_000)], ms(120_000));
        }
    }
}

#[test]
fn nothing_is_lost_or_doubled_with_a_core() {
    for loss in [0, 10, 20, 40] {
        for (delay, jitter, duplicates) in [(0, 0, 0), (5, 10, 10)] {
            let weather = Weather { loss, duplicates, delay: ms(delay), jitter: ms(jitter) };
            let mut pair = Pair::cell_and_core(loss * 11 + delay, weather);
            pair.exchange([mixed_messages(loss, 1 << 20), small_messages(loss, 100)], ms(1_200_000));
        }
    }
}

#[test]
fn counters_wrap_unnoticed() {
    for seed in 0..8 {
        let weather = Weather { loss: 10 * (seed % 4), duplicates: 10, delay: ms(1), jitter: ms(5) };
        let start_sn = u32::MAX - 40 - seed as u32 * 3;
        let fec_start = fec::SEQUENCE_END - 13 * (1 + seed as u32);
        let mut pair = Pair::new(seed, weather, [config(CONV, start_sn, fec_start), config(CONV, start_sn, fec_start)]);
        pair.now = ms(u64::from(u32::MAX) - 100); // the time stamps wrap too
        pair.exchange([mixed_messages(seed, 300_000), small_messages(seed, 500)], ms(60_000));
        assert!(pair.links.iter().all(|link| link.sent > 13 * 9), "too few packets to wrap");
    }
}

#[test]
fn a_request_gets_through_heavy_loss_quickly() {
    // One message at a time, so that neither parity nor later acks help: only the timeouts do.
    for (loss, typical, worst) in [(20, 250, 1_500), (40, 600, 6_000)] {
        let mut pair = Pair::cells(loss, Weather { loss, ..LAN });
        let mut times: Vec<Duration> = small_messages(loss, 300)
            .into_iter()
            .map(|message| {
                pair.ends[0].send(&message).unwrap();
                let taken = pair.run(ms(60_000), |pair| !pair.received[1].is_empty());
                assert_eq!(std::mem::take(&mut pair.received[1]), [message]);
                taken
            })
            .collect();
        times.sort();
        assert!(times[270] <= ms(typical), "nine of ten take up to {:?} at {loss} % loss", times[270]);
        assert!(times[299] <= ms(worst), "the slowest takes {:?} at {loss} % loss", times[299]);
    }
}

#[test]
fn late_acks_of_a_core_cause_no_needless_retransmission() {
    let mut pair = Pair::cell_and_core(3, LAN);
    let mut rng = Rng::new(3);
    let mut sent = 0;
    // Quick spells, in which the Core's own data carry its acks, between pauses, in which they come at its tick.
    for round in 0..400u64 {
        let pause = if round % 40 < 30 { 3 } else { 500 + rng.below(100) };
        let until = pair.now + ms(pause);
        pair.ends[0].send(&message(&mut rng, 50)).unwrap();
        sent += 1;
        if pause == 3 {
            pair.ends[1].send(&message(&mut rng, 50)).unwrap();
        }
        while pair.now < until && pair.step() {}
        pair.now = pair.now.max(until);
    }
    pair.run(ms(1000), Pair::is_drained);
    assert!(pair.repeated[0] <= 2, "{} of {sent} segments sent again for nothing", pair.repeated[0]);
    assert_eq!(pair.received[1].len(), sent);
}

#[test]
fn a_core_that_pauses_is_not_flooded() {
    let mut pair = Pair::cell_and_core(4, LAN);
    pair.exchange([small_messages(4, 50), Vec::new()], ms(60_000));
    pair.links[0].weather.loss = 100; // as good as not reading for 5 s
    for message in small_messages(5, 100) {
        pair.ends[0].send(&message).unwrap();
    }
    let before = pair.links[0].sent;
    let until = pair.now + ms(5_000);
    while pair.now < until && pair.step() {}
    assert!(pair.links[0].sent - before < 200, "{} datagrams into the void in 5 s", pair.links[0].sent - before);
    assert!(!pair.ends[0].is_dead());
    pair.links[0].weather.loss = 0;
    pair.run(ms(20_000), Pair::is_drained);
    assert_eq!(pair.received[1].len(), 100);
}

#[test]
fn a_silent_peer_is_noticed() {
    let mut pair = Pair::cells(5, LAN);
    pair.exchange([small_messages(5, 50), Vec::new()], ms(1_000));
    pair.links[0].weather.loss = 100;
    pair.ends[0].send(&Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT)).unwrap();
    let took = pair.run(ms(60_000), |pair| pair.ends[0].is_dead());
    assert!(took > ms(15_000) && took < ms(40_000), "dead after {took:?}");
    assert!(!pair.ends[0].is_drained());
    assert!(!pair.ends[1].is_dead());
}

#[test]
fn an_idle_connection_needs_no_clock() {
    for mut pair in [Pair::cells(6, LAN), Pair::cell_and_core(6, LAN)] {
        pair.exchange([small_messages(6, 30), small_messages(7, 30)], ms(60_000));
        while pair.step() {}
        assert!(pair.ends.iter().all(|end| end.next_timeout().is_none()));
    }
}

#[test]
fn a_full_queue_takes_nothing_and_says_so() {
    let mut end = Transport::new(TransportConfig::new(CONV));
    let big = message(&mut Rng::new(1), 1 << 20);
    let mut taken = 0;
    let error = loop {
        match end.send(&big) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        while end.poll_transmit(ms(1)).is_some() {}
    };
    assert_eq!(taken, 7, "8 MiB have room for seven messages of a little more than 1 MiB");
    assert!(matches!(error, TransportError::QueueFull(QueueFull { segments, .. }) if segments > 5_000), "{error:?}");
    let held = end.unsent_bytes();
    assert!(end.send(&big).is_err());
    assert_eq!(end.unsent_bytes(), held);

    let mut count = 0;
    let mut end = Transport::new(TransportConfig::new(CONV));
    while end.send(&Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT)).is_ok() {
        count += 1;
    }
    assert_eq!(count, KcpConfig::default().queue_segments);
}

/// A Core parses after every segment and starts afresh after a success.
#[test]
fn no_segment_holds_parts_of_two_messages() {
    let mut end = Transport::new(TransportConfig::new(CONV));
    let messages: Vec<Message> = [1, 1_300, 1_400, 5_000, 2].iter().map(|length| message(&mut Rng::new(1), *length)).collect();
    for message in &messages {
        end.send(message).unwrap();
    }
    let mut chunks: VecDeque<Vec<u8>> = VecDeque::new();
    while let Some(datagram) = end.poll_transmit(ms(1)) {
        if let Some(payload) = Packet::parse(&datagram).unwrap().payload() {
            chunks.extend(Segments::new(payload).map(|segment| segment.unwrap().data.to_vec()));
        }
    }
    for message in &messages {
        let mut json = serde_json::to_vec(message).unwrap();
        while !json.is_empty() {
            let rest = json.split_off(json.len().min(MAX_CHUNK));
            assert_eq!(chunks.pop_front(), Some(json));
            json = rest;
        }
    }
    assert!(chunks.is_empty());
}

#[test]
fn a_message_that_no_core_takes_is_refused() {
    let mut end = Transport::new(TransportConfig::new(CONV));
    let error = end.send(&message(&mut Rng::new(1), MESSAGE_LIMIT)).unwrap_err();
    assert!(matches!(error, TransportError::Message(EncodeError::TooLong { .. })), "{error:?}");
    assert!(end.is_drained());
}

/// A receiver that does not read shuts its window, and the sender goes on when it opens.
#[test]
fn a_reader_that_rests_is_waited_for() {
    let mut pair = Pair::cells(8, Weather { loss: 20, ..LAN });
    let messages = small_messages(8, 2_000);
    for message in &messages {
        pair.ends[0].send(message).unwrap();
    }
    // Everything but reading goes on for 20 s.
    let until = pair.now + ms(20_000);
    while pair.now < until {
        for end in 0..2 {
            while let Some(datagram) = pair.ends[end].poll_transmit(pair.now) {
                pair.links[end].send(pair.now, datagram);
            }
            while let Some(datagram) = pair.links[1 - end].receive(pair.now) {
                pair.ends[end].receive(pair.now, &datagram).unwrap();
            }
        }
        pair.now += ms(1);
    }
    assert!(pair.ends[1].held_bytes() < 256 * 1368 * 2, "{} bytes held for a resting reader", pair.ends[1].held_bytes());
    assert!(!pair.ends[0].is_drained());
    assert!(!pair.ends[0].is_dead(), "it is alive, for it answers the probes");
    pair.run(ms(30_000), Pair::is_drained);
    assert!(pair.received[1] == messages);
}

#[test]
fn hostile_datagrams_change_nothing() {
    let mut pair = Pair::cells(9, LAN);
    let mut rng = Rng::new(9);
    let mut captured: Vec<Vec<u8>> = Vec::new();
    let messages = small_messages(9, 200);
    let mut refused = 0;
    for message in &messages {
        pair.ends[0].send(message).unwrap();
        while let Some(datagram) = pair.ends[0].poll_transmit(pair.now) {
            captured.push(datagram.clone());
            pair.links[0].send(pair.now, datagram);
        }
        let mut hostile = captured[rng.below(captured.len() as u64) as usize].clone();
        match rng.below(5) {
            0 => hostile.truncate(rng.below(hostile.len() as u64) as usize),
            1 => hostile = (0..rng.below(3_000)).map(|_| rng.next() as u8).collect(),
            2 => hostile[8] ^= 1, // of another connection
            3 => {
                // Parity from far away.
                let far = (rng.below(1 << 28) as u32) * 13 + 12;
                hostile = [&far.to_le_bytes()[..], &[0xf2, 0], &[7; 700]].concat();
            }
            _ => {} // replayed
        }
        let result = pair.ends[1].receive(pair.now, &hostile);
        refused += u32::from(result.is_err());
        pair.run(ms(10_000), Pair::is_drained);
    }
    assert!(refused > 50, "only {refused} refused");
    assert!(pair.received[1] == messages);
    assert!(pair.most_held <= HELD_LIMIT);
}

#[test]
fn an_answer_to_what_was_never_asked_is_refused() {
    let mut end = Transport::new(TransportConfig::new(CONV));
    let mut stranger = Transport::new(config(CONV, 500, 0));
    stranger.send(&Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT)).unwrap();
    let datagram = stranger.poll_transmit(ms(1)).unwrap();
    assert!(matches!(end.receive(ms(1), &datagram), Err(TransportError::Segment(SegmentError::NeverSent { una: 500, next: 0 }))));
    assert!(end.poll_transmit(ms(1)).is_none(), "and it gets no ack");
}

#[test]
fn only_a_beginning_is_accepted_from_a_stranger() {
    let mut end = Transport::new(TransportConfig::new(CONV));
    end.send(&Message::new(MessageId::CONNECTION_OPENED_EVENT)).unwrap();
    let first = end.poll_transmit(ms(1)).unwrap();
    assert_eq!(Transport::accept(&first), Some(CONV));

    let mut other = Transport::new(TransportConfig::new(CONV));
    other.receive(ms(1), &first).unwrap();
    let ack = other.poll_transmit(ms(1)).unwrap();
    assert_eq!(Transport::accept(&ack), None, "an ack");

    let mut late = Transport::new(config(CONV, 9_000, 0));
    late.send(&Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT)).unwrap();
    assert_eq!(Transport::accept(&late.poll_transmit(ms(1)).unwrap()), None, "from the middle of a connection");
    assert_eq!(Transport::accept(&first[..30]), None);
    assert_eq!(Transport::accept(&[]), None);
}

#[test]
fn an_invalid_object_is_reported_and_the_connection_goes_on() {
    let mut kcp = Kcp::new(CONV, &KcpConfig::default());
    let mut fec = fec::Encoder::new(0);
    let mut end = Transport::new(TransportConfig::new(CONV));
    for chunk in [&br#"{"id":656640,"from":7,"string_params":{"13":5}}"#[..], br#"{"id":131330}"#] {
        kcp.send(chunk);
    }
    let mut datagram = vec![0; fec::DATA_HEADER];
    assert!(kcp.poll_transmit(ms(1), &mut datagram));
    fec.seal(&mut datagram);
    end.receive(ms(1), &datagram).unwrap();
    let Some(Err(MessageError::Invalid { id, from, .. })) = end.poll_message() else { panic!("a number is no text") };
    assert_eq!((id, from), (Some(MessageId::GET_GUEST_REQUEST), 7));
    assert_eq!(end.poll_message(), Some(Ok(Message::new(MessageId::CONNECTION_KEEP_ALIVE_EVENT))));
    assert_eq!(end.poll_message(), None);
}
