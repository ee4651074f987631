//! How the node is seen from outside: snapshots only, nothing in here changes or delays anything.

pub mod status_socket;

pub use status_socket::StatusSocket;
