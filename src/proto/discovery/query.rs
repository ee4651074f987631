//! When to ping, and which echo counts.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::{encode_ping, Echo};

/// The intervals of a query.
#[derive(Clone, Copy, Debug)]
pub struct QueryTiming {
    /// Between two pings at first.
    pub interval: Duration,
    /// How long the query stays that eager.
    pub eager: Duration,
    /// Between two pings from then on: there may be no Core for days.
    pub patient_interval: Duration,
    /// How long an echo naming an address that failed lately waits for a better one.
    pub reluctance: Duration,
}

impl Default for QueryTiming {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(300),
            eager: Duration::from_secs(60),
            patient_interval: Duration::from_secs(1),
            reluctance: Duration::from_millis(700),
        }
    }
}

/// Ids that still count: an echo to an older ping of the same query is as good as one to the newest.
const RECENT: usize = 16;

/// One search for a Core.
///
/// Anybody on the network may answer, so an echo is a hint and no more: an address at which the handshake failed lately is taken
/// only when nothing else turned up for a while.
#[derive(Debug)]
pub struct Query {
    timing: QueryTiming,
    domain: String,
    generator: fastrand::Rng,
    started: Duration,
    next_ping: Duration,
    recent: VecDeque<u16>,
    distrusted: Vec<SocketAddrV4>,
    fallback: Option<(Duration, SocketAddrV4)>,
}

impl Query {
    /// A query that pings at once. The ids come from `generator`; `distrusted` are addresses that failed lately.
    pub fn new(now: Duration, domain: &str, timing: QueryTiming, generator: fastrand::Rng, distrusted: Vec<SocketAddrV4>) -> Self {
        Self {
            timing,
            domain: domain.into(),
            generator,
            started: now,
            next_ping: now,
            recent: VecDeque::with_capacity(RECENT),
            distrusted,
            fallback: None,
        }
    }

    /// The ping that is due, if one is.
    pub fn poll_ping(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now < self.next_ping {
            return None;
        }
        let eager = now.saturating_sub(self.started) < self.timing.eager;
        self.next_ping = now + if eager { self.timing.interval } else { self.timing.patient_interval };
        let id = self.generator.u16(..u16::MAX); // the reference draws from 0..65534 too (contract §2.1)
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        Some(encode_ping(id, &self.domain))
    }

    /// Takes an echo; gives the Core's address when it answers this query and nothing speaks against it.
    /// Echoes to others' pings are normal (they are multicast) and give nothing.
    pub fn accept(&mut self, now: Duration, echo: &Echo) -> Option<SocketAddrV4> {
        if !self.recent.iter().any(|id| i64::from(*id) == echo.id) {
            return None;
        }
        if self.distrusted.contains(&echo.core) {
            self.fallback.get_or_insert((now + self.timing.reluctance, echo.core));
            return None;
        }
        Some(echo.core)
    }

    /// The address that failed lately, once nothing better answered in time.
    pub fn poll_fallback(&mut self, now: Duration) -> Option<SocketAddrV4> {
        let (due, _) = self.fallback?;
        if now < due {
            return None;
        }
        self.fallback.take().map(|(_, core)| core)
    }

    /// When [`Query::poll_ping`] or [`Query::poll_fallback`] has something next.
    pub fn next_timeout(&self) -> Duration {
        self.fallback.map_or(self.next_ping, |(due, _)| due.min(self.next_ping))
    }

    /// When the query began.
    pub fn started(&self) -> Duration {
        self.started
    }
}
