//! What the host tells without being asked: guests that start, stop, vanish or come back; a hypervisor that goes and returns.
//!
//! Contract: a guest that changes behind our back is told to the Core as soon as libvirt tells us. While a transaction
//! works on a guest, the transaction tells the Core, so that an answer comes before its events. After every reconnect
//! all guests are compared, so nothing that happened meanwhile is missed, and what could not be cleaned up without libvirt is; whatever
//! works on that belongs to the [`Monitor`].

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::host::{DomainStatus, ErrorKind, HostEvent};
use crate::model::{GuestId, PowerState};

use super::node::jobs::Job;
use super::recovery::Rounds;
use super::{media, Failure, Node};

/// How long what is being cleaned up has to come to the end of a step when the service ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes the host's events in.
pub struct Monitor {
    node: Arc<Node>,
    rounds: Rounds,
}

impl Monitor {
    /// The one of this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { rounds: Rounds::new(node.clone()), node }
    }

    /// Follows the hypervisor's events until their sender is gone, or the service ends.
    pub async fn follow(mut self, mut events: mpsc::Receiver<HostEvent>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Some(event) => self.take(event).await,
                    None => break,
                },
                () = self.rounds.reap() => {}
            }
        }
        self.rounds.end(PATIENCE).await;
    }

    /// Takes one event in.
    pub async fn take(&mut self, event: HostEvent) {
        let node = &self.node;
        match event {
            HostEvent::Connected(domains) => {
                tracing::info!(domains = domains.len(), "connected to libvirt");
                resync(node, &domains);
                node.held.wake();
                self.rounds.begin();
                media::compare(node).await;
            }
            HostEvent::Disconnected(reason) => tracing::warn!("lost libvirt, connecting again: {reason}"),
            HostEvent::Power { id, power } => settle(node, id, power).await,
            HostEvent::Held(id) => {
                settle(node, id, PowerState::Running).await;
                node.held.wake();
            }
            HostEvent::Undefined(id) => {
                if node.jobs.current(id).is_none() && moved(node, id, PowerState::Lost) {
                    tracing::error!(guest = %id, "the guest's libvirt domain was undefined by somebody else; it is marked lost");
                }
            }
            HostEvent::Defined(id) => returned(node, id).await,
        }
    }

    /// Waits until everything is cleaned up that can be.
    #[cfg(test)]
    pub(super) async fn rest(&mut self) {
        while self.rounds.is_busy() {
            self.rounds.reap().await;
        }
    }
}

/// A guest started or stopped. An event is as old as its way here, and a transaction may have gone further since: the state is asked for,
/// and the event's word counts only when that fails.
async fn settle(node: &Arc<Node>, id: GuestId, told: PowerState) {
    if node.books.guest(id).is_err() {
        return;
    }
    let power = node.host.hypervisor.domain(id).await.map_or(told, |status| status.power);
    if moved(node, id, power) && power == PowerState::Running {
        node.usage.started(id);
    }
    if node.media_left.swap(false, Ordering::Relaxed) {
        media::tidy(node).await;
    }
}

/// Compares the hypervisor's list with the books.
pub fn resync(node: &Arc<Node>, domains: &[DomainStatus]) {
    let present: HashMap<GuestId, PowerState> = domains.iter().map(|domain| (domain.id, domain.power)).collect();
    let guests: Vec<(GuestId, String)> = {
        let books = node.books.lock();
        books.guests.iter().map(|(id, guest)| (*id, guest.config.name.clone())).collect()
    };
    for (id, name) in guests {
        let power = present.get(&id).copied().unwrap_or(PowerState::Lost);
        if power == PowerState::Lost && node.jobs.current(id).is_none() {
            tracing::error!(guest = %id, %name, "libvirt has no domain of this guest; it is marked lost and can only be deleted");
        }
        moved(node, id, power);
    }
}

/// Enters a new power state and tells the Core, unless a transaction on the guest will.
fn moved(node: &Arc<Node>, id: GuestId, power: PowerState) -> bool {
    let before = node.books.guest(id).map(|guest| guest.power);
    let changed = node.set_power(id, power);
    // From lost to stopped nothing changed for the Core, which has no such state.
    let news =
        changed && !matches!((before, power), (Ok(PowerState::Lost), PowerState::Stopped) | (Ok(PowerState::Stopped), PowerState::Lost));
    if news && node.jobs.current(id).is_none_or(Job::leaves_power_alone) {
        tracing::info!(guest = %id, "guest is {} now", if power == PowerState::Running { "running" } else { "stopped" });
        node.announce_power(id, power, 0);
    }
    changed
}

/// A domain was defined: a lost guest may be back.
async fn returned(node: &Arc<Node>, id: GuestId) {
    if !node.books.guest(id).is_ok_and(|guest| guest.power == PowerState::Lost) {
        return;
    }
    match node.host.hypervisor.domain(id).await {
        Ok(status) => {
            tracing::info!(guest = %id, "the guest's libvirt domain is back");
            moved(node, id, status.power);
        }
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(guest = %id, "can't read the guest's domain: {}", Failure::Host(error)),
    }
}
