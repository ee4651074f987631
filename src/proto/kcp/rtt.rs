//! The retransmission timeout, out of measured round trips; all in milliseconds.

/// Before anything was measured.
const INITIAL_RTO: u64 = 200;
/// A sample longer than this is a forged or stale time stamp.
const MAX_SAMPLE: u64 = 60_000;

/// How long a peak counts, at least; at most twice as long.
const PEAK_SPAN: u64 = 10_000;

/// Smoothed round trip, its variation and its recent peak.
#[derive(Debug)]
pub(super) struct Rtt {
    min: u64,
    max: u64,
    slack: u64,
    /// Both smoothed, times 8 and times 4, so that nothing is lost to rounding.
    smooth8: u64,
    variation4: u64,
    /// The longest round trip of this span and of the one before, and when this one began.
    peaks: [u64; 2],
    span_start: u64,
    measured: bool,
    rto: u64,
}

impl Rtt {
    pub(super) fn new(min: u64, max: u64, slack: u64) -> Self {
        let max = max.max(min);
        let rto = INITIAL_RTO.clamp(min, max);
        Self { min, max, slack, smooth8: 0, variation4: 0, peaks: [0; 2], span_start: 0, measured: false, rto }
    }

    /// Takes a measured round trip.
    ///
    /// A Core acknowledges now at once, on the back of its own data, and now at its tick up to 100 ms later. Mean and variation forget the
    /// late ones during a quick spell, and the next late one would find its segment sent again in vain; the peak does not.
    pub(super) fn sample(&mut self, rtt: u64, now: u64) {
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
        let mean = self.smooth8 / 8 + self.variation4.max(self.slack);
        let peak = self.peak(rtt, now);
        self.rto = mean.max(peak + peak / 4).clamp(self.min, self.max);
    }

    fn peak(&mut self, rtt: u64, now: u64) -> u64 {
        if now.saturating_sub(self.span_start) >= PEAK_SPAN {
            self.peaks = [0, self.peaks[0]];
            self.span_start = now;
        }
        let [this, before] = &mut self.peaks;
        *this = rtt.max(*this);
        (*this).max(*before)
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
