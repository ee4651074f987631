//! At most one change at a time per guest; guests never wait for each other.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{watch, OwnedMutexGuard};
use tokio::time::{sleep_until, Instant};

use crate::model::GuestId;
use crate::txn::Failure;

/// What works on a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// It is being created.
    Create,
    /// It is being started.
    Start,
    /// It is asked to stop.
    Stop,
    /// It is being deleted.
    Delete,
    /// It comes from another host.
    Attach,
    /// It leaves for another host.
    Detach,
    /// A setting of it is being changed.
    Configure,
    /// Media are put into its drive or taken out.
    Media,
    /// Its system disk is being filled for the first time.
    Clone,
    /// Its system disk is being replaced.
    ResetSystem,
    /// Its system disk is being sent to an image server.
    CreateImage,
    /// One of its disks is growing.
    ResizeDisk,
    /// One of its disks is being rewritten.
    ShrinkDisk,
    /// A snapshot is being taken.
    CreateSnapshot,
    /// It is going back to a snapshot.
    RestoreSnapshot,
    /// A snapshot is being merged away.
    DeleteSnapshot,
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Attach => "taking it over from another cell",
            Self::Detach => "giving it to another cell",
            Self::Configure => "a change of its settings",
            Self::Media => "a change of its media",
            Self::Clone => "cloning its system disk",
            Self::ResetSystem => "system reset",
            Self::CreateImage => "sending its system disk to an image server",
            Self::ResizeDisk => "resizing a disk",
            Self::ShrinkDisk => "shrinking a disk",
            Self::CreateSnapshot => "taking a snapshot",
            Self::RestoreSnapshot => "restoring a snapshot",
            Self::DeleteSnapshot => "deleting a snapshot",
        }
    }

    /// A guest that starts or stops meanwhile does so by itself or for somebody else, and the job does not tell the Core.
    pub(in crate::txn) fn leaves_power_alone(self) -> bool {
        matches!(self, Self::DeleteSnapshot)
    }

    /// Takes so long that nobody waits for it.
    fn is_long(self) -> bool {
        matches!(self, Self::Clone | Self::ResetSystem | Self::CreateImage | Self::ShrinkDisk | Self::DeleteSnapshot)
    }
}

#[derive(Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The job that has the turn, and since when.
    current: watch::Sender<Current>,
}

type Current = Option<(Job, Instant)>;

/// The running jobs by guest.
#[derive(Default)]
pub struct Jobs {
    slots: Arc<Mutex<HashMap<GuestId, Arc<Slot>>>>,
}

impl Jobs {
    /// Guests that a job works on or waits for.
    pub fn count(&self) -> usize {
        self.slots.lock().len()
    }

    /// Waits for the guest's turn, at most until `deadline`, and not at all for a job that takes long; a busy answer names the job in
    /// the way.
    pub async fn acquire(&self, guest: GuestId, job: Job, deadline: Instant) -> Result<JobGuard, Failure> {
        self.take(guest, job, deadline, Job::is_long).await
    }

    /// Waits for the guest's turn, at most until `deadline`, whatever is in the way.
    pub async fn outlast(&self, guest: GuestId, job: Job, deadline: Instant) -> Result<JobGuard, Failure> {
        self.take(guest, job, deadline, |_| false).await
    }

    async fn take(&self, guest: GuestId, job: Job, deadline: Instant, gives_up: fn(Job) -> bool) -> Result<JobGuard, Failure> {
        let slot = self.slots.lock().entry(guest).or_default().clone();
        let mut current = slot.current.subscribe();
        let hopeless = async {
            // The sender lives as long as the slot.
            let _ = current.wait_for(|current| current.is_some_and(|(job, _)| gives_up(job))).await;
        };
        let turn = tokio::select! {
            biased;
            turn = slot.turn.clone().lock_owned() => Some(turn),
            () = hopeless => None,
            () = sleep_until(deadline) => None,
        };
        let Some(turn) = turn else {
            return Err(Failure::refused(busy(guest, *slot.current.borrow())));
        };
        slot.current.send_replace(Some((job, Instant::now())));
        Ok(JobGuard { guest, slot, turn: Some(turn), slots: self.slots.clone() })
    }

    /// The job that runs for the guest. While there is one, it tells the Core what becomes of the guest.
    pub fn current(&self, guest: GuestId) -> Option<Job> {
        self.slots.lock().get(&guest).and_then(|slot| slot.current.borrow().map(|(job, _)| job))
    }
}

fn busy(guest: GuestId, current: Current) -> String {
    match current {
        Some((job, since)) => format!("guest {guest} is busy: {} has been running for {} s", job.name(), since.elapsed().as_secs()),
        None => format!("guest {guest} is busy"),
    }
}

/// Holds a guest's turn until it is dropped.
pub struct JobGuard {
    guest: GuestId,
    slot: Arc<Slot>,
    turn: Option<OwnedMutexGuard<()>>,
    slots: Arc<Mutex<HashMap<GuestId, Arc<Slot>>>>,
}

impl JobGuard {
    /// The job goes over into another.
    pub fn becomes(&mut self, job: Job) {
        self.slot.current.send_replace(Some((job, Instant::now())));
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.slot.current.send_replace(None);
        self.turn = None;
        let mut slots = self.slots.lock();
        // Two references: the map's and ours. With more, somebody waits for the turn.
        if slots.get(&self.guest).is_some_and(|slot| Arc::strong_count(slot) <= 2) {
            slots.remove(&self.guest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_job_at_a_time_and_a_busy_answer_names_it() {
        let jobs = Jobs::default();
        let guest = GuestId::from_bytes([1; 16]);
        let held = jobs.acquire(guest, Job::Start, Instant::now()).await.unwrap();
        assert_eq!(jobs.current(guest), Some(Job::Start));
        let refused = jobs.acquire(guest, Job::Delete, Instant::now() + Duration::from_secs(3)).await.err().unwrap();
        assert_eq!(refused.to_string(), format!("guest {guest} is busy: start has been running for 3 s"));
        let other = jobs.acquire(GuestId::from_bytes([2; 16]), Job::Start, Instant::now()).await;
        assert!(other.is_ok(), "another guest does not wait");
        drop(held);
        assert!(jobs.acquire(guest, Job::Delete, Instant::now()).await.is_ok());
    }

    /// §14 C18: what takes long is named at once, also to those who waited since before.
    #[tokio::test(start_paused = true)]
    async fn c18_nobody_waits_for_a_long_job_but_who_outlasts_it() {
        let jobs = Jobs::default();
        let guest = GuestId::from_bytes([1; 16]);
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(9);
        let mut held = jobs.acquire(guest, Job::Create, deadline).await.unwrap();
        let early = jobs.acquire(guest, Job::Start, deadline);
        let change = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            held.becomes(Job::Clone);
        };
        let (refused, ()) = tokio::join!(early, change);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        assert!(refused.err().unwrap().to_string().contains("cloning its system disk has been running"));
        assert!(jobs.acquire(guest, Job::Start, deadline).await.is_err());
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        let end = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(held);
        };
        let (outlasted, ()) = tokio::join!(jobs.outlast(guest, Job::Delete, deadline), end);
        assert!(outlasted.is_ok());
    }

    #[tokio::test]
    async fn nothing_is_kept_for_guests_without_jobs() {
        let jobs = Jobs::default();
        let guest = GuestId::from_bytes([1; 16]);
        let first = jobs.acquire(guest, Job::Start, Instant::now()).await.unwrap();
        let second = jobs.acquire(guest, Job::Stop, Instant::now() + Duration::from_secs(60));
        tokio::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        drop(second.await.unwrap());
        assert!(jobs.slots.lock().is_empty());
    }
}
