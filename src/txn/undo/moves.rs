//! Guests on their way between two hosts, when one of the hosts, or both, do not know how their part of the move ended: after a crash, or without the Core's
//! order.
//!
//! Contract: the claim on the shared storage is the arbiter, and it is changed by comparison with what was read, so that one host at most wins. Who
//! holds the claim has the guest. A claim that the former host has let go of is for whoever takes it first: the new host, which goes on with the move, or the
//! former one, which takes it back. A claim of somebody else, of another tenure, or none where there was one, means that the guest went elsewhere
//! or is deleted: then it is neither's. A guest whose host keeps no claims (the reference) comes on the Core's order only.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::{there, ALL};
use crate::host::{ErrorKind, SharedGuest};
use crate::model::{Claim, Guest, GuestConfig, GuestId, Origin, PowerState, Resource, VolumeGroup};
use crate::txn::handlers::{attach_instance, remains};
use crate::txn::{Failure, Node};

/// A guest that comes here.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::txn) struct Arriving {
    /// As it is here.
    pub(in crate::txn) config: GuestConfig,
    /// Its volumes here.
    pub(in crate::txn) group: VolumeGroup,
    /// Directory of its pool.
    pub(in crate::txn) directory: String,
    /// Monitor port in the pool's description: whoever takes the guest writes its own there.
    pub(in crate::txn) port: u16,
    /// Owner of its claim when the Core asked for it, and that one's tenure.
    pub(in crate::txn) owner: String,
    /// See [`Claim::tenure`].
    pub(in crate::txn) tenure: u64,
    /// The Core was told that the guest can come: its host may let go of it at any moment.
    pub(in crate::txn) answered: bool,
    /// What the Core is to be told.
    pub(in crate::txn) origin: Origin,
}

impl Arriving {
    /// Its former host keeps claims: that it lets go of the guest will be seen.
    pub(in crate::txn) fn was_claimed_by_another(&self, name: &str) -> bool {
        self.tenure != 0 && !self.owner.is_empty() && self.owner != name
    }
}

/// A guest that leaves.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::txn) struct Leaving {
    /// As it was here.
    pub(in crate::txn) config: GuestConfig,
    /// Its volumes.
    pub(in crate::txn) group: VolumeGroup,
    /// Its assignments.
    pub(in crate::txn) resource: Option<Resource>,
    /// Directory of its pool.
    pub(in crate::txn) directory: String,
    /// Our tenure of its claim.
    pub(in crate::txn) tenure: u64,
    /// It ran.
    pub(in crate::txn) ran: bool,
    /// Boot of this host in which it did.
    pub(in crate::txn) boot: String,
}

/// The Core has ordered that the guest is here: it is, unless somebody else was given it since.
pub(super) async fn arrive(node: &Arc<Node>, guest: &Arriving) -> Result<(), Failure> {
    let present = claim(node, &guest.directory, guest.config.id).await?;
    if present.owner == node.settings.name {
        return enter(node, guest, None, present.running).await;
    }
    if present.tenure != guest.tenure {
        return stay_away(node, guest, &present).await;
    }
    let ran = node.take_claim(&guest.directory, guest.config.id).await?;
    enter(node, guest, None, ran).await
}

/// The Core has not ordered it, so far as is known: the guest comes when its host has let go of it for us, and does not when that one has kept it. One that may
/// still be let go of is waited for: an error then, to try again.
pub(super) async fn decide(node: &Arc<Node>, guest: &Arriving) -> Result<(), Failure> {
    let (id, name) = (guest.config.id, &node.settings.name);
    let present = claim(node, &guest.directory, id).await?;
    let unchanged = present.tenure == guest.tenure;
    if present.owner == *name && !unchanged {
        // We were at it when we died.
        return enter(node, guest, None, present.running).await;
    }
    let claimed = guest.was_claimed_by_another(name);
    if claimed && unchanged && present.owner.is_empty() {
        if let Some(found) = described(node, guest).await? {
            node.take_free(&guest.directory, id, &present, present.running).await?;
            return enter(node, guest, Some(found), present.running).await;
        }
    } else if claimed && unchanged && guest.answered && node.awaited.is(id) {
        return Err(Failure::Undecided(format!("{} has guest {id} still, and may be about to let go of it", guest.owner)));
    }
    stay_away(node, guest, &present).await
}

/// A guest that was to leave stays, unless it is another host's by now.
pub(super) async fn stay(node: &Arc<Node>, guest: &Leaving) -> Result<(), Failure> {
    let id = guest.config.id;
    let present = claim(node, &guest.directory, id).await?;
    if present.owner != node.settings.name {
        let let_go = present.owner.is_empty() && present.tenure == guest.tenure;
        if !let_go || there(node.host.shared.load(&guest.directory, id).await)?.is_none() {
            tracing::warn!(guest = %id, "it has left: {}", whose(&present));
            remains::purge(node, id, None, false).await?;
            return node.save(ALL).await;
        }
        node.take_free(&guest.directory, id, &present, false).await?;
    }
    put_back(node, guest).await
}

async fn put_back(node: &Arc<Node>, guest: &Leaving) -> Result<(), Failure> {
    let config = &guest.config;
    let restored = Guest { power: PowerState::Stopped, ..Guest::new(config.clone()) };
    node.books.lock().restore_guest(restored, &guest.group, guest.resource.clone());
    let runs = async {
        defined(node, config).await?;
        // What ended with the host itself stays ended.
        if guest.ran && guest.boot == node.host.shared.boot() {
            node.host.hypervisor.start(config.id).await?;
            node.set_power(config.id, PowerState::Running);
            node.usage.started(config.id);
        }
        Ok::<_, Failure>(())
    };
    let runs = runs.await;
    node.save(ALL).await?;
    runs
}

/// The guest's claim is ours: it comes into libvirt and into the books. `found`: as the pool describes it now, where that was looked at.
async fn enter(node: &Arc<Node>, guest: &Arriving, found: Option<SharedGuest>, ran: bool) -> Result<(), Failure> {
    let id = guest.config.id;
    if let Ok(known) = node.books.guest(id) {
        defined(node, &known.config).await?;
        return node.save(ALL).await;
    }
    let SharedGuest { config, volumes } =
        found.unwrap_or_else(|| SharedGuest { config: guest.config.clone(), volumes: guest.group.clone() });
    let monitor_port = node.books.lock().port_for(id, guest.config.monitor_port)?;
    let config = GuestConfig { monitor_port, ..config };
    if config == guest.config {
        defined(node, &config).await?;
    } else {
        node.host.hypervisor.define(&config).await?;
    }
    let resource = Resource {
        monitor_port,
        hardware_address: config.hardware_address.clone(),
        internal_address: config.internal_address.clone(),
        external_address: config.external_address.clone(),
    };
    {
        let mut books = node.books.lock();
        books.restore_guest(Guest { power: PowerState::Stopped, ..Guest::new(config) }, &volumes, Some(resource));
        books.arrivals.insert(id, Origin { ran, ..guest.origin.clone() });
    }
    node.awaited.forget(id);
    node.save(ALL).await?;
    tracing::info!(guest = %id, "it is on this cell now: its move from {} is completed", guest.origin.source);
    Ok(())
}

/// The guest does not come.
async fn stay_away(node: &Arc<Node>, guest: &Arriving, present: &Claim) -> Result<(), Failure> {
    let id = guest.config.id;
    if guest.answered {
        tracing::warn!(guest = %id, "it does not come here: {}", whose(present));
    }
    node.host.hypervisor.undefine(id).await?;
    node.awaited.forget(id);
    if node.books.guest(id).is_ok() {
        remains::forget(node, id);
        node.save(ALL).await?;
    }
    Ok(())
}

fn whose(present: &Claim) -> String {
    match present.owner.as_str() {
        "" => "nobody has it, or it is deleted".to_owned(),
        owner => format!("{owner} has it"),
    }
}

/// The guest as its pool describes it now, with our monitor port; none when that is gone, or no more what its former host wrote.
async fn described(node: &Arc<Node>, guest: &Arriving) -> Result<Option<SharedGuest>, Failure> {
    let found = match node.host.shared.load(&guest.directory, guest.config.id).await {
        Ok(found) if found.config.monitor_port == guest.port => found,
        Ok(_) => return Ok(None),
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let pool = &guest.config.storage_pool;
    node.host.storage.refresh_pool(pool).await?;
    let pool = node.host.storage.pool(pool).await?;
    match attach_instance::adapt(found, &pool, &node.settings.bridge) {
        Ok(SharedGuest { config, volumes }) => {
            let config = GuestConfig { monitor_port: guest.config.monitor_port, ..config };
            Ok(Some(SharedGuest { config, volumes }))
        }
        Err(failure) => {
            tracing::warn!("{failure}");
            Ok(None)
        }
    }
}

async fn claim(node: &Node, directory: &str, id: GuestId) -> Result<Claim, Failure> {
    Ok(node.host.shared.claim(directory, id).await?.unwrap_or_default())
}

/// Defines the domain unless it is there.
async fn defined(node: &Node, config: &GuestConfig) -> Result<(), Failure> {
    if there(node.host.hypervisor.domain(config.id).await)?.is_none() {
        node.host.hypervisor.define(config).await?;
        node.set_power(config.id, PowerState::Stopped);
    }
    Ok(())
}
