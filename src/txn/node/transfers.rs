//! Transfers of disks under way: a bounded number at once for each pool, in the order in which they came, each of which can be stopped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::model::GuestId;

/// Transfers at once for each pool. More would only share the same network and disk, and hold half a megabyte each.
const AT_ONCE: usize = 8;

/// All of them.
#[derive(Default)]
pub struct Transfers {
    running: Arc<Mutex<Registered>>,
    pools: Mutex<HashMap<String, Arc<Semaphore>>>,
    closing: CancellationToken,
}

/// Those under way by their number, each with its guest: a guest may have media on the way while its disk is being sent.
#[derive(Default)]
struct Registered {
    last: u64,
    transfers: BTreeMap<u64, (GuestId, Stop)>,
}

/// Why a transfer was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// The service ends.
    #[error("the cell is shutting down")]
    Shutdown,
    /// Its guest goes.
    #[error("the guest is being deleted")]
    Deletion,
    /// Its guest is another Cell's now.
    #[error("the guest has been moved to another cell")]
    Moved,
}

/// How one transfer is stopped, and why.
#[derive(Clone)]
struct Stop {
    token: CancellationToken,
    reason: Arc<Mutex<StopReason>>,
}

impl Transfers {
    /// Registers a transfer for a guest.
    pub fn begin(&self, guest: GuestId) -> Running {
        let stop = Stop { token: self.closing.child_token(), reason: Arc::new(Mutex::new(StopReason::Shutdown)) };
        let mut running = self.running.lock();
        running.last += 1;
        let number = running.last;
        running.transfers.insert(number, (guest, stop.clone()));
        Running { number, stop, running: self.running.clone() }
    }

    /// Waits until the pool has room for one more transfer.
    pub async fn turn(&self, pool: &str) -> Option<OwnedSemaphorePermit> {
        let room = self.pools.lock().entry(pool.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone();
        // Nobody closes it.
        room.acquire_owned().await.ok()
    }

    /// Stops a guest's transfers; false when there is none. Whoever runs one takes it back and then frees the guest.
    pub fn stop(&self, guest: GuestId, reason: StopReason) -> bool {
        let running = self.running.lock();
        let mut stopped = false;
        for (_, stop) in running.transfers.values().filter(|(of, _)| *of == guest) {
            *stop.reason.lock() = reason;
            stop.token.cancel();
            stopped = true;
        }
        stopped
    }

    /// Transfers under way, those that wait for their turn included.
    pub fn count(&self) -> usize {
        self.running.lock().transfers.len()
    }

    /// Stops all transfers, now and in future.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// True once [`Transfers::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }
}

/// A registered transfer; dropping it ends the registration.
pub struct Running {
    number: u64,
    stop: Stop,
    running: Arc<Mutex<Registered>>,
}

impl Running {
    /// Cancelled when the transfer is to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.stop.token
    }

    /// Why it was stopped; none when it was not.
    pub fn stopped(&self) -> Option<StopReason> {
        self.stop.token.is_cancelled().then(|| *self.stop.reason.lock())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.lock().transfers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pool_takes_so_many_and_other_pools_do_not_wait() {
        let transfers = Transfers::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(transfers.turn("a").await);
        }
        let waiting = transfers.turn("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        assert!(transfers.turn("b").await.is_some());
        held.pop();
        assert!(waiting.await.is_some());
    }

    #[test]
    fn a_transfer_is_stopped_with_its_reason_and_all_are_at_the_end() {
        let transfers = Transfers::default();
        let (one, two) = (GuestId::from_bytes([1; 16]), GuestId::from_bytes([2; 16]));
        let (first, second) = (transfers.begin(one), transfers.begin(two));
        assert!(transfers.stop(one, StopReason::Deletion));
        assert_eq!((first.stopped(), second.stopped()), (Some(StopReason::Deletion), None));
        drop(first);
        assert!(!transfers.stop(one, StopReason::Deletion));
        transfers.close();
        assert_eq!(second.stopped(), Some(StopReason::Shutdown));
        assert!(transfers.begin(one).stopped().is_some(), "nothing begins after the end");
    }

    #[test]
    fn two_transfers_of_a_guest_are_stopped_and_end_each_for_itself() {
        let transfers = Transfers::default();
        let guest = GuestId::from_bytes([1; 16]);
        let (upload, media) = (transfers.begin(guest), transfers.begin(guest));
        assert_eq!(transfers.count(), 2);
        drop(media);
        assert_eq!(transfers.count(), 1, "the other one is still registered");
        let media = transfers.begin(guest);
        assert!(transfers.stop(guest, StopReason::Moved));
        assert_eq!((upload.stopped(), media.stopped()), (Some(StopReason::Moved), Some(StopReason::Moved)));
        drop((upload, media));
        assert_eq!(transfers.count(), 0);
    }
}
