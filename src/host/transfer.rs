//! What the two ends of a long transfer share: how far it is, and whether it is to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// One transfer. Clones are the same transfer.
#[derive(Clone, Debug, Default)]
pub struct Transfer {
    progress: Arc<Progress>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Transfer {
    /// A transfer that ends early when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { progress: Arc::default(), stop }
    }

    /// Whoever transfers ends soon after this is cancelled.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Says how much there is to do in all, and that nothing of it is done.
    pub fn begin(&self, total: u64) {
        self.progress.done.store(0, Ordering::Relaxed);
        self.progress.total.store(total, Ordering::Relaxed);
    }

    /// So much more is done.
    pub fn advance(&self, amount: u64) {
        self.progress.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// How much is done.
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }

    /// 0..=100; 0 while the whole is not known (contract §14 C7), 100 only when all of it is done.
    pub fn percent(&self) -> u32 {
        let (done, total) = (self.progress.done.load(Ordering::Relaxed), self.progress.total.load(Ordering::Relaxed));
        let percent = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
        u32::try_from(percent).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §14 C7: an empty or unknown size divides by nothing.
    #[test]
    fn c7_percent_is_true_and_never_divides_by_zero() {
        let transfer = Transfer::default();
        assert_eq!(transfer.percent(), 0);
        transfer.advance(5);
        assert_eq!(transfer.percent(), 0);
        transfer.begin(u64::MAX);
        assert_eq!(transfer.percent(), 0);
        transfer.advance(u64::MAX / 2 + 1);
        assert_eq!(transfer.percent(), 50);
        transfer.begin(200);
        transfer.advance(199);
        assert_eq!(transfer.percent(), 99);
        transfer.clone().advance(100);
        assert_eq!(transfer.percent(), 100);
    }
}
