//! The service as a Unix process: where it lives, that there is one of it, how it leaves the terminal, is told to stop, and writes its log.
//!
//! Contract: nothing in here knows what the service does. Detaching happens while the process has one thread; the log's writer thread and the
//! runtime come after it. What is fatal comes back as an error, never as an exit from in here.

pub mod detach;
pub mod dumps;
pub mod home;
pub mod logfile;
pub mod memory;
pub mod notify;
pub mod panics;
pub mod pidfile;
pub mod signals;
pub mod systemd;
pub mod trail;

pub use home::Home;

use crate::model::Chain;

/// An error with all its causes in one line, outermost first.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

/// The same text with everything that would break a line or drive a terminal made visible: it may quote a file or a peer.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    logfile::push_escaped(&mut out, text);
    out
}
