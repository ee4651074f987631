//! Latencies in numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a phase's latencies amount to. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Half were faster.
    pub p50_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Summary {
    /// Of these latencies; `None` of none.
    pub fn of(latencies: &mut [Duration]) -> Option<Self> {
        latencies.sort_unstable();
        let max = *latencies.last()?;
        let at = |share: f64| quantile(latencies, share);
        let ms = |latency: Duration| latency.as_secs_f64() * 1000.0;
        let count = u64::try_from(latencies.len()).unwrap_or(u64::MAX);
        Some(Self { count, p50_ms: ms(at(0.50)), p99_ms: ms(at(0.99)), max_ms: ms(max) })
    }
}

/// The smallest value that at least this share of the sorted values does not exceed.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a rank between 0 and the length
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
