//! `cell stop`: asks the service to end, or has systemd end it, and waits for it.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::{term, Exit};
use crate::process::pidfile::{self, PidfileError, State};
use crate::process::systemd::{Unit, UNIT};
use crate::process::Home;

/// Between two looks at the service.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a service that is just starting may take to write its pid.
const UNTIL_PUBLISHED: Duration = Duration::from_secs(2);

/// The service can't be ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StopError {
    /// Not to be found out.
    #[error(transparent)]
    Pidfile(#[from] PidfileError),
    /// Something holds the home, but which process it is can't be told.
    #[error("the service runs, but {} does not tell its process id; nothing was done", .0.display())]
    UnknownPid(std::path::PathBuf),
    /// Somebody else's process.
    #[error("the service, pid {pid}, belongs to another user; do this as that user or as root")]
    Foreign {
        pid: i32,
        #[source]
        source: io::Error,
    },
    /// Not ours to end.
    #[error("cannot send {signal} to the service, pid {pid}")]
    Kill {
        signal: Signal,
        pid: i32,
        #[source]
        errno: Errno,
    },
    /// It goes on.
    #[error("the service, pid {pid}, still runs after {} s; it may be finishing its work, else `cell halt` kills it", after.as_secs())]
    StillRunning { pid: i32, after: Duration },
}

/// How a service's end came about.
pub(super) enum Ended {
    /// This process was running and has ended.
    Now(i32),
    /// There was none; true when leftovers of a dead one were removed.
    Before(bool),
}

pub(super) fn stop(home: &Home, timeout: Duration) -> Exit {
    // Also where it is not running: systemd may be about to start it again.
    if let Some(unit) = Unit::of(home).filter(|unit| unit.active) {
        if let Err(error) = Unit::stop() {
            term::fail(&error);
            return Exit::Failure;
        }
        if let Some(pid) = unit.main_pid {
            term::say(format_args!("cell stopped by systemd ({UNIT}, pid {pid}); guests go on running"));
        }
        // Nobody else's service in the same home goes on.
        if matches!(pidfile::probe(home), Ok(State::Stopped { .. })) && unit.main_pid.is_some() {
            return Exit::Success;
        }
    }
    match end(home, Signal::SIGTERM, timeout) {
        Ok(Ended::Now(pid)) => {
            term::say(format_args!("cell stopped (pid {pid}); guests go on running"));
            Exit::Success
        }
        Ok(Ended::Before(cleaned)) => {
            say_stopped(cleaned);
            Exit::Success
        }
        Err(error) => {
            term::fail(&error);
            Exit::Failure
        }
    }
}

pub(super) fn say_stopped(cleaned: bool) {
    let leftover = if cleaned { "; removed the pidfile of a service that did not end cleanly" } else { "" };
    term::say(format_args!("cell is not running{leftover}"));
}

/// Sends the signal to the service of this home, and to no other process, and waits until the home is free.
pub(super) fn end(home: &Home, signal: Signal, timeout: Duration) -> Result<Ended, StopError> {
    let Some(pid) = find(home)? else { return Ok(Ended::Before(pidfile::clean_stale(home)?)) };
    match kill(Pid::from_raw(pid), signal) {
        // It has just ended by itself.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(StopError::Kill { signal, pid, errno }),
    }
    let started = Instant::now();
    let progress = term::Progress::new(&format!("waiting for the end of pid {pid}"));
    let mut ticks = 0_u64;
    while let State::Running { .. } = pidfile::probe(home)? {
        let waited = started.elapsed();
        if waited >= timeout {
            return Err(StopError::StillRunning { pid, after: waited });
        }
        if waited.as_secs() > ticks {
            ticks = waited.as_secs();
            progress.tick();
        }
        sleep(PAUSE);
    }
    drop(progress);
    pidfile::clean_stale(home)?;
    Ok(Ended::Now(pid))
}

/// The running service's pid, proved by its having the locked file open; none when no service runs.
fn find(home: &Home) -> Result<Option<i32>, StopError> {
    let deadline = Instant::now() + UNTIL_PUBLISHED;
    loop {
        match pidfile::probe(home)? {
            State::Stopped { .. } => return Ok(None),
            State::Running { pid: Some(pid) } => match pidfile::is_owner(home, pid) {
                Ok(true) => return Ok(Some(pid)),
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => return Err(StopError::Foreign { pid, source }),
                _ => {}
            },
            State::Running { pid: None } => {}
        }
        if Instant::now() >= deadline {
            return Err(StopError::UnknownPid(home.pid_file()));
        }
        sleep(PAUSE);
    }
}
