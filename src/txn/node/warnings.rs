//! A log that a peer can't fill: so many lines in a while, then one that counts the rest.

use std::fmt::Arguments;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines allowed in one `WINDOW`.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits warnings about what came from outside.
#[derive(Default)]
pub struct Warnings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Warnings {
    /// Logs a warning, or counts it when too many came lately.
    pub fn warn(&self, text: Arguments<'_>) {
        let Some(suppressed) = self.admit(Instant::now()) else {
            return;
        };
        if suppressed > 0 {
            tracing::warn!("{suppressed} more warnings about messages of the domain were left out");
        }
        tracing::warn!("{text}");
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            state.since = Some(now);
            state.lines = 0;
        }
        state.lines += 1;
        if state.lines > BURST {
            state.suppressed += 1;
            return None;
        }
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_counted() {
        let warnings = Warnings::default();
        let written = (0..100).filter(|_| warnings.admit(Instant::now()).is_some()).count();
        assert_eq!(written, 20);
        tokio::time::advance(WINDOW).await;
        assert_eq!(warnings.admit(Instant::now()), Some(80));
        assert_eq!(warnings.admit(Instant::now()), Some(0));
    }
}
