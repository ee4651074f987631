//! The resource node of a Nano cluster.
//!
//! A request travels through these layers, and no layer knows one above it (`tests/layering.rs` keeps it so):
//!
//! ```text
//! UDP ──▶ net (one driver loop)
//!          │ bytes, now                     ▲ bytes, next deadline
//!          ▼                                │
//!        proto: fec ▸ kcp ▸ message ▸ peer   (pure state machines: no clock, no socket, no tokio)
//!          │ Message from Core               ▲ Message to Core
//!          ▼                                │
//!        txn: engine ▸ handlers/<one per transaction>  (deadline, undo stack, journal)
//!          │ typed calls                     ▲ typed results, events
//!          ▼                                │
//!        host: Hypervisor, Storage, Network  (traits)  ─▶ libvirt/  storage/  network/  (real)   sim/ (faults injected)
//!          │
//!        store: data/*.data (atomic, fsynced) and their journal
//! ```
//!
//! `app` is the only place that joins the parts; `cli` and `process` stand in front of it; `observe` reads snapshots; `doctor` compares `store`'s
//! books with `host`.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap
    )
)]

pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub(crate) mod faults;
pub mod host;
pub mod model;
pub mod net;
pub mod observe;
pub mod process;
pub mod proto;
pub mod store;
pub mod txn;
