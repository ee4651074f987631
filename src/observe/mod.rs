//! What can be seen of the node: the host's load for the Core's status report, and a snapshot of the service for `cell status --json`.
//!
//! Contract: nothing in here changes anything, and reading never waits for a transaction. Parts that do the work count into [`Metrics`];
//! whoever shows figures reads a [`Snapshot`].

pub mod host_stats;
pub mod snapshot;

pub use host_stats::{HostSample, HostStats};
pub use snapshot::{About, CoreLink, GuestFigures, Metrics, ReportFigures, Snapshot, TransactionEnd, TransactionFigures};
