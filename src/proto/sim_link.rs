//! A link in virtual time for tests: it loses, doubles, delays and reorders datagrams, the same ones for the same seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Random numbers that are the same in every run (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What a link does to datagrams; the default is a perfect one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Datagrams lost, in percent.
    pub(crate) loss: u64,
    /// Datagrams that arrive twice, in percent.
    pub(crate) duplicates: u64,
    /// Least time on the way.
    pub(crate) delay: Duration,
    /// Most time added to it, by chance for each datagram: what reorders them.
    pub(crate) jitter: Duration,
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Link {
    rng: Rng,
    pub(crate) weather: Weather,
    on_the_way: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    /// Datagrams given to the link so far.
    pub(crate) sent: u64,
    order: u64,
}

impl Link {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self { rng: Rng::new(seed), weather, on_the_way: BinaryHeap::new(), sent: 0, order: 0 }
    }

    /// Puts a datagram on the link.
    pub(crate) fn send(&mut self, now: Duration, datagram: Vec<u8>) {
        self.sent += 1;
        if self.rng.percent(self.weather.duplicates) {
            self.carry(now, datagram.clone());
        }
        self.carry(now, datagram);
    }

    fn carry(&mut self, now: Duration, datagram: Vec<u8>) {
        if self.rng.percent(self.weather.loss) {
            return;
        }
        let jitter = self.rng.below(u64::try_from(self.weather.jitter.as_micros()).unwrap() + 1);
        self.order += 1;
        self.on_the_way.push(Reverse((now + self.weather.delay + Duration::from_micros(jitter), self.order, datagram)));
    }

    /// When the next datagram arrives.
    pub(crate) fn next_arrival(&self) -> Option<Duration> {
        self.on_the_way.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next datagram that has arrived.
    pub(crate) fn receive(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.next_arrival().filter(|at| *at <= now)?;
        self.on_the_way.pop().map(|Reverse((_, _, datagram))| datagram)
    }
}
