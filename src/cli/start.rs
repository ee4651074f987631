//! `cell start`: puts the service into the background, or has systemd start it, and returns when it is up or has failed.

use std::time::Duration;

use super::service::{self, Prepared, Service};
use super::{status, term, Exit};
use crate::app::Started;
use crate::process::detach::{detach, Reporter, Side, StartFailure, Waiter};
use crate::process::pidfile::{self, InstanceLock, PidfileError, State};
use crate::process::systemd::{Unit, UNIT};
use crate::process::{error_chain, logfile, Home};

/// A start that takes longer is left alone in the background: its own steps have their own, shorter limits.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a service that was killed may take to end.
const DYING: Duration = Duration::from_secs(15);

pub(super) fn start(home: &Home, service: Service) -> Exit {
    // Before anything is made or read: where a service runs already, nothing is touched.
    match pidfile::probe_patiently(home, DYING) {
        Ok(State::Stopped { .. }) => {}
        Ok(State::Running { pid: Some(pid) }) if pidfile::is_dead(pid) => {
            term::fail_with(&format!(
                "start failed: the last service, pid {pid}, was killed and can't end, perhaps for a disk that does not answer"
            ));
            return Exit::Failure;
        }
        Ok(State::Running { pid }) => return already_running(pid),
        Err(error) => {
            term::fail(&error);
            return Exit::Failure;
        }
    }
    if let Err(error) = home.prepare() {
        term::fail(&error);
        return Exit::Config;
    }
    let lock = match InstanceLock::acquire(home) {
        Ok(lock) => lock,
        Err(PidfileError::Running(pid)) => return already_running(pid),
        Err(error) => {
            term::fail(&error);
            return Exit::Failure;
        }
    };
    let prepared = match service::prepare(home) {
        Ok(prepared) => prepared,
        Err(error) => {
            term::fail(&*error);
            return Exit::Config;
        }
    };
    if Unit::of(home).is_some() {
        drop(lock);
        return by_systemd(home);
    }
    match detach(home.dir()) {
        Ok(Side::Caller(waiter)) => {
            lock.leave_to_child();
            wait(home, waiter)
        }
        Ok(Side::Service(reporter)) => be_service(prepared, lock, &reporter, service),
        Err(error) => {
            term::fail(&error);
            Exit::Failure
        }
    }
}

/// The unit's own start: it has the sandbox, the watchdog and the end with the host that a child of this shell would not have.
fn by_systemd(home: &Home) -> Exit {
    if let Err(error) = Unit::start() {
        // The service's own words say more than systemd's.
        let (reason, again) = match Unit::of(home) {
            Some(unit) if !unit.status.is_empty() => (unit.status, unit.active),
            unit => (error_chain(&error), unit.is_some_and(|unit| unit.active)),
        };
        let again = if again { "; systemd goes on trying until `cell stop`" } else { "" };
        term::fail_with(&format!("start failed: {reason}{again}"));
        return Exit::Failure;
    }
    if let Ok(status) = status::ask(home) {
        announce(&Started {
            name: status.name,
            local_address: status.local_address,
            group: status.group,
            domain: status.domain,
            core: status.core,
        });
    }
    term::say(format_args!("cell started by systemd ({UNIT})"));
    Exit::Success
}

fn already_running(pid: Option<i32>) -> Exit {
    match pid {
        Some(pid) => term::say(format_args!("cell is already running, pid {pid}")),
        None => term::say("cell is already running or being started by somebody else"),
    }
    Exit::Success
}

fn be_service(prepared: Prepared, lock: InstanceLock, reporter: &Reporter, service: Service) -> Exit {
    let up = reporter.clone();
    let on_ready = Box::new(move |started: &Started| up.started(&(std::process::id(), started)));
    match service::serve(prepared, lock, false, service, on_ready) {
        Ok(()) => Exit::Success,
        Err(reason) => {
            reporter.failed(&reason);
            Exit::Failure
        }
    }
}

fn wait(home: &Home, waiter: Waiter) -> Exit {
    match waiter.wait::<(u32, Started)>(LIMIT) {
        Ok((pid, started)) => {
            announce(&started);
            term::say(format_args!("cell started, pid {pid}"));
            Exit::Success
        }
        Err(failure) => {
            let where_to_look = match failure {
                StartFailure::Reason(_) => String::new(),
                StartFailure::Died | StartFailure::Timeout(_) => format!("; {}", logfile::hint(&home.log_file())),
            };
            term::fail_with(&format!("start failed: {failure}{where_to_look}"));
            Exit::Failure
        }
    }
}

/// What the reference prints as well.
pub(super) fn announce(started: &Started) {
    term::say(format_args!("Cell {}", env!("CARGO_PKG_VERSION")));
    match started.local_address {
        Some(address) => term::say(format_args!("service {} at {address}", started.name)),
        None => term::say(format_args!("service {}, without an address yet", started.name)),
    }
    term::say(format_args!("group {}, domain '{}'", started.group, started.domain));
    match &started.core {
        Some(core) => term::say(format_args!("joined {core}")),
        None => term::say("no Core has answered yet; the service goes on looking for one"),
    }
}
