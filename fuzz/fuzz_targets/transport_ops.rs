//! Two ends and a link that does what the fuzzer says: whatever is lost, doubled, delayed, replayed or forged without the connection's id, each
//! message arrives once and in order once the link is good again.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use cell::proto::kcp::KcpConfig;
use cell::proto::message::{Key, Message, MessageId};
use cell::proto::transport::{Transport, TransportConfig};
use libfuzzer_sys::fuzz_target;

const CONV: u32 = 0x1234_5678;
const HELD_LIMIT: usize = 4 << 20;

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Send a message of so many bytes.
    Send { from: bool, length: u16 },
    /// Let so much time go by, in ms.
    Wait(u16),
    /// Put what is due on the link.
    Transmit { from: bool },
    /// Deliver one datagram of the link, and perhaps leave it there to come again.
    Deliver { to: bool, which: u8, keep: bool },
    /// Lose one.
    Lose { to: bool, which: u8 },
    /// Deliver bytes of somebody else's.
    Forge { to: bool, bytes: Vec<u8> },
    /// Read what has arrived.
    Read { at: bool },
}

#[derive(Arbitrary, Debug)]
struct Case {
    core: bool,
    wrap: bool,
    operations: Vec<Operation>,
}

struct World {
    now: Duration,
    ends: [Transport; 2],
    /// Datagrams on the way to each end.
    links: [Vec<Vec<u8>>; 2],
    sent: [Vec<Message>; 2],
    received: [Vec<Message>; 2],
}

impl World {
    fn new(case: &Case) -> Self {
        let start_sn = if case.wrap { u32::MAX - 3 } else { 0 };
        let config = |kcp| TransportConfig { conv: CONV, kcp, fec_start: if case.wrap { u32::MAX - 40 } else { 0 } };
        let second = if case.core { KcpConfig::core() } else { KcpConfig::default() };
        let first = KcpConfig { start_sn, ..KcpConfig::default() };
        let second = KcpConfig { start_sn, ..second };
        Self {
            now: Duration::from_secs(1),
            ends: [Transport::new(config(first)), Transport::new(config(second))],
            links: Default::default(),
            sent: Default::default(),
            received: Default::default(),
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Send { from, length } => {
                let from = usize::from(from);
                let number = u32::try_from(self.sent[from].len()).unwrap();
                let message = Message::new(MessageId(1)).from_session(number + 1).string(Key::Data, "x".repeat(usize::from(length)));
                if self.ends[from].send(&message).is_ok() {
                    self.sent[from].push(message);
                }
            }
            Operation::Wait(millis) => self.now += Duration::from_millis(u64::from(millis)),
            Operation::Transmit { from } => self.transmit(usize::from(from)),
            Operation::Deliver { to, which, keep } => {
                let to = usize::from(to);
                if let Some(place) = self.place(to, which) {
                    let datagram = if keep { self.links[to][place].clone() } else { self.links[to].remove(place) };
                    self.deliver(to, &datagram);
                }
            }
            Operation::Lose { to, which } => {
                let to = usize::from(to);
                if let Some(place) = self.place(to, which) {
                    self.links[to].remove(place);
                }
            }
            Operation::Forge { to, bytes } => {
                let knows_conv = bytes.windows(4).any(|window| window == CONV.to_le_bytes());
                let is_packet = cell::proto::fec::Packet::parse(&bytes).is_ok();
                // Who knows the id can do what the peer can; a forged packet of a live group can spoil that group's recovery.
                if !knows_conv && !is_packet {
                    assert!(self.ends[usize::from(to)].receive(self.now, &bytes).is_err());
                }
            }
            Operation::Read { at } => self.read(usize::from(at)),
        }
    }

    fn place(&self, to: usize, which: u8) -> Option<usize> {
        let count = self.links[to].len();
        (count > 0).then(|| usize::from(which) % count)
    }

    fn transmit(&mut self, from: usize) {
        while let Some(datagram) = self.ends[from].poll_transmit(self.now) {
            assert!(datagram.len() <= 1400);
            self.links[1 - from].push(datagram);
        }
        let next = self.ends[from].next_timeout();
        assert!(next.is_none_or(|next| next > self.now), "due, but nothing came");
    }

    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        self.ends[to].receive(self.now, datagram).expect("an honest datagram");
        let held = self.ends[to].held_bytes() - self.ends[to].unsent_bytes();
        assert!(held <= HELD_LIMIT, "{held} bytes held");
    }

    fn read(&mut self, at: usize) {
        while let Some(message) = self.ends[at].poll_message() {
            self.received[at].push(message.expect("a whole message"));
        }
    }

    /// The link is good from now on.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            for end in [0, 1] {
                self.transmit(end);
                for datagram in std::mem::take(&mut self.links[1 - end]) {
                    self.deliver(1 - end, &datagram);
                }
                self.read(1 - end);
                self.transmit(1 - end);
            }
            if self.ends.iter().all(Transport::is_drained) && self.links.iter().all(Vec::is_empty) {
                break;
            }
            if self.links.iter().all(Vec::is_empty) {
                self.now = self.ends.iter().filter_map(Transport::next_timeout).min().expect("something is left to do").max(self.now);
            }
        }
        assert_eq!(self.received[1], self.sent[0]);
        assert_eq!(self.received[0], self.sent[1]);
    }
}

fuzz_target!(|case: Case| {
    let mut world = World::new(&case);
    for operation in case.operations {
        world.apply(operation);
    }
    world.finish();
});
