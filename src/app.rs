//! The composition root: joins the parts into the service and ends it in order.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::config::{CellSettings, DomainSettings};
use crate::process::signals::Signals;
use crate::process::{notify, Home};

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

/// The service could not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The runtime refused.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// Runs the service until it is told to end. `on_ready` is called once, when it is up.
pub fn run(settings: Settings, on_ready: impl FnOnce(&Started)) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(AppError::Runtime)?;
        on_ready(&Started {
            name: settings.cell.bridge.clone(),
            local_address: None,
            group: settings.domain.group,
            domain: settings.domain.domain.clone(),
            core: None,
        });
        signals.shutdown().await;
        notify::stopping();
        Ok(())
    })
}
