//! Leaving the terminal: the caller of `cell start` waits until the service reports that it is up, or why not.
//!
//! Contract: to be called while the process has a single thread (before any runtime or log writer). The service reports once, as one line of
//! JSON through a pipe; a pipe that closes without a line means that the service died.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use daemonize::{Daemonize, Outcome};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a new file may not be for others: nothing more than usual. Every file with a secret in it is created with its own, tighter mode, and
/// image directories must stay searchable for the user that runs QEMU.
const UMASK: u32 = 0o022;

/// On which side of the fork the caller goes on.
#[derive(Debug)]
pub enum Side {
    /// In the process that was called from the shell.
    Caller(Waiter),
    /// In the service, in a session of its own without a terminal.
    Service(Reporter),
}

/// The process could not be detached.
#[derive(Debug, thiserror::Error)]
#[error("cannot put the service into the background")]
pub struct DetachError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Why the service is not up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    /// It said so.
    #[error("{0}")]
    Reason(String),
    /// It ended without a word.
    #[error("the service ended while it was starting")]
    Died,
    /// It still has not said anything. It is left running.
    #[error("the service has not come up within {} s and goes on trying in the background", .0.as_secs())]
    Timeout(Duration),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report<T> {
    Started(T),
    Failed(String),
}

/// Forks the service off. Both sides return from this call.
pub fn detach(working_directory: &Path) -> Result<Side, DetachError> {
    let (read_end, write_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| DetachError(errno.into()))?;
    match Daemonize::new().working_directory(working_directory).umask(UMASK).execute() {
        // The caller's copy of the write end is dropped here, so that the service's death closes the pipe.
        Outcome::Parent(Ok(_)) => Ok(Side::Caller(Waiter { pipe: File::from(read_end) })),
        Outcome::Parent(Err(error)) => Err(DetachError(error.into())),
        Outcome::Child(Ok(_)) => Ok(Side::Service(Reporter::new(File::from(write_end)))),
        Outcome::Child(Err(error)) => {
            let error = DetachError(error.into());
            Reporter::new(File::from(write_end)).failed(&super::error_chain(&error));
            Err(error)
        }
    }
}

/// The caller's end.
#[derive(Debug)]
pub struct Waiter {
    pipe: File,
}

impl Waiter {
    /// Waits for the service's report, at most this long.
    pub fn wait<T: DeserializeOwned + Send + 'static>(self, limit: Duration) -> Result<T, StartFailure> {
        let (sender, receiver) = mpsc::channel();
        let pipe = self.pipe;
        // The service is forked off, so this process may have a second thread now.
        std::thread::spawn(move || sender.send(read_report(pipe)));
        match receiver.recv_timeout(limit) {
            Ok(Some(Report::Started(details))) => Ok(details),
            Ok(Some(Report::Failed(reason))) => Err(StartFailure::Reason(reason)),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => Err(StartFailure::Died),
            Err(RecvTimeoutError::Timeout) => Err(StartFailure::Timeout(limit)),
        }
    }
}

fn read_report<T: DeserializeOwned>(pipe: File) -> Option<Report<T>> {
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// The service's end. Only the first report counts; clones share it.
#[derive(Clone, Debug)]
pub struct Reporter {
    pipe: Arc<Mutex<Option<File>>>,
}

impl Reporter {
    fn new(pipe: File) -> Self {
        Self { pipe: Arc::new(Mutex::new(Some(pipe))) }
    }

    /// The service is up.
    pub fn started<T: Serialize>(&self, details: &T) {
        self.send(&Report::Started(details));
    }

    /// The service gives up.
    pub fn failed(&self, reason: &str) {
        self.send(&Report::<()>::Failed(reason.to_owned()));
    }

    fn send<T: Serialize>(&self, report: &Report<T>) {
        if let Some(mut pipe) = self.pipe.lock().take() {
            // A caller that was interrupted is not there any more; the service does not depend on it.
            let _ = write_report(&mut pipe, report);
        }
    }
}

fn write_report<T: Serialize>(pipe: &mut File, report: &Report<T>) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    pipe.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Waiter, Reporter) {
        let (read_end, write_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        (Waiter { pipe: File::from(read_end) }, Reporter::new(File::from(write_end)))
    }

    #[test]
    fn the_first_report_arrives_and_later_ones_do_not_matter() {
        let (waiter, reporter) = pair();
        reporter.started(&"up\nand well");
        reporter.failed("later");
        assert_eq!(waiter.wait::<String>(Duration::from_secs(5)), Ok("up\nand well".to_owned()));
    }

    #[test]
    fn a_failure_brings_its_reason() {
        let (waiter, reporter) = pair();
        reporter.failed("no bridge br0");
        assert_eq!(waiter.wait::<String>(Duration::from_secs(5)), Err(StartFailure::Reason("no bridge br0".into())));
    }

    #[test]
    fn a_service_that_dies_silently_is_noticed() {
        let (waiter, reporter) = pair();
        drop(reporter);
        assert_eq!(waiter.wait::<String>(Duration::from_secs(5)), Err(StartFailure::Died));
    }

    #[test]
    fn waiting_ends() {
        let (waiter, reporter) = pair();
        let limit = Duration::from_millis(20);
        assert_eq!(waiter.wait::<String>(limit), Err(StartFailure::Timeout(limit)));
        reporter.started(&"nobody listens");
    }
}
