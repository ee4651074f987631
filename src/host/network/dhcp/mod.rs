//! DHCP for this node's own guests (contract §10), without the reference's habits (§14 C16, E12).
//!
//! Contract: only the bridge is listened on, and only guests that the [`Assignments`](crate::host::Assignments) know are answered; every other client
//! meets silence, so that another DHCP server on the segment is not disturbed. A lease is nothing but the guest's assigned address, so
//! there is no lease file to lose: after a restart a REQUEST is answered without a DISCOVER before it, and a changed gateway or DNS server is
//! told with the next renewal.
//!
//! [`answer`] decides and touches nothing; [`DhcpServer`] moves packets and decides nothing.

mod responder;
mod server;
mod socket;

pub(super) use socket::open;

pub use responder::{answer, Answer};
pub use server::DhcpServer;

#[cfg(test)]
mod tests;
