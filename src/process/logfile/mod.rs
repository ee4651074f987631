//! `log/cell.log`: one line an event, written by a thread of its own.
//!
//! Contract: writing the log never blocks, slows or ends the service. Where the disk is full or the queue overflows, lines are lost and a line
//! tells how many. The live file is always at the same path and is appended to; older days lie beside it, bounded in number and size. Nobody
//! hands secrets to it: [`crate::model::Secret`] hides itself.

mod line;
mod rotate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use line::{push_escaped, LineLayer};
pub use rotate::{Limits, RotatingFile};

/// Lines that wait for the disk at most. The queue's slots are allocated at once, about 40 bytes each.
const QUEUE: usize = 8192;

/// Set by SIGHUP, cleared by the writer.
static REOPEN: AtomicBool = AtomicBool::new(false);

/// Where and how much.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The live file.
    pub path: PathBuf,
    /// Which events.
    pub filter: Targets,
    /// How much is kept.
    pub limits: Limits,
    /// Also to standard error.
    pub stderr: bool,
}

/// The log can't be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file can't be opened.
    #[error("cannot write the log {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// There is one already.
    #[error("the log was set up twice")]
    Twice(#[source] TryInitError),
}

/// Writes out what is queued when dropped: to be kept until the service has said its last word.
#[derive(Debug)]
pub struct LogGuard {
    _writers: Vec<WorkerGuard>,
}

/// Starts the log of this process. It starts threads: after detaching.
pub fn init(options: LogOptions) -> Result<LogGuard, LogError> {
    let overflow: Arc<OnceLock<ErrorCounter>> = Arc::default();
    let counter = Arc::clone(&overflow);
    let dropped = Box::new(move || counter.get().map_or(0, ErrorCounter::dropped_lines));
    let file = RotatingFile::open(&options.path, options.limits, dropped).map_err(|error| LogError::Open(options.path.clone(), error))?;
    let (file, file_guard) = queue(file, "log-file");
    // The counter exists only now, after the writer was given away; nothing else sets it.
    let _ = overflow.set(file.error_counter());
    let mut writers = vec![file_guard];
    let mut sinks = vec![file];
    if options.stderr {
        // A stopped terminal (Ctrl-S) blocks its writer: a queue for it too.
        let (stderr, stderr_guard) = queue(io::stderr(), "log-stderr");
        writers.push(stderr_guard);
        sinks.push(stderr);
    }
    tracing_subscriber::registry().with(options.filter).with(LineLayer::new(sinks)).try_init().map_err(LogError::Twice)?;
    Ok(LogGuard { _writers: writers })
}

fn queue<W: io::Write + Send + 'static>(writer: W, thread: &str) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name(thread).finish(writer)
}

/// Asks for the file to be opened anew before the next line. It is also noticed without this when the file was renamed or removed.
pub fn request_reopen() {
    REOPEN.store(true, Ordering::Relaxed);
}

/// Where to look when something failed, for messages.
pub fn hint(path: &Path) -> String {
    format!("see {}", path.display())
}

#[cfg(test)]
mod tests;
