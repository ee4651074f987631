//! libvirt's mark that it starts a guest with the host: a guest does not have it while its disks are half-way.
//!
//! Contract: after a power cut libvirt starts guests before this service can take back, or complete, what broke off. A guest that was started on
//! images which then get other names, or another content, would write on into what nobody finds again. So the mark goes before the first image is
//! touched and comes back after the last, and where the host has come up in between, the service starts the guest itself, as libvirt would have.

use std::sync::Arc;

use super::act::{runs, there};
use super::step::Step;
use crate::model::{GuestId, PowerState};
use crate::txn::volumes::live;
use crate::txn::{Failure, Node};

impl Step {
    /// The guest has no mark from here on.
    pub(in crate::txn) fn autostart(node: &Node, guest: GuestId) -> Self {
        Self::Autostart { guest, boot: node.host.shared.boot() }
    }
}

/// The guest gets its mark again, and is started if it would run by now. `boot`: of the host, when the mark was taken away.
pub(super) async fn give_back(node: &Arc<Node>, guest: GuestId, boot: &str) -> Result<(), Failure> {
    let hypervisor = &node.host.hypervisor;
    let is_running = runs(node, guest).await?;
    if !is_running {
        live::put_all_back(node, guest).await?;
    }
    if there(hypervisor.set_autostart(guest, true).await)?.is_none() || is_running || boot == node.host.shared.boot() {
        return Ok(());
    }
    match hypervisor.start(guest).await {
        Ok(_) => {
            tracing::info!(guest = %guest, "it starts with the host, now that its disks are whole");
            if node.set_power(guest, PowerState::Running) {
                node.usage.started(guest);
                node.announce_power(guest, PowerState::Running, 0);
            }
        }
        // libvirt tries once as well.
        Err(error) => tracing::error!(guest = %guest, "it should start with the host, and did not: {}", Failure::Host(error)),
    }
    Ok(())
}
