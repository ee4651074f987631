//! The domain's protocol as pure state machines: bytes and the time go in, bytes, events and the next deadline come out.
//!
//! Contract: nothing in here opens a socket, reads a clock or knows tokio; the same code runs under the driver
//! in `net`, in virtual time in the tests, in corelet on the Core's side and under the fuzzer.
//! Layers from the wire up: `fec` (packets and parity) ▸ `kcp` (order and retransmission) ▸ `message` (JSON objects) ▸ `peer` (the life of a
//! connection); `discovery` stands beside them. On top, a Cell's `member` and a Core's `hub`.

pub mod discovery;
pub mod fec;
pub mod hub;
pub mod kcp;
pub mod member;
pub mod message;
pub mod peer;
#[cfg(test)]
pub(crate) mod sim_link;
pub mod transport;
