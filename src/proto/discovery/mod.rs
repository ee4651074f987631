//! Finding a Core by multicast: pings, echoes and the query that joins them (transport §1, contract §2.1).
//!
//! Contract: both datagrams are one JSON object of at most [`MAX_DATAGRAM`] bytes. Whatever arrives is from the network and
//! unauthenticated, so decoding is strict and every refusal is a typed error that the caller may log at a bounded rate.
//! [`Query`] decides when to ping and which echo counts; [`answer`] is the Core's side.

mod codec;
mod query;
#[cfg(test)]
mod tests;

pub use codec::{answer, decode_echo, encode_echo, encode_ping, DiscoveryError, Echo, MAX_DATAGRAM};
pub use query::{Query, QueryTiming};
