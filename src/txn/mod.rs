//! Transactions: what the Core asks of this node, each with a session, a deadline and exactly one answer.
//!
//! Contract: every request is answered, by success or by a failure with its reason: also one that misses a parameter, that nobody
//! knows, that finds no free session, whose handler panics or whose deadline passes. A handler that fails leaves the host as it was
//! (its undo stack runs) and the node's books are written before a success is told. A change of several steps writes
//! nothing to the wire until it is durable.
//!
//! `engine` hands out sessions and deadlines; `audit` notes what was changed and for whom; `handlers` has one file per transaction and the one dispatch table; `node` is the
//! state they share; `undo` takes steps back; `monitor` turns the host's events into the node's; `usage` keeps the figures of running guests;
//! `guard` watches over guests of shared pools; `held` over those whose disk is full; `thaws` over those that a snapshot has frozen;
//! `missed` keeps what the Core has to hear of a guest's end;
//! `transfer` carries disks from and to image servers; `recovery` finishes or takes back what a crash left half done.
//!
//! What a transaction is about to do is written to the journal ([`crate::store::journal`]) before it is done, as `undo`'s steps, which are data; that
//! it has succeeded is written there before the answer says so.

pub mod addresses;
pub mod audit;
mod context;
pub mod engine;
mod failure;
pub mod guard;
pub mod handlers;
pub mod held;
mod media;
mod missed;
pub mod monitor;
pub mod node;
mod params;
pub mod recovery;
pub mod secrets;
mod session;
mod setting;
#[cfg(test)]
mod testing;
pub mod thaws;
mod transfer;
mod undo;
pub mod usage;
mod volumes;

pub use context::{Context, Outbox};
pub use engine::{answer_time, Engine};
pub use failure::Failure;
pub use node::Node;
