//! The only sockets of the domain: multicast discovery, a Cell's connection and a Core's listener.
//!
//! Contract: a driver owns its sockets and one state machine of `proto`; it moves bytes, keeps the time and decides nothing. Each
//! driver is one task, which the caller owns: it ends when the state machine has left for good, and then only. What the network can
//! trigger is logged at a bounded rate.

mod discover;
mod driver;
mod error;
mod handle;
mod interface;
mod listener;
mod multicast;
mod probe;
mod socket;
#[cfg(test)]
mod tests;

pub use discover::discover;
pub use driver::{domain, Driver};
pub use error::{NetError, SendError};
pub use handle::{DomainConfig, DomainEvent, DomainHandle, DomainStatus, Outbound};
pub use interface::Interface;
pub use listener::{Discovery, Listener, ListenerConfig, ListenerHandle, PORTS};
pub use probe::comes_back;
