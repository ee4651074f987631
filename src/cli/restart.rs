//! `cell restart`: stop, then start. A service that does not stop is not started again.

use std::time::Duration;

use super::service::Service;
use super::{start, stop, Exit};
use crate::process::Home;

pub(super) fn restart(home: &Home, timeout: Duration, service: Service) -> Exit {
    match stop::stop(home, timeout) {
        Exit::Success => start::start(home, service),
        failed => failed,
    }
}
