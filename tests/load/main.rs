//! Many guests, many requests, a long time: nothing is lost, nothing is late, nothing grows.
//!
//! A whole node but for its sockets, on the simulated host, joined to a Core by the real protocol (`domain.rs`); time is virtual. One test at a time,
//! for some look at the process's own memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    missing_docs
)]

mod domain;
mod endurance;
mod report;
mod storm;

use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

/// Held by a test while it runs.
async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}
