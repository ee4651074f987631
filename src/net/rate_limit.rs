//! Bounded logging of what the network can trigger.

use std::time::Duration;

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
    pub fn pass(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.started) >= self.period {
            self.started = now;
            self.passed = 0;
        }
        if self.passed >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Default for RateLimit {
    /// Five lines in ten seconds.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(10))
    }
}
