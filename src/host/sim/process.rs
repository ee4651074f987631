//! The process that uses the simulated host, and its death: what it had begun is cut off at a chosen point, and nothing that it does afterwards has
//! an effect.
//!
//! Contract: a point is right before and right after each operation that changes something. From its death on, an operation of the process
//! neither happens nor returns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use tokio::sync::Notify;

use super::SimHost;

/// One process. Clones are the same one.
#[derive(Clone, Default)]
pub struct SimProcess(Arc<Inner>);

#[derive(Default)]
struct Inner {
    passed: AtomicU64,
    /// 0: never.
    fatal: AtomicU64,
    dead: AtomicBool,
    died: Notify,
}

impl SimProcess {
    /// It dies at the `nth` point from now; 1 is the next one.
    pub fn die_at(&self, nth: u64) {
        self.0.fatal.store(self.0.passed.load(Ordering::SeqCst) + nth, Ordering::SeqCst);
    }

    /// It dies now.
    pub fn kill(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
        self.0.died.notify_waiters();
    }

    /// Points passed so far.
    pub fn points(&self) -> u64 {
        self.0.passed.load(Ordering::SeqCst)
    }

    /// True once it has died.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    /// Passes a point; false when the process is dead.
    pub fn pass(&self) -> bool {
        let number = self.0.passed.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.0.fatal.load(Ordering::SeqCst) {
            self.kill();
        }
        !self.is_dead()
    }

    /// [`SimProcess::pass`] for something that never returns to a dead process.
    pub(super) async fn point(&self) {
        if !self.pass() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for its death.
    pub async fn death(&self) {
        loop {
            let died = self.0.died.notified();
            if self.is_dead() {
                return;
            }
            died.await;
        }
    }
}

impl SimHost {
    /// The process that uses this host now.
    pub fn process(&self) -> SimProcess {
        self.inner.process.lock().clone()
    }

    /// Another process takes over: the events can be taken anew. The former one must not use the host any more.
    pub fn restart(&self) {
        *self.inner.process.lock() = SimProcess::default();
        *self.inner.events.lock() = Some(self.inner.world.lock().new_queue());
    }
}
