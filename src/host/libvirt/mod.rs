//! The real hypervisor and its storage pools, through libvirt.
//!
//! Contract: the only module that knows the `virt` crate. [`Libvirt`] implements [`Hypervisor`](super::Hypervisor) and
//! [`Storage`](super::Storage):
//!
//! - every call runs on a thread for blocking work, with a deadline, at most one at a time for each guest (`lanes`, `turns`);
//! - connections are watched and re-made (`watcher`, `connection`): after a restart of libvirtd everything works again by itself;
//! - state is told by libvirt's events (`events`), with a full list after every (re)connect; nothing is polled;
//! - nothing here ever ends a running guest but [`destroy`](super::Hypervisor::destroy).

mod block;
mod block_job;
mod capability;
mod connection;
mod domain;
mod edit;
mod error;
mod events;
mod filter;
mod flush;
mod held;
mod hypervisor;
mod lanes;
mod media;
mod merge;
mod nfs;
mod pool;
mod qemu;
mod refresher;
mod sample;
mod storage;
mod survey;
mod turns;
mod volume;
mod watcher;
mod xml;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::model::GuestId;
pub use crate::model::Virtualization;

use super::storage::{Blanks, Space};
use super::{HostEvent, Result};
use connection::Connection;
use domain::Machine;
use lanes::Lanes;
use refresher::Refresher;
use watcher::Watcher;

/// Events that may wait for the service; more make the watcher wait, and beyond its own room, list everything anew.
const EVENTS: usize = 256;

/// Settings of the connection.
#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    /// libvirt's URI, normally "qemu:///system".
    pub uri: String,
    /// How guests are run.
    pub virtualization: Virtualization,
    /// Directory for the serial output of each guest, `<id>.log`, kept small by virtlogd; none when absent.
    pub guest_log_dir: Option<PathBuf>,
    /// How long a call may take before its outcome is reported as unknown. Below the engine's own deadline (10 s), so that it has an answer.
    pub call_timeout: Duration,
    /// The same for ending a QEMU process, which libvirt gives 10 s to end by itself.
    pub kill_timeout: Duration,
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".into(),
            virtualization: Virtualization::Auto,
            guest_log_dir: None,
            call_timeout: Duration::from_secs(9),
            kill_timeout: Duration::from_secs(20),
        }
    }
}

/// This host's libvirt. Dropping it ends the watching; calls that hang are left to themselves.
pub struct Libvirt {
    lanes: Arc<Lanes>,
    shared: Arc<Shared>,
    blanks: Arc<Blanks>,
    space: Space,
    refresher: Refresher,
    events: Mutex<Option<mpsc::Receiver<HostEvent>>>,
    watcher: JoinHandle<()>,
}

/// What calls need beside their connection.
struct Shared {
    virtualization: Virtualization,
    guest_log_dir: Option<PathBuf>,
    machine: Mutex<Option<Machine>>,
}

impl Libvirt {
    /// Connects and begins to watch. Fails with the URI and the reason when libvirt can't be reached now; later interruptions are healed.
    pub async fn connect(config: LibvirtConfig) -> Result<Self> {
        events::start_loop()?;
        let uri: Arc<str> = config.uri.into();
        let lanes = Arc::new(Lanes::new(&uri, config.call_timeout, config.kill_timeout));
        let shared =
            Arc::new(Shared { virtualization: config.virtualization, guest_log_dir: config.guest_log_dir, machine: Mutex::new(None) });
        let (sender, receiver) = mpsc::channel(EVENTS);
        let watcher = Watcher::connect(uri, sender, shared.clone(), config.call_timeout).await?;
        Ok(Self {
            refresher: Refresher::start(lanes.clone()),
            lanes,
            shared,
            blanks: Arc::default(),
            space: Space::default(),
            events: Mutex::new(Some(receiver)),
            watcher: tokio::spawn(watcher.run()),
        })
    }
}

impl Libvirt {
    /// How guests are run on this host, in words ("kvm on /usr/bin/qemu-system-x86_64"). Fails when it can't run any as configured.
    pub async fn runs_guests_as(&self) -> Result<String> {
        let shared = self.shared.clone();
        let ask =
            move |connection: &Connection| shared.machine(connection).map(|machine| format!("{} on {}", machine.kind, machine.emulator));
        self.lanes.run(lanes::Lane::Quick, lanes::Effect::Reads, "ask what guests this host can run".into(), ask).await
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Shared {
    /// What the host offers a guest, asked once a connection.
    fn machine(&self, connection: &Connection) -> Result<Machine> {
        if let Some(machine) = self.machine.lock().clone() {
            return Ok(machine);
        }
        let machine = capability::probe(connection, self.virtualization)?;
        tracing::info!("guests run as {} on {}", machine.kind, machine.emulator);
        *self.machine.lock() = Some(machine.clone());
        Ok(machine)
    }

    /// libvirtd may have been upgraded, and QEMU with it.
    fn forget_machine(&self) {
        *self.machine.lock() = None;
    }

    /// File of a guest's serial output.
    fn console_log(&self, id: GuestId) -> Option<PathBuf> {
        self.guest_log_dir.as_ref().map(|directory| directory.join(format!("{id}.log")))
    }
}
