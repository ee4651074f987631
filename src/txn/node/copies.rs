//! What shared pools say about our guests: `<id>.meta` and `<id>.vols`, for the host that may take a guest over (contract §8.3).
//!
//! Contract: `data/` is the truth and these are copies of it, written after each change of a guest or of its volumes, whoever made it (contract §14 D4), and
//! removed with the guest. A copy that can't be written now is written later by the guard; nobody waits for a silent server longer than
//! [`PATIENCE`]. A guest that belongs to another host is left alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::Node;
use crate::host::SharedGuest;
use crate::model::{GuestConfig, GuestId, VolumeGroup};
use crate::txn::Failure;

/// How long a transaction waits for the copies.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known to be written.
#[derive(Default)]
pub(super) struct Copies {
    written: Mutex<HashMap<GuestId, Copy>>,
    turn: tokio::sync::Mutex<()>,
    /// The reason why a copy is behind; empty while all are as they should be.
    complaint: Mutex<String>,
}

#[derive(Clone)]
struct Copy {
    directory: String,
    config: Arc<GuestConfig>,
    volumes: VolumeGroup,
}

impl Node {
    /// Brings the copies up to date.
    pub(super) async fn copy_shared(&self) {
        if self.outdated().is_empty() && self.orphaned().is_empty() {
            return;
        }
        // Whoever gives up here leaves the rest to the guard.
        let _ = timeout(PATIENCE, self.renew_copies()).await;
    }

    /// `Node::copy_shared` without haste, for the guard.
    pub async fn renew_copies(&self) {
        let _turn = self.copies.turn.lock().await;
        let mut complaint = String::new();
        for (id, copy) in self.outdated() {
            if let Err(failure) = self.write_copy(id, copy).await {
                complaint = format!("guest {id} can't be written down for the other hosts of its pool: {failure}");
            }
        }
        for (id, copy) in self.orphaned() {
            if let Err(failure) = self.erase_leftover_copy(&copy.directory, id).await {
                complaint = format!("what its pool says about guest {id}, which was deleted, stays: {failure}");
            }
        }
        let before = std::mem::replace(&mut *self.copies.complaint.lock(), complaint.clone());
        if !complaint.is_empty() && complaint != before {
            tracing::error!("{complaint}");
        }
    }

    async fn write_copy(&self, id: GuestId, copy: Copy) -> Result<(), Failure> {
        self.hold(id).await?;
        let guest = SharedGuest { config: (*copy.config).clone(), volumes: copy.volumes.clone() };
        self.host.shared.save(&copy.directory, &guest).await?;
        self.copies.written.lock().insert(id, copy);
        Ok(())
    }

    /// Removes what a shared pool says about a guest that is not in the books, unless it is another host's.
    pub(in crate::txn) async fn erase_leftover_copy(&self, directory: &str, id: GuestId) -> Result<(), Failure> {
        let claim = self.host.shared.claim(directory, id).await?;
        if claim.is_none_or(|claim| claim.owner == self.settings.name) {
            self.host.shared.erase(directory, id).await?;
        }
        self.copies.written.lock().remove(&id);
        Ok(())
    }

    /// The guest leaves this host and its files stay.
    pub fn leave_copy(&self, id: GuestId) {
        self.copies.written.lock().remove(&id);
    }

    /// Guests whose copies are not as the books are.
    fn outdated(&self) -> Vec<(GuestId, Copy)> {
        let books = self.books.lock();
        let written = self.copies.written.lock();
        let mut outdated = Vec::new();
        for (id, guest) in &books.guests {
            let Some(pool) = books.shared_pool(&guest.config) else { continue };
            let volumes = books.storage.groups.get(id);
            let same = |copy: &Copy| {
                copy.directory == pool.target && copy.config == guest.config && volumes.is_some_and(|volumes| *volumes == copy.volumes)
            };
            if !written.get(id).is_some_and(same) {
                let volumes = volumes.cloned().unwrap_or_default();
                outdated.push((*id, Copy { directory: pool.target.clone(), config: guest.config.clone(), volumes }));
            }
        }
        outdated
    }

    /// Copies of guests that were deleted.
    fn orphaned(&self) -> Vec<(GuestId, Copy)> {
        let books = self.books.lock();
        let written = self.copies.written.lock();
        written.iter().filter(|(id, _)| !books.guests.contains_key(id)).map(|(id, copy)| (*id, copy.clone())).collect()
    }
}
