//! One guest on its way here.

use std::sync::Arc;

use tokio::time::{sleep, Instant};

use super::RETRY;
use crate::host::{ErrorKind, SharedGuest};
use crate::model::{Guest, GuestConfig, GuestId, Origin, Pool, PowerState, Volume};
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::undo::{settle, Arriving, Step, Undo};
use crate::txn::{Context, Failure};

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

/// Attempts to take the claim and to write the books of a guest that is ours already.
const ATTEMPTS: usize = 3;

/// A guest that libvirt knows here, and that is not in the books yet.
pub(super) struct Arrival {
    guest: Arriving,
    job: JobGuard,
}

impl Arrival {
    /// Reads what the pool says about the guest and defines it with a monitor port of ours. `source`: the host that it comes from, where the Core names it.
    pub(super) async fn prepare(
        context: &Arc<Context>,
        id: GuestId,
        pool: &Pool,
        source: Option<&str>,
        deadline: Instant,
        undo: &mut Undo,
    ) -> Result<Self, Failure> {
        let node = &context.node;
        let job = node.jobs.acquire(id, Job::Attach, deadline).await?;
        settle(node, &[id]).await?;
        if let Ok(guest) = node.books.guest(id) {
            return Err(Failure::refused(format!("guest '{}' ({id}) is on this cell already", guest.config.name)));
        }
        // Whatever happens from here on is seen in the claim.
        let claim = node.host.shared.claim(&pool.target, id).await?.unwrap_or_default();
        let found = node.host.shared.load(&pool.target, id).await?;
        let port = found.config.monitor_port;
        let SharedGuest { config, volumes } = adapt(found, pool, &node.settings.bridge)?;
        match node.host.hypervisor.domain(id).await {
            Ok(domain) if domain.power == PowerState::Running => {
                return Err(Failure::refused(format!(
                    "guest {id} can't come here: its domain runs on this host, which data/ does not know"
                )));
            }
            // One that nobody knows is replaced.
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let resource = node.books.lock().reserve_moved(&config)?;
        let guest = Arriving {
            config: GuestConfig { monitor_port: resource.monitor_port, ..config },
            group: volumes,
            directory: pool.target.clone(),
            port,
            tenure: claim.tenure,
            answered: false,
            origin: Origin { source: source.map_or_else(|| claim.owner.clone(), str::to_owned), ..Origin::default() },
            owner: claim.owner,
        };
        let planned = undo.plan(vec![Step::Reservation { guest: id }, Step::Arrive(Box::new(guest.clone()))]).await;
        planned.inspect_err(|_| node.books.lock().cancel(id))?;
        node.host.hypervisor.define(&guest.config).await?;
        Ok(Self { guest, job })
    }

    /// The Core has ordered it in this migration.
    pub(super) fn ordered(&mut self, migration: &str) {
        migration.clone_into(&mut self.guest.origin.migration);
    }

    /// What is left to be done once the guest is ours.
    pub(super) fn step(&self) -> Step {
        Step::Arrive(Box::new(self.guest.clone()))
    }

    /// Its former host has let go of it. False when that can't be seen.
    pub(super) async fn is_let_go(&self, context: &Context) -> bool {
        let Arriving { config, directory, tenure, .. } = &self.guest;
        let watched = self.guest.was_claimed_by_another(&context.node.settings.name);
        match context.node.host.shared.claim(directory, config.id).await {
            Ok(Some(claim)) => watched && claim.owner.is_empty() && claim.tenure == *tenure,
            _ => false,
        }
    }

    /// The guest is ours, whatever happens: the Core says so. False when that could not be written down here and in its claim: that has to follow.
    pub(super) async fn enter(self, context: &Context) -> (GuestId, bool) {
        let node = &context.node;
        let Arriving { config, group, directory, origin, .. } = self.guest;
        let id = config.id;
        let (mut ran, mut claimed) = (false, false);
        for attempt in 1..=ATTEMPTS {
            match node.take_claim(&directory, id).await {
                Ok(running) => {
                    (ran, claimed) = (running, true);
                    break;
                }
                Err(failure) if attempt == ATTEMPTS => {
                    tracing::error!(guest = %id, "it is ours now, but its claim can't be changed, and it can't be started before: {failure}");
                }
                Err(_) => sleep(RETRY).await,
            }
        }
        {
            let mut books = node.books.lock();
            books.insert(Guest { power: PowerState::Stopped, ..Guest::new(config) }, group);
            books.arrivals.insert(id, Origin { ran, ..origin });
        }
        node.awaited.forget(id);
        let saved = node.save(FILES).await;
        if let Err(failure) = &saved {
            // It is tried again with the next change of any guest, and the journal knows of it.
            tracing::error!(guest = %id, "it is ours now, but can't be written down: {failure}");
        }
        tracing::info!(guest = %id, "it is on this cell now");
        drop(self.job);
        (id, claimed && saved.is_ok())
    }
}

/// The guest as it is here: the paths of its files below our mount of the export (§14 D20), our bridge.
pub(in crate::txn) fn adapt(guest: SharedGuest, pool: &Pool, bridge: &str) -> Result<SharedGuest, Failure> {
    let SharedGuest { mut config, mut volumes } = guest;
    let name = config.name.clone();
    let refuse = |why: String| Err(Failure::refused(format!("guest '{name}' can't come here: {why}")));
    if config.unfinished {
        return refuse("its system disk is not complete".into());
    }
    let listed: Vec<&str> = volumes.volumes().map(|volume| volume.name.as_str()).collect();
    if listed != config.storage_volumes.iter().map(String::as_str).collect::<Vec<_>>() {
        return refuse("its two descriptions name different volumes".into());
    }
    if let Some(missing) = listed.iter().find(|volume| !pool.volumes.contains_key(**volume)) {
        return refuse(format!("its volume {missing} is not in storage pool '{}'", pool.name));
    }
    let moved = volumes.volumes().any(|volume| !volume.path.is_empty() && volume.path != path_of(pool, &volume.name));
    if moved && !volumes.snapshots.is_empty() {
        return refuse(format!("it has snapshots, whose files name each other below another directory than {}", pool.target));
    }
    let place = |volume: &mut Volume| {
        volume.path = path_of(pool, &volume.name);
        volume.key.clone_from(&volume.path);
        volume.pool.clone_from(&pool.name);
    };
    place(&mut volumes.system);
    volumes.data.iter_mut().for_each(place);
    for image in [&mut volumes.boot_image, &mut config.boot_image] {
        if let Some((_, file)) = image.rsplit_once('/') {
            *image = path_of(pool, file);
        }
    }
    config.storage_pool.clone_from(&pool.name);
    bridge.clone_into(&mut config.network_source);
    Ok(SharedGuest { config, volumes })
}

fn path_of(pool: &Pool, file: &str) -> String {
    format!("{}/{file}", pool.target.trim_end_matches('/'))
}
