//! `cell run`: the service in the foreground, for systemd and debugging.

use std::io::{self, IsTerminal};

use super::args::RunOptions;
use super::service::{self, Service};
use super::{start, term, Exit};
use crate::app::Started;
use crate::config;
use crate::process::pidfile::{InstanceLock, PidfileError};
use crate::process::{notify, Home};

pub(super) fn run(home: &Home, options: &RunOptions, service: Service) -> Exit {
    if let Err(error) = home.prepare() {
        term::fail(&error);
        return Exit::Config;
    }
    let lock = match InstanceLock::acquire(home) {
        Ok(lock) => lock,
        Err(error) => {
            // For `start` that is success; here the caller wanted this process to be the service.
            term::fail(&error);
            return if matches!(error, PidfileError::Running(_)) { Exit::Failure } else { Exit::Config };
        }
    };
    let mut prepared = match service::prepare(home) {
        Ok(prepared) => prepared,
        Err(error) => {
            term::fail(&*error);
            return Exit::Config;
        }
    };
    if let Some(level) = &options.log_level {
        match config::log_filter(level) {
            Ok(filter) => prepared.settings.cell.log.filter = filter,
            Err(reason) => {
                term::fail_with(&format!("--log-level {reason}"));
                return Exit::Config;
            }
        }
    }
    let stderr = options.log_stderr || io::stderr().is_terminal();
    match service::serve(prepared, lock, stderr, service, Box::new(ready)) {
        Ok(()) => Exit::Success,
        Err(reason) => {
            term::fail_with(&reason);
            Exit::Failure
        }
    }
}

fn ready(started: &Started) {
    start::announce(started);
    let core = started.core.as_deref().map_or("looking for a Core".to_owned(), |core| format!("joined {core}"));
    notify::ready(&format!("{} in domain {}, {core}", started.name, started.domain));
}
