//! One guest on its way here.

use std::sync::Arc;

use tokio::time::{sleep, Instant};

use super::{Moved, RETRY};
use crate::host::{ErrorKind, SharedGuest};
use crate::model::{Guest, GuestConfig, GuestId, Pool, PowerState, Volume};
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::undo::{settle, Step, Undo};
use crate::txn::{Context, Failure};

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

/// Attempts to take the claim and to write the books of a guest that is ours already.
const ATTEMPTS: usize = 3;

/// A guest that libvirt knows here, and that is not in the books yet.
pub(super) struct Arrival {
    guest: SharedGuest,
    directory: String,
    /// That of its claim when it was looked at.
    generation: Option<u64>,
    job: JobGuard,
}

impl Arrival {
    /// Reads what the pool says about the guest and defines it with a monitor port of ours.
    pub(super) async fn prepare(
        context: &Arc<Context>,
        id: GuestId,
        pool: &Pool,
        deadline: Instant,
        undo: &mut Undo,
    ) -> Result<Self, Failure> {
        let node = &context.node;
        let job = node.jobs.acquire(id, Job::Attach, deadline).await?;
        settle(node, &[id]).await?;
        if let Ok(guest) = node.books.guest(id) {
            return Err(Failure::refused(format!("guest '{}' ({id}) is on this cell already", guest.config.name)));
        }
        let found = node.host.shared.load(&pool.target, id).await?;
        let guest = adapt(found, pool, &node.settings.bridge)?;
        let generation = node.host.shared.claim(&pool.target, id).await?.map(|claim| claim.generation);
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
        let resource = node.books.lock().reserve_moved(&guest.config)?;
        let config = GuestConfig { monitor_port: resource.monitor_port, ..guest.config };
        let planned = undo.plan(vec![Step::Reservation { guest: id }, Step::Domain { guest: id }]).await;
        planned.inspect_err(|_| node.books.lock().cancel(id))?;
        node.host.hypervisor.define(&config).await?;
        Ok(Self { guest: SharedGuest { config, ..guest }, directory: pool.target.clone(), generation, job })
    }

    /// What is left to be done once the guest is ours.
    pub(super) async fn rest(&self, context: &Context) -> Step {
        let SharedGuest { config, volumes } = &self.guest;
        let claim = context.node.host.shared.claim(&self.directory, config.id).await;
        Step::Arrive {
            config: Box::new(config.clone()),
            group: Box::new(volumes.clone()),
            directory: self.directory.clone(),
            // One that can't be read now is taken to be as it was.
            generation: claim.map_or(self.generation, |claim| claim.map(|claim| claim.generation)),
        }
    }

    /// The guest is ours, whatever happens: the Core says so. False when that could not be written down here and in its claim: that has to follow.
    pub(super) async fn enter(self, context: &Context) -> (Moved, bool) {
        let node = &context.node;
        let SharedGuest { config, volumes } = self.guest;
        let (id, monitor_port, auto_start) = (config.id, config.monitor_port, config.auto_start);
        let (mut ran, mut claimed) = (false, false);
        for attempt in 1..=ATTEMPTS {
            match node.take_claim(&self.directory, id).await {
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
        node.books.lock().insert(Guest { power: PowerState::Stopped, ..Guest::new(config) }, volumes);
        let saved = node.save(FILES).await;
        if let Err(failure) = &saved {
            // It is tried again with the next change of any guest, and the journal knows of it.
            tracing::error!(guest = %id, "it is ours now, but can't be written down: {failure}");
        }
        tracing::info!(guest = %id, "it is on this cell now");
        drop(self.job);
        (Moved { id, monitor_port, starts: auto_start || ran }, claimed && saved.is_ok())
    }
}

/// The guest as it is here: the paths of its files below our mount of the export (§14 D20), our bridge.
fn adapt(guest: SharedGuest, pool: &Pool, bridge: &str) -> Result<SharedGuest, Failure> {
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
