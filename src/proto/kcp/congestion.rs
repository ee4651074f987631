//! The congestion window of KCP, in segments: slow start, then about one segment a round trip, back on loss. Off at a Cell's end.

const MIN_THRESHOLD: usize = 2;

#[derive(Debug)]
pub(super) struct Congestion {
    enabled: bool,
    window: usize,
    threshold: usize,
    /// Acknowledged segments that have not yet made the window grow.
    credit: usize,
}

impl Congestion {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, window: 1, threshold: MIN_THRESHOLD, credit: 0 }
    }

    /// Most segments in flight.
    pub(super) fn window(&self) -> usize {
        if self.enabled {
            self.window
        } else {
            usize::MAX
        }
    }

    /// The peer has taken something in; `limit` is its own window.
    pub(super) fn acknowledged(&mut self, limit: usize) {
        self.credit += 1;
        if self.window < self.threshold || self.credit >= self.window {
            self.window += 1;
            self.credit = 0;
        }
        self.window = self.window.min(limit.max(1));
    }

    /// A segment timed out.
    pub(super) fn timed_out(&mut self) {
        self.threshold = (self.window / 2).max(MIN_THRESHOLD);
        self.window = 1;
        self.credit = 0;
    }

    /// A segment was retransmitted early, with so many in flight.
    pub(super) fn resent_early(&mut self, in_flight: usize) {
        self.threshold = (in_flight / 2).max(MIN_THRESHOLD);
        self.window = self.threshold + 1;
        self.credit = 0;
    }
}
