//! The sending side: a queue, the segments in flight, and when to send one again.

use std::collections::VecDeque;

use super::congestion::Congestion;
use super::rtt::Rtt;
use super::segment::{Command, Segment};
use super::{millis, ring, timestamp, Header, KcpConfig, QueueFull, HEADER};

/// Window that a peer is taken to have until it says so.
const INITIAL_PEER_WINDOW: u16 = 32;
/// First and longest pause between questions to a peer whose window is shut, in ms. The library waits 7 s, but the peer's own notice may have got lost.
const PROBE_FIRST: u64 = 500;
const PROBE_LONGEST: u64 = 8_000;

#[derive(Debug)]
pub(super) struct Sender {
    window: usize,
    fast_resend: u32,
    dead_link: u32,
    queue_bytes: usize,
    queue_segments: usize,

    queue: VecDeque<Vec<u8>>,
    /// Sent and not yet acknowledged without a gap: place i holds number `una + i`.
    flight: VecDeque<Flight>,
    una: u32,
    /// Bytes in both.
    bytes: usize,
    /// Number of the datagram that is being written.
    datagram: u64,

    peer_window: u16,
    rtt: Rtt,
    congestion: Congestion,
    /// The earliest `resend_at` of the flight, or earlier.
    next_resend: Option<u64>,
    /// A segment of the flight has been skipped often enough to be sent again before its time.
    resend_early: bool,
    probe: Option<Probe>,
    ask: bool,
    dead: bool,
}

#[derive(Debug)]
struct Flight {
    data: Vec<u8>,
    acknowledged: bool,
    /// Clock of the last transmission, as the peer echoes it.
    ts: u32,
    rto: u64,
    resend_at: u64,
    timeouts: u32,
    /// The datagram of the last transmission.
    datagram: u64,
    /// Datagrams sent after that one of which something has been acknowledged, and the last of them.
    skipped: u32,
    skipped_by: u64,
}

#[derive(Debug)]
struct Probe {
    at: u64,
    pause: u64,
}

impl Sender {
    pub(super) fn new(config: &KcpConfig) -> Self {
        Self {
            window: usize::from(config.send_window.max(1)),
            fast_resend: config.fast_resend,
            dead_link: config.dead_link,
            queue_bytes: config.queue_bytes,
            queue_segments: config.queue_segments,
            queue: VecDeque::new(),
            flight: VecDeque::new(),
            una: config.start_sn,
            bytes: 0,
            datagram: 0,
            peer_window: INITIAL_PEER_WINDOW,
            rtt: Rtt::new(millis(config.min_rto), millis(config.max_rto), millis(config.interval)),
            congestion: Congestion::new(config.congestion_window),
            next_resend: None,
            resend_early: false,
            probe: None,
            ask: false,
            dead: false,
        }
    }

    /// The next number to be sent.
    pub(super) fn next_sn(&self) -> u32 {
        ring::ahead(self.una, self.flight.len())
    }

    /// All before this number have arrived.
    pub(super) fn una(&self) -> u32 {
        self.una
    }

    /// Asks the peer for its window with the next datagram.
    pub(super) fn ask_window(&mut self) {
        self.ask = true;
    }

    pub(super) fn reserve(&self, bytes: usize, segments: usize) -> Result<(), QueueFull> {
        let waiting = self.queue.len() + self.flight.len();
        if self.bytes.saturating_add(bytes) > self.queue_bytes || waiting.saturating_add(segments) > self.queue_segments {
            return Err(QueueFull { segments: waiting, bytes: self.bytes, wanted: bytes });
        }
        Ok(())
    }

    pub(super) fn queue(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len();
        self.queue.push_back(chunk.to_vec());
    }

    pub(super) fn set_peer_window(&mut self, window: u16) {
        self.peer_window = window;
    }

    /// All before `una` have arrived; never beyond what was sent.
    pub(super) fn acknowledge_below(&mut self, una: u32) {
        while self.una != una && ring::before(self.una, una) && !self.flight.is_empty() {
            self.pop_front();
        }
        self.pop_acknowledged();
    }

    /// Segment `sn` has arrived in the transmission of `ts`. `measure` its round trip, unless the ack itself was held up.
    pub(super) fn acknowledge(&mut self, sn: u32, ts: u32, now: u64, measure: bool) {
        let Some(place) = ring::offset(self.una, sn, self.flight.len()) else { return };
        let Some(flight) = self.flight.get_mut(place).filter(|flight| !flight.acknowledged) else { return };
        flight.acknowledged = true;
        self.bytes -= std::mem::take(&mut flight.data).len();
        if measure && ring::at_or_before(ts, timestamp(now)) {
            self.rtt.sample(u64::from(timestamp(now).wrapping_sub(ts)), now);
        }
        let (is_last_transmission, by) = (flight.ts == ts, flight.datagram);
        if self.fast_resend > 0 && is_last_transmission {
            self.skip(place, by);
        }
        self.pop_acknowledged();
    }

    /// Something of datagram `by` has arrived: what was sent before it, lies before `place` and has not arrived is probably lost.
    ///
    /// Datagrams count, not segments: one that overtakes another acknowledges many at once, and that is no loss.
    fn skip(&mut self, place: usize, by: u64) {
        for earlier in self.flight.iter_mut().take(place) {
            if !earlier.acknowledged && earlier.datagram < by && earlier.skipped_by < by {
                earlier.skipped_by = by;
                earlier.skipped += 1;
                self.resend_early |= earlier.skipped >= self.fast_resend;
            }
        }
    }

    fn pop_acknowledged(&mut self) {
        while self.flight.front().is_some_and(|flight| flight.acknowledged) {
            self.pop_front();
        }
        if self.flight.is_empty() {
            self.next_resend = None;
            self.resend_early = false;
        }
    }

    fn pop_front(&mut self) {
        if let Some(flight) = self.flight.pop_front() {
            self.una = self.una.wrapping_add(1);
            self.bytes -= flight.data.len();
            self.congestion.acknowledged(usize::from(self.peer_window));
        }
    }

    /// Writes what is due while it fits before `end`.
    pub(super) fn transmit(&mut self, header: &Header, now: u64, end: usize, out: &mut Vec<u8>) {
        self.datagram += 1;
        self.schedule_probe(now);
        if self.ask && out.len() + HEADER <= end {
            Segment::new(header, Command::WindowAsk, 0, &[]).write(out);
            self.ask = false;
        }
        let complete = !self.is_resend_due(now) || self.resend(header, now, end, out);
        if complete {
            self.send_new(header, now, end, out);
        }
    }

    fn is_resend_due(&self, now: u64) -> bool {
        self.resend_early || self.next_resend.is_some_and(|at| at <= now)
    }

    /// Sends again what timed out or was skipped; false if not all of it fitted.
    fn resend(&mut self, header: &Header, now: u64, end: usize, out: &mut Vec<u8>) -> bool {
        let in_flight = self.flight.len();
        let (mut late, mut early, mut complete) = (false, false, true);
        let mut next_resend = None;
        for (place, flight) in self.flight.iter_mut().enumerate().filter(|(_, flight)| !flight.acknowledged) {
            let is_late = flight.resend_at <= now;
            let is_early = self.fast_resend > 0 && flight.skipped >= self.fast_resend;
            if is_late || is_early {
                if out.len() + HEADER + flight.data.len() > end {
                    complete = false;
                    break;
                }
                if is_late {
                    flight.timeouts += 1;
                    flight.rto = self.rtt.backoff(flight.rto);
                    self.dead |= flight.timeouts >= self.dead_link;
                }
                (late, early) = (late || is_late, early || !is_late);
                flight.skipped = 0;
                flight.datagram = self.datagram;
                flight.ts = header.ts;
                flight.resend_at = now + flight.rto;
                Segment::new(header, Command::Push, ring::ahead(self.una, place), &flight.data).write(out);
            }
            next_resend = Some(next_resend.map_or(flight.resend_at, |at: u64| at.min(flight.resend_at)));
        }
        if early {
            self.congestion.resent_early(in_flight);
        }
        if late {
            self.congestion.timed_out();
        }
        if complete {
            self.next_resend = next_resend;
            self.resend_early = false;
        }
        complete
    }

    fn send_new(&mut self, header: &Header, now: u64, end: usize, out: &mut Vec<u8>) {
        while self.has_window() {
            if self.queue.front().is_none_or(|data| out.len() + HEADER + data.len() > end) {
                return;
            }
            let Some(data) = self.queue.pop_front() else { return };
            let rto = self.rtt.rto();
            let resend_at = now + rto;
            Segment::new(header, Command::Push, self.next_sn(), &data).write(out);
            self.flight.push_back(Flight {
                data,
                acknowledged: false,
                ts: header.ts,
                rto,
                resend_at,
                timeouts: 0,
                datagram: self.datagram,
                skipped: 0,
                skipped_by: 0,
            });
            self.next_resend = Some(self.next_resend.map_or(resend_at, |at| at.min(resend_at)));
        }
    }

    fn has_window(&self) -> bool {
        let window = self.window.min(usize::from(self.peer_window)).min(self.congestion.window());
        self.flight.len() < window
    }

    fn is_shut_out(&self) -> bool {
        self.peer_window == 0 && !self.queue.is_empty()
    }

    /// Asks a peer whose window is shut for it from time to time.
    fn schedule_probe(&mut self, now: u64) {
        if !self.is_shut_out() {
            self.probe = None;
            return;
        }
        match &mut self.probe {
            None => self.probe = Some(Probe { at: now + PROBE_FIRST, pause: PROBE_FIRST }),
            Some(probe) if probe.at <= now => {
                self.ask = true;
                probe.pause = (probe.pause * 2).min(PROBE_LONGEST);
                probe.at = now + probe.pause;
            }
            Some(_) => {}
        }
    }

    /// When something is due, in ms; 0 = now.
    pub(super) fn next_timeout(&self) -> Option<u64> {
        if self.ask || self.resend_early || (self.has_window() && !self.queue.is_empty()) {
            return Some(0);
        }
        let probe = self.is_shut_out().then(|| self.probe.as_ref().map_or(0, |probe| probe.at));
        [self.next_resend, probe].into_iter().flatten().min()
    }

    /// Something is in flight or waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.ask || !self.is_drained()
    }

    /// Bytes in queue and flight.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.flight.is_empty()
    }
}
