//! A file server that simulated hosts share, with what their guests leave on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::super::{Change, ErrorKind, HostError, NfsSource, Result, Shared, SharedGuest};
use super::faults::Operation;
use super::world::World;
use super::SimHost;
use crate::model::{Claim, GuestId};

/// One export of a file server. Clones are the same export.
#[derive(Clone, Default)]
pub struct SimShare(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    state: ShareState,
    dead: bool,
    /// Which hosts run a guest of the export, and the most that ever ran one at the same time.
    running: BTreeMap<GuestId, BTreeSet<u64>>,
    most: usize,
}

/// The files of an export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShareState {
    /// Volume name -> virtual size in bytes.
    pub volumes: BTreeMap<String, u64>,
    /// What is written about guests.
    pub guests: BTreeMap<GuestId, SharedGuest>,
    /// Who may run them.
    pub claims: BTreeMap<GuestId, Claim>,
}

impl SimShare {
    /// An empty export.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its files now.
    pub fn state(&self) -> ShareState {
        self.0.lock().state.clone()
    }

    /// Changes its files behind everybody's back.
    pub fn change(&self, change: impl FnOnce(&mut ShareState)) {
        change(&mut self.0.lock().state);
    }

    /// The server does not answer any more, or does again.
    pub fn set_dead(&self, dead: bool) {
        self.0.lock().dead = dead;
    }

    /// The most copies of one guest that ever ran at the same time.
    pub fn most_copies(&self) -> usize {
        self.0.lock().most
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    pub(super) fn note_power(&self, guest: GuestId, host: u64, runs: bool) {
        let mut inner = self.0.lock();
        let hosts = inner.running.entry(guest).or_default();
        if runs {
            hosts.insert(host);
        } else {
            hosts.remove(&host);
        }
        let copies = hosts.len();
        inner.most = inner.most.max(copies);
    }
}

/// A number for each simulated host.
pub(super) fn next_host() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl SimHost {
    /// From now on the host can mount this export.
    pub fn put_export(&self, source: &NfsSource, share: &SimShare) {
        self.inner.world.lock().exports.push((source.clone(), share.clone()));
    }

    /// The host has lost its power: its guests are gone, and what QEMU wrote into headers of images last; it has another boot id when it comes back, and
    /// libvirt starts the guests that it is to start with the host.
    pub fn lose_power(&self, boot: &str) {
        let mut world = self.inner.world.lock();
        world.boot = boot.into();
        let guests: Vec<GuestId> = world.state.domains.keys().copied().collect();
        for id in guests {
            world.forget_held_back(id);
            world.set_power(id, crate::model::PowerState::Stopped);
        }
        world.lose_memory();
        world.start_marked();
    }

    /// Waits for a server that does not answer, as a mount does.
    pub(super) async fn wait_for_server(&self, share: Option<SimShare>) -> Result<()> {
        if share.is_some_and(|share| share.is_dead()) {
            let deadline = self.inner.plan.lock().deadline;
            sleep(deadline).await;
            return Err(HostError::new(ErrorKind::Unknown, "the file server has not answered in time"));
        }
        Ok(())
    }

    /// The same for the server of this directory, if it has one.
    pub(super) async fn wait_for_directory(&self, directory: &str) -> Result<()> {
        let share = self.inner.world.lock().mounted_at(directory);
        self.wait_for_server(share).await
    }

    async fn on_share<T>(
        &self,
        operation: Operation,
        directory: &str,
        act: impl FnOnce(&mut World, &SimShare) -> Result<T> + Send,
    ) -> Result<T> {
        let share = self.inner.world.lock().mounted_at(directory);
        let missing = || HostError::new(ErrorKind::Unavailable, format!("no file server is mounted at {directory}"));
        self.wait_for_server(share.clone()).await?;
        self.run(operation, None, move |world| act(world, &share.ok_or_else(missing)?)).await
    }
}

#[async_trait]
impl Shared for SimHost {
    async fn load(&self, directory: &str, id: GuestId) -> Result<SharedGuest> {
        let missing = || HostError::new(ErrorKind::NotFound, format!("{directory} says nothing about guest {id}"));
        let load = |_: &mut World, share: &SimShare| share.state().guests.get(&id).cloned().ok_or_else(missing);
        self.on_share(Operation::LoadShared, directory, load).await
    }

    async fn save(&self, directory: &str, guest: &SharedGuest) -> Result<()> {
        let save = |_: &mut World, share: &SimShare| {
            share.change(|state| drop(state.guests.insert(guest.config.id, guest.clone())));
            Ok(())
        };
        self.on_share(Operation::SaveShared, directory, save).await
    }

    async fn erase(&self, directory: &str, id: GuestId) -> Result<Change> {
        let erase = |_: &mut World, share: &SimShare| {
            let mut change = Change::Unchanged;
            share.change(|state| {
                if state.guests.remove(&id).is_some() | state.claims.remove(&id).is_some() {
                    change = Change::Changed;
                }
            });
            Ok(change)
        };
        self.on_share(Operation::EraseShared, directory, erase).await
    }

    async fn claim(&self, directory: &str, id: GuestId) -> Result<Option<Claim>> {
        self.on_share(Operation::Claim, directory, |_, share| Ok(share.state().claims.get(&id).cloned())).await
    }

    async fn set_claim(&self, directory: &str, id: GuestId, claim: &Claim) -> Result<()> {
        let set = |_: &mut World, share: &SimShare| {
            let present = share.state().claims.get(&id).map_or(0, |claim| claim.generation);
            if claim.generation != present + 1 {
                return Err(HostError::new(ErrorKind::Busy, format!("another cell has changed the claim of guest {id}")));
            }
            share.change(|state| drop(state.claims.insert(id, claim.clone())));
            Ok(())
        };
        self.on_share(Operation::SetClaim, directory, set).await
    }

    fn boot(&self) -> String {
        self.inner.world.lock().boot.clone()
    }
}
