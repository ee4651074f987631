//! How the node is seen from outside: the host's load for the Core's status report, and the service's state for `cell status`.
//!
//! Contract: nothing in here changes or delays anything; it reads what the kernel and the service's snapshots say.

pub mod host_stats;
pub mod status_socket;

pub use host_stats::{HostSample, HostStats};
pub use status_socket::StatusSocket;
