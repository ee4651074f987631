//! What guests learn about their addresses, and what the node learns from them.
//!
//! Contract: [`GuestNetwork`] is the books as the DHCP service and the cloud-init server see them, always as they are now: a changed address pool
//! needs no restart of anything. [`detect`] finds the address that each running guest uses; the Core is told of a change only, never of an
//! empty address, and a guest that stops has none (contract §6.9, §14 D3).

pub mod detect;
pub mod seeds;
mod sources;

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::host::cloudinit::hostname;
use crate::host::{Assignment, Assignments, Instance, Instances, News, PoolNetwork};
use crate::model::address::{parse_mac, Mac};
use crate::model::{AddressMode, Guest, GuestId, NetworkBook, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;

use super::Node;

/// The guests of a node, for the services that they ask.
#[derive(Clone)]
pub struct GuestNetwork {
    node: Arc<Node>,
}

impl GuestNetwork {
    /// Over this node's books.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Assignments for GuestNetwork {
    /// Guests of a pool that is addressed by DHCP, when they have an address in the form 10.0.0.5/24 and the pool has a gateway.
    fn find(&self, mac: Mac) -> Option<Assignment> {
        let books = self.node.books.lock();
        let by_dhcp = books.network.allocation_mode == AddressMode::Dhcp;
        let guest = by_dhcp.then(|| books.guests.values().find(|guest| parse_mac(&guest.config.hardware_address) == Some(mac)))??;
        if guest.config.address_allocation != AddressMode::Dhcp {
            return None;
        }
        let (address, prefix) = parse_cidr(&guest.config.internal_address)?;
        Some(Assignment {
            guest: guest.config.id,
            hostname: hostname(&guest.config),
            address,
            prefix,
            gateway: books.network.gateway.parse().ok()?,
            dns: dns(&books.network),
        })
    }

    fn heard(&self, news: News) {
        let warnings = &self.node.warnings;
        match news {
            News::Acknowledged { guest, address } => observed(&self.node, guest, address),
            News::Refused { guest, wanted, assigned } => {
                warnings.warn(format_args!("guest {guest} asked for {wanted} by DHCP and was refused: its address is {assigned}"));
            }
            News::Declined { guest, address } => warnings.warn(format_args!(
                "guest {guest} does not take {address}: it found somebody else using it; look for another host with this address on the segment"
            )),
            News::Unsent { guest, reason } => warnings.warn(format_args!("the DHCP answer to guest {guest} can't be sent: {reason}")),
        }
    }
}

#[async_trait]
impl Instances for GuestNetwork {
    fn find(&self, id: GuestId) -> Option<Instance> {
        let books = self.node.books.lock();
        let guest = books.guests.get(&id).filter(|guest| guest.config.cloud_init_available)?;
        Some(Instance { config: guest.config.clone(), address: guest.address, pool: pool_network(&books.network) })
    }

    async fn delivered(&self, id: GuestId) {
        let entered = self.node.books.lock().update(id, |config| config.initialized = true);
        if entered.is_err() {
            return;
        }
        match self.node.save(&[DataFile::Instance]).await {
            Ok(()) => tracing::info!(guest = %id, "the guest has its user-data"),
            Err(failure) => tracing::error!(guest = %id, "the guest has its user-data, but that could not be written down: {failure}"),
        }
    }

    fn refused(&self, id: GuestId, peer: Ipv4Addr) {
        self.node.warnings.warn(format_args!("refused to give guest {id}'s cloud-init documents to {peer}, which is not the guest"));
    }

    async fn serving(&self, _address: Ipv4Addr) {
        seeds::renew_all(&self.node).await;
    }
}

/// Enters an address that a running guest uses; tells the Core when it is another than before.
fn observed(node: &Node, id: GuestId, address: Ipv4Addr) {
    let news = {
        let mut books = node.books.lock();
        let guest = books.guests.get_mut(&id).filter(|guest| guest.power == PowerState::Running);
        guest.is_some_and(|guest| guest.address.replace(address) != Some(address))
    };
    if news {
        tracing::info!(guest = %id, "the guest's address is {address}");
        let event = Message::new(MessageId::ADDRESS_CHANGED_EVENT);
        node.outbox.send(None, event.string(Key::Instance, id.to_string()).string(Key::Address, address.to_string()));
    }
}

/// What cloud-init needs of the address pool.
pub(super) fn pool_network(network: &NetworkBook) -> PoolNetwork {
    PoolNetwork { gateway: network.gateway.parse().ok(), dns: dns(network) }
}

fn dns(network: &NetworkBook) -> Vec<Ipv4Addr> {
    network.dns.iter().filter_map(|server| server.parse().ok()).collect()
}

fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse().ok()?);
    (!address.is_unspecified() && prefix <= 32).then_some((address, prefix))
}

/// The address that a guest was assigned.
fn assigned(guest: &Guest) -> Option<Ipv4Addr> {
    guest.config.internal_address.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
