//! `cell run`: the service in the foreground, for systemd and debugging.

use std::error::Error;
use std::io::{self, IsTerminal};

use super::args::RunOptions;
use super::service::{self, Service};
use super::{start, term, Exit};
use crate::app::Started;
use crate::config;
use crate::process::pidfile::{InstanceLock, PidfileError};
use crate::process::{error_chain, notify, one_line, Home};

pub(super) fn run(home: &Home, options: &RunOptions, service: Service) -> Exit {
    if let Err(error) = home.prepare() {
        return refuse(Exit::Config, &error);
    }
    let lock = match InstanceLock::acquire(home) {
        Ok(lock) => lock,
        Err(error) => {
            // For `start` one that runs is success; here the caller wanted this process to be the service, and trying again won't make it so. A
            // full disk is another matter.
            let exit = if matches!(error, PidfileError::Running(_)) { Exit::Config } else { Exit::Failure };
            return refuse(exit, &error);
        }
    };
    let mut prepared = match service::prepare(home) {
        Ok(prepared) => prepared,
        Err(error) => return refuse(Exit::Config, &*error),
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
        Ok(()) => {
            notify::status("ended in order");
            Exit::Success
        }
        Err(reason) => {
            // What `systemctl status` shows beside the exit status.
            notify::status(&one_line(&reason));
            term::fail_with(&reason);
            Exit::Failure
        }
    }
}

/// Tells both, who typed this and systemd, why the service was not begun.
fn refuse(exit: Exit, error: &(dyn Error + 'static)) -> Exit {
    notify::status(&one_line(&error_chain(error)));
    term::fail(error);
    exit
}

fn ready(started: &Started) {
    start::announce(started);
    notify::ready(&started.line());
}
