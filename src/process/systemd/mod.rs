//! systemd, where it runs the service of this home: then it has to start and stop it, or it knows nothing of the service that runs.
//!
//! Contract: asked only on a host whose process 1 is systemd, and only about the unit that we ship, [`UNIT`]. A unit of that name which runs another
//! program or home is none of ours; one that can't be asked about counts as none, so that the commands work as they do without systemd.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::home::HOME_VARIABLE;
use super::Home;

/// The unit's name, as `packaging/` has it and the README installs it.
pub const UNIT: &str = "cell.service";

/// There while systemd is process 1 (`sd_booted`).
const BOOTED: &str = "/run/systemd/system";

/// What is asked about the unit.
const PROPERTIES: &str = "LoadState,ActiveState,MainPID,ExecStart,Environment,StatusText";

/// systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// There is no `systemctl` to ask with.
    #[error("cannot run systemctl")]
    Run(#[source] io::Error),
    /// It has told why.
    #[error("systemd could not {verb} {UNIT}: {reason}")]
    Refused {
        /// What it was asked for.
        verb: &'static str,
        /// What `systemctl` says.
        reason: String,
    },
}

/// The unit that runs the service of a home, as it was when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The service's process; none while systemd runs none.
    pub main_pid: Option<i32>,
    /// systemd runs it, starts it, or is about to start it again.
    pub active: bool,
    /// What the service last said of itself; empty when it said nothing.
    pub status: String,
}

impl Unit {
    /// The unit of this home; none where systemd is not there or runs something else under this name.
    pub fn of(home: &Home) -> Option<Self> {
        if !Path::new(BOOTED).is_dir() {
            return None;
        }
        let program = std::env::current_exe().ok()?;
        let output = systemctl(["show", UNIT, "--property", PROPERTIES]).stderr(Stdio::null()).output().ok()?;
        if !output.status.success() {
            return None;
        }
        Self::read(&String::from_utf8_lossy(&output.stdout), &program, home.dir())
    }

    /// Has systemd start it, and returns when it is ready or has failed.
    pub fn start() -> Result<(), SystemdError> {
        order("start")
    }

    /// Has systemd stop it, and returns when it has ended. It will not be started again by itself.
    pub fn stop() -> Result<(), SystemdError> {
        order("stop")
    }

    /// Reads what `systemctl show` says; none when the unit is not loaded or is not for this program and home.
    fn read(shown: &str, program: &Path, home: &Path) -> Option<Self> {
        let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if value("LoadState")? != "loaded" {
            return None;
        }
        let start = ExecStart::read(value("ExecStart")?)?;
        // A unit around `cell start` calls us: it must not be called in turn.
        if !start.arguments.iter().any(|argument| argument == "run") {
            return None;
        }
        if !same(&start.program, program) || !same(&start.home(value("Environment").unwrap_or_default())?, home) {
            return None;
        }
        let main_pid = value("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
        let active = !matches!(value("ActiveState")?, "inactive" | "failed");
        let status = value("StatusText").unwrap_or_default().to_owned();
        Some(Self { main_pid, active, status })
    }
}

/// A unit's command line.
struct ExecStart {
    program: PathBuf,
    arguments: Vec<String>,
}

impl ExecStart {
    /// `{ path=/opt/nano/cell/cell ; argv[]=/opt/nano/cell/cell run ; ignore_errors=no ; … }`
    fn read(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix('{')?.split(" ; ").map(str::trim);
        let program = fields.next()?.strip_prefix("path=")?.into();
        let arguments = fields.next()?.strip_prefix("argv[]=")?.split(' ').skip(1).map(str::to_owned).collect();
        Some(Self { program, arguments })
    }

    /// The home that this command works in: by option, by environment, or where the program lies.
    fn home(&self, environment: &str) -> Option<PathBuf> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--home") {
                Some("") => return arguments.next().map(PathBuf::from),
                Some(joined) => return joined.strip_prefix('=').map(PathBuf::from),
                None => {}
            }
        }
        let named = environment.split(' ').find_map(|word| word.strip_prefix(HOME_VARIABLE)?.strip_prefix('='));
        named.map(PathBuf::from).or_else(|| self.program.parent().map(Path::to_owned))
    }
}

/// True when both names lead to one file, or are equal where one leads nowhere.
fn same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn order(verb: &'static str) -> Result<(), SystemdError> {
    let output = systemctl([verb, UNIT]).output().map_err(SystemdError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(SystemdError::Refused { verb, reason: String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ") })
}

/// Texts of systemd are read by us, so they are not to be translated or paged.
fn systemctl<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments.map(OsString::from)).env("SYSTEMD_PAGER", "").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests;
