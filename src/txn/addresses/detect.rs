//! Looks for the addresses of running guests (contract §6.9): every 30 s while unknown, every 2 min once known.
//!
//! The guest's agent is asked where there is one; otherwise, and when it does not answer, the bridge's neighbours tell which address
//! the guest's MAC answers for. A guest that says nothing by itself is asked for by the address that it was assigned. The DHCP service tells at once
//! what it acknowledged, so most guests are known before they are looked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{interval, Instant, MissedTickBehavior};

use super::sources::{choose, from_agent, from_neighbours, LIST_INTERFACES};
use super::{assigned, observed};
use crate::host::{ErrorKind, Neighbour};
use crate::model::address::{parse_mac, Mac};
use crate::model::{Guest, GuestId, PowerState};
use crate::txn::Node;

/// Between two looks at a guest without an address.
const UNKNOWN: Duration = Duration::from_secs(30);
/// Between two looks at a guest with one.
const KNOWN: Duration = Duration::from_secs(120);
/// Between two looks at who is due.
const TICK: Duration = Duration::from_secs(5);
/// What an agent gets to answer.
const AGENT_PATIENCE: Duration = Duration::from_secs(3);
/// Agents asked at a time: slow ones hold up the looking, not the node.
const AGENTS: usize = 4;

/// Looks for ever.
pub async fn run(node: Arc<Node>) {
    let mut detector = Detector::new(node);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        detector.look(Instant::now()).await;
    }
}

struct Candidate {
    id: GuestId,
    mac: Mac,
    guest: Guest,
}

/// When each running guest was looked at.
pub(super) struct Detector {
    node: Arc<Node>,
    looked: HashMap<GuestId, Instant>,
}

impl Detector {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, looked: HashMap::new() }
    }

    /// Looks at every guest that is due.
    pub(super) async fn look(&mut self, now: Instant) {
        let due = self.due(now);
        if due.is_empty() {
            return;
        }
        let neighbours = self.node.host.network.neighbours().unwrap_or_else(|error| {
            tracing::debug!("the bridge's neighbours can't be read: {error}");
            Vec::new()
        });
        let (node, neighbours) = (&self.node, &neighbours);
        let mut waiting = due.into_iter().map(|candidate| look_at(node, candidate, neighbours));
        let mut asked: FuturesUnordered<_> = waiting.by_ref().take(AGENTS).collect();
        while asked.next().await.is_some() {
            asked.extend(waiting.next());
        }
    }

    /// The running guests whose time has come; those that stopped are forgotten, so that they are looked at soon after their next start.
    fn due(&mut self, now: Instant) -> Vec<Candidate> {
        let running: Vec<Candidate> = {
            let books = self.node.books.lock();
            let running = books.guests.iter().filter(|(_, guest)| guest.power == PowerState::Running);
            running
                .filter_map(|(id, guest)| {
                    Some(Candidate { id: *id, mac: parse_mac(&guest.config.hardware_address)?, guest: guest.clone() })
                })
                .collect()
        };
        self.looked.retain(|id, _| running.iter().any(|candidate| candidate.id == *id));
        let mut due = Vec::new();
        for candidate in running {
            let pause = if candidate.guest.address.is_some() { KNOWN } else { UNKNOWN };
            if self.looked.get(&candidate.id).is_none_or(|looked| now.duration_since(*looked) >= pause) {
                self.looked.insert(candidate.id, now);
                due.push(candidate);
            }
        }
        due
    }
}

async fn look_at(node: &Node, candidate: Candidate, neighbours: &[Neighbour]) {
    let Candidate { id, mac, guest } = candidate;
    let mut found = if guest.config.qemu_available { ask_agent(node, id, mac).await } else { Vec::new() };
    if found.is_empty() {
        found = from_neighbours(neighbours, mac);
    }
    let assigned = assigned(&guest);
    match choose(&found, assigned, guest.address) {
        Some(address) => observed(node, id, address),
        None => {
            if let Some(Err(error)) = assigned.map(|address| node.host.network.solicit(address)) {
                tracing::debug!(guest = %id, "{error}");
            }
        }
    }
}

async fn ask_agent(node: &Node, id: GuestId, mac: Mac) -> Vec<std::net::Ipv4Addr> {
    match node.host.hypervisor.agent(id, LIST_INTERFACES, AGENT_PATIENCE).await {
        Ok(answer) => from_agent(&answer, mac),
        Err(error) => {
            // Guests without a running agent are common and no trouble.
            if !matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Busy | ErrorKind::NotFound) {
                tracing::debug!(guest = %id, "{error}");
            }
            Vec::new()
        }
    }
}
