//! CPU time and memory of a process, from /proc.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is not there, or its figures cannot be read.
    #[error("cannot read {}; does process {pid} exist?", .path.display())]
    Read {
        /// The process.
        pid: u32,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's file looks otherwise than known.
    #[error("{}: no {field} in it", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is missing.
        field: &'static str,
    },
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that is resident: VmRSS.
    pub resident: u64,
    /// Its own share, without files and libraries: RssAnon.
    pub anonymous: u64,
}

/// A process that is watched.
#[derive(Clone, Debug)]
pub struct Process {
    pid: u32,
    ticks_per_second: u64,
}

impl Process {
    /// The process with this pid; it must exist.
    pub fn new(pid: u32) -> Result<Self, ProcessError> {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let ticks_per_second = ticks.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
        let process = Self { pid, ticks_per_second };
        process.cpu_time()?;
        Ok(process)
    }

    /// CPU time that it has used so far, user and system, in steps of the kernel's tick (10 ms).
    pub fn cpu_time(&self) -> Result<Duration, ProcessError> {
        let text = self.read("stat")?;
        let ticks = cpu_ticks(&text).ok_or_else(|| self.format("stat", "utime and stime"))?;
        Ok(Duration::from_millis(ticks.saturating_mul(1000) / self.ticks_per_second))
    }

    /// Memory that it has at present.
    pub fn memory(&self) -> Result<Memory, ProcessError> {
        let text = self.read("status")?;
        let field = |name| kibibytes(&text, name).ok_or_else(|| self.format("status", name));
        Ok(Memory { resident: field("VmRSS")?, anonymous: field("RssAnon")? })
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    fn read(&self, file: &str) -> Result<String, ProcessError> {
        let path = self.path(file);
        fs::read_to_string(&path).map_err(|source| ProcessError::Read { pid: self.pid, path, source })
    }

    fn format(&self, file: &str, field: &'static str) -> ProcessError {
        ProcessError::Format { path: self.path(file), field }
    }
}

/// User and system time out of /proc/PID/stat; the name in parentheses may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// A field of /proc/PID/status in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests;
