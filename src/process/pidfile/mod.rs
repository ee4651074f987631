//! One service to a home: `cell.pid` holds the pid and is locked for the service's whole life.
//!
//! Contract: who holds the lock is the service, whatever the number in the file says; the kernel drops the lock with the process, so a recycled
//! pid is never taken for ours and a crash leaves nothing that has to be repaired. The file is the reference's (pid as text, flock), so each
//! sees the other running. `data/` is locked as well: with `cell.pid` deleted by hand there is still no second service on the same data.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::Home;

/// Readable for all: it tells nothing but a number, and `cell status` shall work for everyone who may enter the home.
const MODE: u32 = 0o644;

/// How long a starter waits for those who only look (see [`probe`]) to let go.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Its bit in the sets of signals that the kernel shows.
const SIGKILL: u64 = 1 << (Signal::SIGKILL as u64 - 1);

/// What the pidfile says about a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No service.
    Stopped {
        /// The pid that a service left behind which did not end cleanly.
        stale: Option<i32>,
    },
    /// A service lives here.
    Running {
        /// Its pid; none while it is just starting or when its pidfile was deleted.
        pid: Option<i32>,
    },
}

/// The lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// Another process holds it.
    #[error("a service is already running{}", .0.map(|pid| format!(" with pid {pid}")).unwrap_or_default())]
    Running(Option<i32>),
    /// The file can't be used.
    #[error("cannot use {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The right to be the service of a home. Dropping it removes the pidfile and frees the home.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    pid_file: Flock<File>,
    _data_dir: Option<Flock<File>>,
}

impl InstanceLock {
    /// Takes the home. What a dead service left in the file is erased.
    pub fn acquire(home: &Home) -> Result<Self, PidfileError> {
        let path = home.pid_file();
        let deadline = Instant::now() + PATIENCE;
        let data_path = home.data_dir();
        let data_dir = match File::open(&data_path) {
            Ok(dir) => Some(lock_patiently(dir, &data_path, deadline, || read_pid(&path))?),
            // A home in which no service has ever started: there is nothing to protect.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(PidfileError::Io(data_path, error)),
        };
        loop {
            let file = open_for_lock(&path).map_err(|error| PidfileError::Io(path.clone(), error))?;
            let pid_file = lock_patiently(file, &path, deadline, || read_pid(&path))?;
            // Between open and lock the last service may have removed the file: then this lock is on nothing.
            if is_at(&pid_file, &path) {
                pid_file.set_len(0).map_err(|error| PidfileError::Io(path.clone(), error))?;
                return Ok(Self { path, pid_file, _data_dir: data_dir });
            }
            if Instant::now() >= deadline {
                return Err(PidfileError::Io(path, io::Error::other("it is replaced again and again")));
            }
        }
    }

    /// Writes this process's pid: to be called by the process that will be the service.
    pub fn publish(&mut self) -> Result<(), PidfileError> {
        write_pid(&mut self.pid_file).map_err(|error| PidfileError::Io(self.path.clone(), error))
    }

    /// Gives up this process's copy of a lock that a forked child goes on holding: neither unlocks nor removes anything.
    pub fn leave_to_child(self) {
        // Unlocking works on the open file that both share, so dropping would free the child's lock too.
        std::mem::forget(self);
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Removed while locked: nobody can have put another one there. A failure leaves a stale file, which is harmless.
        if is_at(&self.pid_file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Looks whether a service lives in this home, and creates nothing. The look takes shared locks for an instant.
pub fn probe(home: &Home) -> Result<State, PidfileError> {
    let path = home.pid_file();
    let pid = read_pid(&path);
    if is_locked(&path)? || is_locked(&home.data_dir())? {
        return Ok(State::Running { pid: read_pid(&path) });
    }
    Ok(State::Stopped { stale: pid.filter(|_| path.exists()) })
}

/// The same for who wants to start a service: one that is dying is waited for, since the kernel drops its locks with its last thread only, which
/// may have to wait for a disk. [`State::Running`] with the pid of a dead process after that.
pub fn probe_patiently(home: &Home, patience: Duration) -> Result<State, PidfileError> {
    let deadline = Instant::now() + patience;
    loop {
        match probe(home)? {
            State::Running { pid: Some(pid) } if is_dead(pid) && Instant::now() < deadline => sleep(PAUSE),
            state => return Ok(state),
        }
    }
}

/// Whether a process has ended, or was killed and has not got to its end yet.
pub fn is_dead(pid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let is_killed = |name: &str| u64::from_str_radix(field(name), 16).is_ok_and(|pending| pending & SIGKILL != 0);
    field("State:").starts_with(['Z', 'X']) || is_killed("SigPnd:") || is_killed("ShdPnd:")
}

/// Whether the process has the home's pidfile open: then the number in the file is not a leftover of the instant before its owner writes its own.
/// An error says that this user may not look into that process.
pub fn is_owner(home: &Home, pid: i32) -> io::Result<bool> {
    let descriptors = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let ours = home.pid_file().metadata()?;
    Ok(descriptors
        .flatten()
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .any(|open| open.dev() == ours.dev() && open.ino() == ours.ino()))
}

/// Removes what a dead service left behind; true when there was something. Does nothing while a service lives.
pub fn clean_stale(home: &Home) -> Result<bool, PidfileError> {
    if !home.pid_file().exists() {
        return Ok(false);
    }
    match InstanceLock::acquire(home) {
        Ok(lock) => {
            let _ = std::fs::remove_file(home.status_socket());
            drop(lock);
            Ok(true)
        }
        Err(PidfileError::Running(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_for_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)
}

fn lock_patiently(file: File, path: &Path, deadline: Instant, owner: impl Fn() -> Option<i32>) -> Result<Flock<File>, PidfileError> {
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => {
                // A shared lock can be had beside lookers but not beside a service.
                if is_locked(path)? || Instant::now() >= deadline {
                    return Err(PidfileError::Running(owner()));
                }
                file = back;
                sleep(PAUSE);
            }
            Err((_, errno)) => return Err(PidfileError::Io(path.to_owned(), errno.into())),
        }
    }
}

/// True when somebody holds it exclusively. A file that does not exist is not locked.
fn is_locked(path: &Path) -> Result<bool, PidfileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PidfileError::Io(path.to_owned(), error)),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_released_at_once) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(PidfileError::Io(path.to_owned(), errno.into())),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

fn read_pid(path: &Path) -> Option<i32> {
    let mut text = String::new();
    File::open(path).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
