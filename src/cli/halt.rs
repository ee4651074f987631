//! `cell halt`: ends a service that does not listen any more. It can't tell the Core; guests are not its children and go on.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::stop::{self, Ended};
use super::{term, Exit};
use crate::process::systemd::Unit;
use crate::process::Home;

/// The kernel needs no longer, unless the process hangs in a device.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn halt(home: &Home) -> Exit {
    let ended = match stop::end(home, Signal::SIGKILL, LIMIT) {
        Ok(ended) => ended,
        Err(error) => {
            term::fail(&error);
            return Exit::Failure;
        }
    };
    // systemd takes this end for a failure and would start the service again.
    if Unit::of(home).is_some_and(|unit| unit.active) {
        if let Err(error) = Unit::stop() {
            term::fail(&error);
            return Exit::Failure;
        }
    }
    match ended {
        Ended::Now(pid) => term::say(format_args!("cell killed (pid {pid}); guests go on running")),
        Ended::Before(cleaned) => stop::say_stopped(cleaned),
    }
    Exit::Success
}
