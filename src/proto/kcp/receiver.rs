//! The receiving side: puts segments in order, and owes acknowledgements.

use std::collections::VecDeque;

use super::segment::{Command, Segment};
use super::{ring, Header, KcpConfig, HEADER};

/// Most acks owed at a time; more only pile up when the peer repeats itself, and then it will do so again.
const MAX_ACKS: usize = 1024;

#[derive(Debug)]
pub(super) struct Receiver {
    window: usize,
    /// The next number to come; what is before it has been queued or read.
    next: u32,
    /// Segments that came early: place i holds number `next + i`. Never longer than the window.
    early: VecDeque<Option<Vec<u8>>>,
    /// In order, to be read. Never longer than the window, save for nothing.
    ready: VecDeque<Vec<u8>>,
    /// Number and time stamp of each push since the last datagram.
    acks: Vec<(u32, u32)>,
    /// Acks of `acks` that are already written.
    written: usize,
    tell: bool,
}

impl Receiver {
    pub(super) fn new(config: &KcpConfig) -> Self {
        Self {
            window: usize::from(config.receive_window.max(1)),
            next: config.start_sn,
            early: VecDeque::new(),
            ready: VecDeque::new(),
            acks: Vec::new(),
            written: 0,
            tell: false,
        }
    }

    /// All before this number have arrived.
    pub(super) fn next_sn(&self) -> u32 {
        self.next
    }

    /// Free places, as advertised.
    pub(super) fn window(&self) -> u16 {
        u16::try_from(self.window.saturating_sub(self.ready.len())).unwrap_or(u16::MAX)
    }

    /// Takes a push: new, early, repeated (then it is acknowledged again, for the first ack may be lost), or beyond the window (then it is not).
    pub(super) fn push(&mut self, sn: u32, ts: u32, data: &[u8]) {
        let place = ring::offset(self.next, sn, self.window);
        if place.is_none() && !ring::before(sn, self.next) {
            return;
        }
        if self.acks.len() < MAX_ACKS {
            self.acks.push((sn, ts));
        }
        match place {
            Some(0) if self.early.is_empty() && self.ready.len() < self.window => {
                self.ready.push_back(data.to_vec());
                self.next = self.next.wrapping_add(1);
            }
            Some(place) => self.keep_early(place, data),
            None => {}
        }
    }

    fn keep_early(&mut self, place: usize, data: &[u8]) {
        if self.early.len() <= place {
            self.early.resize(place + 1, None);
        }
        if let Some(free @ None) = self.early.get_mut(place) {
            *free = Some(data.to_vec());
        }
        self.promote();
    }

    /// Moves what is in order now to where it is read.
    fn promote(&mut self) {
        while self.ready.len() < self.window {
            match self.early.front_mut().and_then(Option::take) {
                Some(data) => self.ready.push_back(data),
                None => break,
            }
            self.early.pop_front();
            self.next = self.next.wrapping_add(1);
        }
    }

    /// The next chunk in order. A window that was shut is announced once it opens.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let was_shut = self.window() == 0;
        let data = self.ready.pop_front()?;
        self.promote();
        self.tell |= was_shut && self.window() > 0;
        Some(data)
    }

    /// Bytes that came early or wait to be read.
    pub(super) fn bytes(&self) -> usize {
        self.early.iter().flatten().chain(&self.ready).map(Vec::len).sum()
    }

    /// Answer a question for the window.
    pub(super) fn tell_window(&mut self) {
        self.tell = true;
    }

    /// Something waits to be written.
    pub(super) fn has_news(&self) -> bool {
        self.tell || !self.acks.is_empty()
    }

    /// Writes owed acks and the window while they fit before `end`.
    ///
    /// `una` speaks for whatever is in order, so of those acks only the last is written, for its time stamp.
    pub(super) fn transmit(&mut self, header: &Header, end: usize, out: &mut Vec<u8>) {
        let fits = |out: &Vec<u8>| out.len() + HEADER <= end;
        while let Some(&(sn, ts)) = self.acks.get(self.written) {
            let last = self.written + 1 == self.acks.len();
            if last || !ring::before(sn, self.next) {
                if !fits(out) {
                    return;
                }
                Segment::new(&Header { ts, ..*header }, Command::Ack, sn, &[]).write(out);
            }
            self.written += 1;
        }
        self.acks.clear();
        self.written = 0;
        if self.tell && fits(out) {
            Segment::new(header, Command::WindowTell, 0, &[]).write(out);
            self.tell = false;
        }
    }
}
