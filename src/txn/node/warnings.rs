//! A log that a peer can't fill.

use std::fmt::Arguments;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::{RateLimit, Suppressed};

/// Lines allowed in one `WINDOW`.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits warnings about what came from outside.
pub struct Warnings {
    since: Instant,
    limit: Mutex<RateLimit>,
}

impl Default for Warnings {
    fn default() -> Self {
        Self { since: Instant::now(), limit: Mutex::new(RateLimit::new(BURST, WINDOW)) }
    }
}

impl Warnings {
    /// Logs a warning, or counts it when too many came lately.
    pub fn warn(&self, text: Arguments<'_>) {
        if let Some(suppressed) = self.admit() {
            tracing::warn!("{text}{suppressed}");
        }
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn admit(&self) -> Option<Suppressed> {
        self.limit.lock().pass(self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_counted() {
        let warnings = Warnings::default();
        let written = (0..100).filter(|_| warnings.admit().is_some()).count();
        assert_eq!(written, 20);
        tokio::time::advance(WINDOW).await;
        assert_eq!(warnings.admit(), Some(Suppressed(80)));
        assert_eq!(warnings.admit(), Some(Suppressed(0)));
    }
}
