//! DHCP for this node's own guests (contract §10), without the reference's habits (§14 C16, E12).
//!
//! Contract: only the bridge is listened on, and only guests that the [`Assignments`] know are answered; every other client
//! meets silence, so that another DHCP server on the segment is not disturbed. A lease is nothing but the guest's assigned address, so
//! there is no lease file to lose: after a restart a REQUEST is answered without a DISCOVER before it, and a changed gateway or DNS server is
//! told with the next renewal.
//!
//! [`answer`] decides and touches nothing; [`DhcpServer`] moves packets and decides nothing.

mod responder;
mod server;
mod socket;

use std::net::Ipv4Addr;

use crate::model::GuestId;

pub use responder::{answer, Answer};
pub use server::DhcpServer;

/// A hardware address.
pub type Mac = [u8; 6];

/// What a guest is given.
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

/// The books, as the service sees them.
pub trait Assignments: Send + Sync {
    /// What the guest with this MAC is given by DHCP now; `None` for everybody who is not to be answered.
    fn find(&self, mac: Mac) -> Option<Assignment>;

    /// Something was said to or by a guest.
    fn heard(&self, news: News);
}

/// What the service tells the rest of the node.
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

/// The six bytes of a MAC written as `00:16:3e:01:02:03`, in either case.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+'));
    let mut bytes = text.split(':').map(byte);
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests;
