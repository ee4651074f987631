//! What the services that guests see want to know of the node's books: traits that the books implement.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::model::address::Mac;
use crate::model::{GuestConfig, GuestId};

/// What a guest is given by DHCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Whose it is.
    pub guest: GuestId,
    /// Name for the client that asks for one.
    pub hostname: String,
    /// Its only address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix, 0..=32.
    pub prefix: u8,
    /// Router.
    pub gateway: Ipv4Addr,
    /// DNS servers, the best first.
    pub dns: Vec<Ipv4Addr>,
}

/// The books, as the DHCP service sees them.
pub trait Assignments: Send + Sync {
    /// What the guest with this MAC is given by DHCP now; `None` for everybody who is not to be answered.
    fn find(&self, mac: Mac) -> Option<Assignment>;

    /// Something was said to or by a guest.
    fn heard(&self, news: News);
}

/// What the DHCP service tells the rest of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The guest was told that the address is its own: from now on it uses it.
    Acknowledged {
        /// Which.
        guest: GuestId,
        /// Its address.
        address: Ipv4Addr,
    },
    /// The guest asked for an address that is not its own, and was told so.
    Refused {
        /// Which.
        guest: GuestId,
        /// What it wanted.
        wanted: Ipv4Addr,
        /// What it is to have.
        assigned: Ipv4Addr,
    },
    /// The guest found that somebody else uses its address.
    Declined {
        /// Which.
        guest: GuestId,
        /// The address.
        address: Ipv4Addr,
    },
    /// An answer could not be sent.
    Unsent {
        /// To whom.
        guest: GuestId,
        /// Why.
        reason: String,
    },
}

/// What the address pool gives to every guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolNetwork {
    /// Router.
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
}

/// The guests, as the cloud-init server sees them.
#[async_trait]
pub trait Instances: Send + Sync {
    /// A guest with cloud-init and its pool's network; `None` when there is none with this id.
    fn find(&self, id: GuestId) -> Option<Instance>;

    /// The guest has received its user-data: it gets no more.
    async fn delivered(&self, id: GuestId);

    /// Somebody else asked for a guest's documents.
    fn refused(&self, id: GuestId, peer: Ipv4Addr);

    /// The server is reached at this address from now on; seed images that name another are out of date.
    async fn serving(&self, address: Ipv4Addr);
}

/// What is known of a guest that asks.
#[derive(Clone)]
pub struct Instance {
    /// Its configuration.
    pub config: Arc<GuestConfig>,
    /// Address that it was seen to use.
    pub address: Option<Ipv4Addr>,
    /// Its pool's network.
    pub pool: PoolNetwork,
}
