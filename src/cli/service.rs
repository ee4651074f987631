//! What `start` and `run` have in common: the way from a home to a running service and to its last log line.

use std::error::Error;
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::{first_run, term};
use crate::app::{Settings, Started};
use crate::config::{self, ConfigError};
use crate::process::logfile::{self, Limits, LogOptions};
use crate::process::pidfile::InstanceLock;
use crate::process::{dumps, error_chain, panics, Home};

/// Called once when the service is up.
pub type OnReady = Box<dyn FnOnce(&Started) + Send>;

/// The service: runs until it is told to end; an error says why it could not start or go on.
pub type Service = fn(Settings, OnReady) -> Result<(), Box<dyn Error + Send + Sync>>;

/// Settings with what was strange about them.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    pub(super) warnings: Vec<String>,
}

/// Reads the settings of a home that we hold; makes those that a first start lacks. Warnings are shown.
pub(super) fn prepare(home: &Home) -> Result<Prepared, Box<dyn Error>> {
    let domain = match config::load_domain(&home.domain_cfg()) {
        Err(ConfigError::Missing(_)) => {
            first_run::create_domain_cfg(home)?;
            config::load_domain(&home.domain_cfg())?
        }
        other => other?,
    };
    let cell = config::load_cell(&home.cell_cfg())?;
    let warnings: Vec<String> = domain.warnings.into_iter().chain(cell.warnings).collect();
    for warning in &warnings {
        term::warn(warning);
    }
    Ok(Prepared { settings: Settings { home: home.clone(), domain: domain.settings, cell: cell.settings }, warnings })
}

/// Is the service until its end. The lock is given back last, when the log is written.
///
/// The error is the reason in one line; it is in the log already.
pub(super) fn serve(prepared: Prepared, mut lock: InstanceLock, stderr: bool, service: Service, on_ready: OnReady) -> Result<(), String> {
    let Prepared { settings, warnings } = prepared;
    lock.publish().map_err(|error| error_chain(&error))?;
    let log = &settings.cell.log;
    let options = LogOptions {
        path: settings.home.log_file(),
        filter: log.filter.clone(),
        limits: Limits { days: log.days, file_bytes: log.file_bytes, total_bytes: log.total_bytes },
        stderr,
    };
    let guard = logfile::init(options).map_err(|error| error_chain(&error))?;
    panics::log_panics();
    dumps::forbid();
    tracing::info!("cell {} starts in {} as process {}", env!("CARGO_PKG_VERSION"), settings.home.dir().display(), std::process::id());
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let result = match catch_unwind(AssertUnwindSafe(|| service(settings, on_ready))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&*error)),
        Err(_) => Err("the service met a defect of its own; the log tells where".to_owned()),
    };
    match &result {
        Ok(()) => tracing::info!("cell has ended"),
        Err(reason) => tracing::error!("cell ends: {reason}"),
    }
    drop(guard);
    drop(lock);
    result
}
