//! What the service is told by signals.
//!
//! SIGTERM and SIGINT ask for an orderly end, a second one of either for a quick one. SIGHUP re-opens the log file (log rotation by others,
//! `systemctl reload`); a closing terminal thereby does not end a service.

use std::io;

use tokio::signal::unix::{signal, Signal, SignalKind};

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Tell the Core, finish what is under way.
    Graceful,
    /// At once: somebody asked twice.
    Quick,
}

/// The receiver of the signals; one to a process, created inside the runtime before anything that takes time.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    asked: bool,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            asked: false,
        })
    }

    /// Waits for the next request to end. Cancel safe.
    pub async fn shutdown(&mut self) -> Shutdown {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => super::logfile::request_reopen(),
            }
        }
        if std::mem::replace(&mut self.asked, true) {
            Shutdown::Quick
        } else {
            Shutdown::Graceful
        }
    }
}
