//! A minimal Core, for whoever has no cluster: it finds Cells, takes them into a pool and issues transactions.
//!
//! ```text
//! cli ▸ {bench, replay} ▸ core (handle) ▸ domain (books, sessions: pure) ◀ cell::net::Listener (sockets, clock) ▸ cell::proto
//! ```
//!
//! Contract: [`Core`] behaves towards a Cell as a real Core does (handshake, keep-alives, pool ready, session numbers 1..=1024, the first
//! message with a session's number is its answer) and tells everything that happens as [`Event`]s. What it sends is tied to captured
//! traffic by the tests. It holds nothing on disk and serves no API.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use corelet::{requests, Core, CoreConfig};
//! use std::time::Duration;
//!
//! let core = Core::start(CoreConfig::new([10, 0, 0, 1].into())).await?;
//! let cell = core.wait_cell(None, Duration::from_secs(30)).await?;
//! let guest = core.create(&cell.name, &requests::CreateGuest::blank("manager.first", 1 << 30)).await?;
//! let mut events = core.events();
//! core.start_guest(&cell.name, guest).await?;
//! events.wait(Duration::from_secs(10), |event| event.is_started(guest)).await?;
//! core.close().await;
//! # Ok(()) }
//! ```

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

pub mod answers;
pub mod bench;
pub mod cli;
mod config;
mod core;
mod domain;
mod error;
mod events;
mod guest;
pub mod images;
mod interface;
pub mod replay;
pub mod requests;
mod sessions;

pub use self::core::{Core, CreateError};
pub use config::{AddressPool, CoreConfig, PoolConfig, SharedStorage};
pub use domain::{Cell, CellState};
pub use error::{RequestError, StartError, WaitError};
pub use events::{Event, Events, Recorded};
pub use guest::{Guest, ImportError};
