//! Bounded logging of what others can trigger: some events in a while are told, the rest is counted.

use std::fmt;
use std::time::Duration;

/// How many events were swallowed since the last that was logged; the end of a line of the log, empty for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed(pub u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more of this kind were not logged)"),
        }
    }
}

/// Lets some events through per period and counts the others.
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    period: Duration,
    started: Duration,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    /// At most `burst` events per `period`.
    pub const fn new(burst: u32, period: Duration) -> Self {
        Self { burst, period, started: Duration::ZERO, passed: 0, suppressed: 0 }
    }

    /// Whether an event at `now` (since any fixed moment) may be logged: then the number of events swallowed before it.
    pub fn pass(&mut self, now: Duration) -> Option<Suppressed> {
        if now.saturating_sub(self.started) >= self.period {
            self.started = now;
            self.passed = 0;
        }
        if self.passed >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(Suppressed(std::mem::take(&mut self.suppressed)))
    }
}

impl Default for RateLimit {
    /// Five lines in ten seconds.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_says_what_it_left_out() {
        let mut limit = RateLimit::new(2, Duration::from_secs(10));
        let passed: Vec<_> = (0..25).map(|second| limit.pass(Duration::from_secs(second))).collect();
        let logged: Vec<_> = passed.iter().flatten().map(|suppressed| suppressed.0).collect();
        assert_eq!(logged, [0, 0, 8, 0, 8, 0]);
    }

    #[test]
    fn a_line_says_how_many_were_left_out_before_it() {
        assert_eq!(Suppressed(0).to_string(), "");
        assert_eq!(Suppressed(3).to_string(), " (3 more of this kind were not logged)");
    }
}
