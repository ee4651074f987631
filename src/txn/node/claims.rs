//! Who may run a guest of a shared pool.
//!
//! Contract: a guest of a shared pool runs only where its claim, which lies beside its disks, says so. A host reads the claim right before it starts
//! the guest and once more right after. Only the Core's word takes a claim from another host, at a failover; that one may still be alive and cut off from the
//! Core only: its [`guard`](crate::txn::guard) then sees the claim gone and ends the guest, and the new owner waits [`GRACE`] for that. Guests of
//! local pools have no claim, and nothing here costs them anything.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep_until, Instant};

use super::Node;
use crate::host::ErrorKind;
use crate::model::{Claim, GuestId};
use crate::txn::Failure;

/// From taking a guest from a host that has not let go of it, to starting it: more than that host's guard takes to look at its claims and end the
/// guest.
pub(in crate::txn) const GRACE: Duration = Duration::from_secs(8);

/// Attempts to change a claim that others change at the same time.
const ATTEMPTS: usize = 3;

/// When claims were taken from others.
#[derive(Default)]
pub(super) struct Taken(Mutex<HashMap<GuestId, Instant>>);

/// A claim of ours that was just looked at.
pub struct Held {
    directory: String,
    claim: Claim,
}

impl Held {
    /// The guest was last claimed or started before this host was booted.
    pub fn is_of_former_boot(&self, boot: &str) -> bool {
        self.claim.boot != boot
    }
}

impl Node {
    /// Directory of a guest's shared pool; none for a guest of a local pool.
    pub fn shared_directory(&self, id: GuestId) -> Option<String> {
        let books = self.books.lock();
        let config = &books.guests.get(&id)?.config;
        books.shared_pool(config).map(|pool| pool.target.clone())
    }

    /// Makes sure that the guest is ours; none for a guest of a local pool. A guest that nobody claims becomes ours.
    pub async fn hold(&self, id: GuestId) -> Result<Option<Held>, Failure> {
        let Some(directory) = self.shared_directory(id) else { return Ok(None) };
        let name = &self.settings.name;
        for _ in 0..ATTEMPTS {
            let present = self.host.shared.claim(&directory, id).await?.unwrap_or_default();
            if present.owner == *name {
                return Ok(Some(Held { directory, claim: present }));
            }
            if !present.owner.is_empty() {
                return Err(Failure::refused(format!(
                    "guest {id} belongs to {} now, as its claim on the shared storage says",
                    present.owner
                )));
            }
            let claim = self.claim_after(&present);
            match self.host.shared.set_claim(&directory, id, &claim).await {
                Ok(()) => return Ok(Some(Held { directory, claim })),
                Err(error) if error.kind == ErrorKind::Busy => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::refused(format!("the claim of guest {id} is being changed by another cell; try again")))
    }

    /// The begin of a tenure of ours.
    fn claim_after(&self, present: &Claim) -> Claim {
        let generation = present.generation.saturating_add(1);
        Claim { owner: self.settings.name.clone(), generation, tenure: generation, boot: self.host.shared.boot(), ..Claim::default() }
    }

    /// Takes the guest from whoever has it, because the Core says so. True when it ran when it was let go of.
    pub async fn take_claim(&self, directory: &str, id: GuestId) -> Result<bool, Failure> {
        let name = &self.settings.name;
        let mut busy = None;
        for _ in 0..ATTEMPTS {
            let present = self.host.shared.claim(directory, id).await?.unwrap_or_default();
            let claim = self.claim_after(&present);
            let from = if present.owner == *name { present.from } else { present.owner };
            let taken = !from.is_empty();
            // That it ran stays noted until it is started here: an attempt of which nobody knows how it ended, and a crash, must not forget it.
            let claim = Claim { from, running: present.running, ..claim };
            match self.host.shared.set_claim(directory, id, &claim).await {
                Ok(()) => {
                    if taken {
                        self.taken.0.lock().insert(id, Instant::now());
                    }
                    return Ok(present.running);
                }
                Err(error) if error.kind == ErrorKind::Busy => busy = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy.map_or(Failure::Expired, Failure::Host))
    }

    /// Takes a guest that nobody has, unless its claim was changed since `present` was read. `running`: it ran, and has yet to be started here.
    pub async fn take_free(&self, directory: &str, id: GuestId, present: &Claim, running: bool) -> Result<(), Failure> {
        let claim = Claim { running, ..self.claim_after(present) };
        Ok(self.host.shared.set_claim(directory, id, &claim).await?)
    }

    /// Lets go of the guest, so that another host may claim it; nothing happens when it is not ours.
    pub async fn let_go(&self, directory: &str, id: GuestId, running: bool) -> Result<(), Failure> {
        let Some(present) = self.host.shared.claim(directory, id).await? else { return Ok(()) };
        if present.owner != self.settings.name {
            return Ok(());
        }
        let claim = Claim { generation: present.generation.saturating_add(1), tenure: present.tenure, running, ..Claim::default() };
        self.taken.0.lock().remove(&id);
        Ok(self.host.shared.set_claim(directory, id, &claim).await?)
    }

    /// Waits until a guest of ours may be started: its former owner had the time to end it. Fails when that would be after `deadline`.
    pub async fn may_start(&self, id: GuestId, deadline: Instant) -> Result<Option<Held>, Failure> {
        let Some(held) = self.hold(id).await? else { return Ok(None) };
        if !held.claim.from.is_empty() {
            let ready = *self.taken.0.lock().entry(id).or_insert_with(Instant::now) + GRACE;
            if ready > deadline {
                let (from, wait) = (&held.claim.from, ready.saturating_duration_since(Instant::now()).as_secs() + 1);
                return Err(Failure::refused(format!(
                    "guest {id} was just taken from {from}, which may still run it; try again in {wait} s"
                )));
            }
            sleep_until(ready).await;
        }
        Ok(Some(held))
    }

    /// A guest of ours was started: notes it in the claim. Fails when the claim was taken from us meanwhile; then the guest is ended again.
    pub async fn was_started(&self, id: GuestId, held: Option<Held>) -> Result<(), Failure> {
        let Some(Held { directory, claim }) = held else { return Ok(()) };
        self.taken.0.lock().remove(&id);
        let generation = claim.generation.saturating_add(1);
        let noted = Claim { owner: claim.owner, generation, tenure: claim.tenure, boot: self.host.shared.boot(), ..Claim::default() };
        let Err(error) = self.host.shared.set_claim(&directory, id, &noted).await else { return Ok(()) };
        // Only somebody else's claim ends it; a server that stopped answering does not.
        match self.host.shared.claim(&directory, id).await {
            Ok(Some(present)) if present.owner != self.settings.name => {
                self.host.hypervisor.destroy(id).await?;
                Err(Failure::refused(format!("guest {id} was taken by {} while it was being started; it is ended again", present.owner)))
            }
            _ => {
                tracing::warn!(guest = %id, "started, but its claim could not be renewed: {}", Failure::Host(error));
                Ok(())
            }
        }
    }

    /// The guest runs here although another host has its claim: that host's name. None when the claim can't be read.
    pub async fn lost_to(&self, id: GuestId) -> Option<String> {
        let directory = self.shared_directory(id)?;
        let claim = self.host.shared.claim(&directory, id).await.ok()??;
        (!claim.owner.is_empty() && claim.owner != self.settings.name).then_some(claim.owner)
    }
}
