//! `cell status`: whether the service runs and, where it answers, how it is.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::{term, Exit};
use crate::model::ServiceStatus;
use crate::observe::status_socket::at_short_path;
use crate::process::pidfile::{self, State};
use crate::process::systemd::{Unit, UNIT};
use crate::process::{one_line, Home};

/// A service that hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// An answer is a few hundred bytes.
const LONGEST: u64 = 64 * 1024;

pub(super) fn status(home: &Home, json: bool) -> Exit {
    let state = match pidfile::probe(home) {
        Ok(state) => state,
        Err(error) => {
            term::fail(&error);
            return Exit::Unknown;
        }
    };
    let (pid, details) = match state {
        State::Stopped { stale } => {
            if json {
                term::say(json!({ "state": "stopped", "stale_pid": stale }));
            } else {
                let stale = stale.map(|pid| format!(" (a service with pid {pid} did not end cleanly)")).unwrap_or_default();
                term::say(format_args!("cell is stopped{stale}"));
            }
            return Exit::Stopped;
        }
        State::Running { pid } => (pid, ask(home)),
    };
    let unit = Unit::of(home);
    if json {
        term::say(
            json!({ "state": "running", "pid": pid, "systemd": unit.as_ref().map(|unit| runs(unit, pid)), "service": details.as_ref().ok() }),
        );
    } else {
        term::say(match pid {
            Some(pid) => format!("cell is running, pid {pid}"),
            None => "cell is running, its pid is not known (it is starting, or its pidfile was deleted)".to_owned(),
        });
        match details {
            Ok(details) => show(&details),
            Err(error) => term::warn(&format!("the service does not tell how it is: {error}")),
        }
        if let Some(unit) = &unit {
            tell_manager(unit, pid);
        }
    }
    Exit::Success
}

/// Asks the service itself. In a thread that is left behind where even connecting hangs: a stuck service may have a full queue of callers.
pub(super) fn ask(home: &Home) -> io::Result<ServiceStatus> {
    let (sender, receiver) = mpsc::channel();
    let path = home.status_socket();
    std::thread::spawn(move || {
        // Nobody listens any more when the answer comes too late.
        let _ = sender.send(read_status(&path));
    });
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")))
}

fn read_status(socket: &Path) -> io::Result<ServiceStatus> {
    let client = at_short_path(socket, |short| UnixStream::connect(short))?;
    let mut text = String::new();
    client.take(LONGEST).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn show(status: &ServiceStatus) {
    let address = status.local_address.map_or("none yet".to_owned(), |address| address.to_string());
    let core = match (status.core.as_deref(), status.core_address) {
        (None, _) => "none yet, looking for one".to_owned(),
        (Some(core), None) => format!("joined {}", one_line(core)),
        (Some(core), Some(address)) => format!("joined {} at {address}", one_line(core)),
    };
    let rows = [
        ("name", one_line(&status.name)),
        ("version", one_line(&status.version)),
        ("uptime", term::duration(Duration::from_secs(status.uptime_s))),
        ("address", address),
        ("domain", format!("{}, group {}", one_line(&status.domain), status.group)),
        ("core", core),
        ("guests", guests(status)),
        ("requests", format!("{}, {} failed, {} of them late", status.requests, status.failed_requests, status.late_requests)),
    ];
    for (name, value) in rows {
        term::say(format_args!("  {name:<8} {value}"));
    }
    for held in &status.held_guests {
        term::say(format_args!("  {:<8} {}", "held", one_line(held)));
    }
}

/// Whether systemd runs this process.
fn runs(unit: &Unit, pid: Option<i32>) -> bool {
    unit.main_pid.is_some() && unit.main_pid == pid
}

fn tell_manager(unit: &Unit, pid: Option<i32>) {
    if runs(unit, pid) {
        term::say(format_args!("  {:<8} systemd ({UNIT})", "run by"));
    } else {
        term::warn(&format!("systemd did not start this service and does not watch it; `cell restart` has {UNIT} do that"));
    }
}

fn guests(status: &ServiceStatus) -> String {
    let lost = if status.lost_guests > 0 { format!(", {} lost (see the log)", status.lost_guests) } else { String::new() };
    format!("{}, {} of them running{lost}", status.guests, status.running_guests)
}
