//! The retransmission timeout, out of measured round trips; all in milliseconds.

/// Before anything was measured.
const INITIAL_RTO: u64 = 200;
/// A sample longer than this is a forged or stale time stamp.
const MAX_SAMPLE: u64 = 60_000;

/// Smoothed round trip, its variation and its recent peak.
#[derive(Debug)]
pub(super) struct Rtt {
    min: u64,
    max: u64,
    slack: u64,
    /// Both smoothed, times 8 and times 4, so that nothing is lost to rounding.
    smooth8: u64,
    variation4: u64,
    peak: u64,
    measured: bool,
    rto: u64,
}

impl Rtt {
    pub(super) fn new(min: u64, max: u64, slack: u64) -> Self {
        let max = max.max(min);
        let rto = INITIAL_RTO.clamp(min, max);
        Self { min, max, slack, smooth8: 0, variation4: 0, peak: 0, measured: false, rto }
    }

    /// Takes a measured round trip.
    ///
    /// A Core acknowledges now at once, on the back of its own data, and now at its tick up to 100 ms later. Mean and variation forget the
    /// late ones during a quick spell, and the next late one would find its segment sent again in vain; the slowly sinking peak does not.
    pub(super) fn sample(&mut self, rtt: u64) {
        if rtt > MAX_SAMPLE {
            return;
        }
        if self.measured {
            let deviation = rtt.abs_diff(self.smooth8 / 8);
            self.variation4 = self.variation4 - self.variation4 / 4 + deviation;
            self.smooth8 = self.smooth8 - self.smooth8 / 8 + rtt;
        } else {
            self.smooth8 = rtt * 8;
            self.variation4 = rtt * 2;
            self.measured = true;
        }
        self.peak = rtt.max(self.peak - self.peak.div_ceil(64));
        let mean = self.smooth8 / 8 + self.variation4.max(self.slack);
        let peak = self.peak + self.peak / 4;
        self.rto = mean.max(peak).clamp(self.min, self.max);
    }

    /// Timeout of a segment's first transmission.
    pub(super) fn rto(&self) -> u64 {
        self.rto
    }

    /// Timeout of the transmission that follows one with the timeout `rto`.
    pub(super) fn backoff(&self, rto: u64) -> u64 {
        (rto + rto / 2).max(self.rto).min(self.max)
    }
}
