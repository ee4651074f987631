//! Watches over shared pools and the guests in them.
//!
//! Contract: a pool that was lost is attached again as soon as its server answers. A guest that runs here although another host has claimed it is ended, so that
//! there is one copy of it (see `node::claims`). Moves whose end nobody could see yet are looked at again. libvirt starts no guest of a shared pool by itself. Each pool is looked after by itself: a
//! silent server holds up nothing else.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{interval, MissedTickBehavior};

use crate::host::NfsSource;
use crate::model::{GuestId, Pool, PowerState};

use super::{recovery, Failure, Node};

/// Between two looks at the claims of running guests.
const PACE: Duration = Duration::from_secs(2);

/// Every so many looks the mounts and marks are looked at, too.
const ROUND: u64 = 5;

/// Watches for ever.
pub async fn keep(node: Arc<Node>) -> Result<(), String> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut busy = HashSet::new();
    let mut lost = HashSet::new();
    let mut looks: JoinSet<(String, bool)> = JoinSet::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            biased;
            Some(ended) = looks.join_next() => {
                if let Ok((pool, attached)) = ended {
                    busy.remove(&pool);
                    complain(&mut lost, pool, attached);
                }
                continue;
            }
            _ = ticks.tick() => number = number.wrapping_add(1),
        }
        let pools = node.books.lock().shared_pools();
        for pool in pools.into_iter().filter(|pool| busy.insert(pool.name.clone())) {
            let (node, thorough) = (node.clone(), number % ROUND == 1 || lost.contains(&pool.name));
            looks.spawn(async move {
                let attached = look(&node, &pool, thorough).await;
                (pool.name, attached)
            });
        }
    }
}

/// Says once that a pool is lost, and once that it is back.
fn complain(lost: &mut HashSet<String>, pool: String, attached: bool) {
    if attached && lost.remove(&pool) {
        tracing::info!(%pool, "the shared storage pool is back");
    } else if !attached && !lost.contains(&pool) {
        tracing::error!(%pool, "the shared storage pool is lost, its guests can't be started until its server answers");
        lost.insert(pool);
    }
}

/// Looks after one pool; false when it can't be used.
pub(in crate::txn) async fn look(node: &Arc<Node>, pool: &Pool, thorough: bool) -> bool {
    if thorough && !attach(node, pool).await {
        return false;
    }
    end_lost(node, pool).await;
    recovery::decide_moves(node, pool).await;
    node.renew_copies().await;
    if thorough {
        unmark(node, pool).await;
    }
    true
}

async fn attach(node: &Node, pool: &Pool) -> bool {
    let storage = &node.host.storage;
    if storage.check_pool(&pool.name).await.is_ok() {
        return true;
    }
    let source = NfsSource { host: pool.source_host.clone(), path: pool.source_target.clone() };
    match storage.ensure_nfs_pool(&pool.name, &source, &pool.target).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!("{}", Failure::Host(error));
            false
        }
    }
}

/// Ends guests that run here although they are another host's.
async fn end_lost(node: &Arc<Node>, pool: &Pool) {
    for id in guests(node, pool, |guest| guest.power == PowerState::Running) {
        let Some(owner) = node.lost_to(id).await else { continue };
        tracing::error!(guest = %id, "the guest is {owner}'s now and may not run here any more; it is ended");
        match node.host.hypervisor.destroy(id).await {
            Ok(_) => {
                if node.set_power(id, PowerState::Stopped) && node.jobs.current(id).is_none() {
                    node.announce_power(id, PowerState::Stopped, 0);
                }
            }
            Err(error) => tracing::error!(guest = %id, "it can't be ended: {}", Failure::Host(error)),
        }
    }
}

/// libvirt must not start these guests with the host; the service does, when the Core has spoken.
async fn unmark(node: &Arc<Node>, pool: &Pool) {
    let ours: HashSet<GuestId> = guests(node, pool, |_| true).into_iter().collect();
    let Ok(domains) = node.host.hypervisor.domains().await else { return };
    for domain in domains.into_iter().filter(|domain| domain.autostart && ours.contains(&domain.id)) {
        if let Err(error) = node.host.hypervisor.set_autostart(domain.id, false).await {
            tracing::warn!(guest = %domain.id, "libvirt may start it with the host: {}", Failure::Host(error));
        }
    }
}

fn guests(node: &Node, pool: &Pool, wanted: impl Fn(&crate::model::Guest) -> bool) -> Vec<GuestId> {
    let books = node.books.lock();
    let within = books.guests.values().filter(|guest| guest.config.storage_pool == pool.name && wanted(guest));
    within.map(|guest| guest.config.id).collect()
}
