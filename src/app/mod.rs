//! The composition root: the only place that joins the parts into the service, and ends it in order.
//!
//! Contract: everything is built from the settings before anything is joined; what can't be built is an [`AppError`] with
//! its reason. Every task is owned and named; one that ends by itself begins an orderly end. The orderly end: no new requests are begun,
//! those under way get their time, stragglers are named, the Core is told, the books are written, the run mark goes. Guests run on.

pub mod doctor;
mod guests_net;
mod health;
mod prepare;
mod report;
mod service;
mod supervisor;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{CellSettings, DomainSettings};
use crate::host::HostError;
use crate::net::NetError;
use crate::process::{one_line, Home};
use crate::store::StoreError;

/// Everything the service is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its files are.
    pub home: Home,
    /// `config/domain.cfg`.
    pub domain: DomainSettings,
    /// `config/cell.cfg`.
    pub cell: CellSettings,
}

/// What is said of a service that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The node's name in the domain.
    pub name: String,
    /// The node's address; none while the bridge has none.
    pub local_address: Option<Ipv4Addr>,
    /// Multicast group and port.
    pub group: SocketAddrV4,
    /// The domain.
    pub domain: String,
    /// The Core that was joined; none when none has answered yet.
    pub core: Option<String>,
}

impl Started {
    /// The same in a line, as `systemctl status` shows it. The Core's name comes from outside.
    pub fn line(&self) -> String {
        let core = self.core.as_deref().map_or("looking for a Core".to_owned(), |core| format!("joined {}", one_line(core)));
        format!("{} in domain {}, {core}", one_line(&self.name), one_line(&self.domain))
    }
}

/// The service could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The runtime or a signal handler could not be made.
    #[error("the system refuses what the service needs")]
    System(#[source] io::Error),
    /// The data directory can't be used.
    #[error("data directory")]
    Store(#[source] StoreError),
    /// The host is not ready for guests.
    #[error("{what}")]
    Host {
        /// What is missing.
        what: &'static str,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The domain can't be reached.
    #[error("the domain can't be asked")]
    Network(#[source] NetError),
    /// A part of the service ended by itself.
    #[error("{task} ended unexpectedly ({reason}); the service ends, guests run on")]
    Task {
        /// Its name.
        task: &'static str,
        /// How.
        reason: String,
    },
}

/// Runs the service until it is told to end. `on_ready` is called once, when it is up: a Core has taken it, or none answered so far.
pub fn run(settings: Settings, on_ready: impl FnOnce(&Started)) -> Result<(), AppError> {
    crate::faults::set_up();
    run_to_end(service::run(settings, on_ready))?
}

/// Runs one future on a runtime of its own. A call into libvirt or to a dead file server does not hold up the end.
fn run_to_end<T>(work: impl Future<Output = T>) -> Result<T, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("cell-blocking")
        .build()
        .map_err(AppError::System)?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(result)
}

/// Asks which Cores the domain has, for as long as `patience`; joins none.
pub fn discover(domain: &DomainSettings, cell: &CellSettings, patience: Duration) -> Result<BTreeSet<SocketAddrV4>, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::System)?;
    let asked = crate::net::discover(*domain.group.ip(), domain.group.port(), &domain.domain, &cell.bridge, patience);
    runtime.block_on(asked).map_err(AppError::Network)
}

/// Threads for file and libvirt work, made when they are needed. The lanes into libvirt take some twenty at most, and each file server that does not answer keeps
/// eight at most: several of those leave enough for `data/`.
const BLOCKING_THREADS: usize = 64;
