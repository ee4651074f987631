//! A Core on the lab's Core host, in this very process: its sockets are made by threads that have entered the host's network.

use std::fs::File;
use std::future::Future;
use std::ops::Deref;
use std::time::{Duration, Instant};

use cell::model::GuestId;
use corelet::requests::{CreateGuest, StopMode};
use corelet::{AddressPool, Core, CoreConfig, Event, Events, RequestError, SharedStorage};
use nix::sched::{setns, CloneFlags};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{eventually, Cell, Lab, CORE_ADDRESS};

/// Longest wait for an event that is not about time, and for a Cell that joins: a machine may be slow, and it may stand still for a while.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long a Cell has for a request. The Core waits longer, so that it is the Cell that says what was too slow.
pub(super) const DEADLINE: u64 = 30;
const CORES_DEADLINE: Duration = Duration::from_secs(3 * DEADLINE);

/// Longest wait for an answer to a question that is asked again and again.
const MOMENT: Duration = Duration::from_secs(2);

/// Storage pool of a Core with shared storage.
pub const SHARED_POOL: &str = "nas";

/// A running Core.
pub struct TestCore {
    core: Option<Core>,
    runtime: Runtime,
}

impl Deref for TestCore {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core.as_ref().expect("it runs until it is closed or killed")
    }
}

impl TestCore {
    /// A Core of the domain "nano" that treats a second connection under a known name as the real one does.
    pub fn start(lab: &Lab) -> Self {
        Self::of_domain(lab, "nano")
    }

    /// A Core of another domain.
    pub fn of_domain(lab: &Lab, domain: &str) -> Self {
        Self::configured(lab, |config| config.domain = domain.into())
    }

    /// A Core of the domain "nano" with this name, which listens at this port.
    pub fn named(lab: &Lab, name: &str, port: u16) -> Self {
        Self::configured(lab, |config| {
            config.name = name.into();
            config.ports = port..=port;
        })
    }

    /// A Core of the domain "nano" whose pool gives addresses out of the lab's network in this mode: "dhcp" or "cloudinit".
    pub fn with_addresses(lab: &Lab, mode: &str) -> Self {
        let pool = AddressPool { name: "net0".into(), gateway: CORE_ADDRESS.into(), dns: vec![CORE_ADDRESS.into()], mode: mode.into() };
        Self::configured(lab, |config| config.pool.network = Some(pool))
    }

    /// A Core whose compute pool keeps its disks on the lab's share.
    pub fn with_shared_storage(lab: &Lab) -> Self {
        let storage = SharedStorage { name: SHARED_POOL.into(), host: CORE_ADDRESS.into(), target: "/share".into() };
        Self::configured(lab, |config| config.pool.storage = Some(storage))
    }

    fn configured(lab: &Lab, change: impl FnOnce(&mut CoreConfig)) -> Self {
        let runtime = runtime_inside(&lab.core().holder());
        let mut config = CoreConfig::new(CORE_ADDRESS.parse().expect("an address"));
        config.timeout = CORES_DEADLINE;
        change(&mut config);
        let core = runtime.block_on(runtime.spawn(Core::start(config))).expect("no panic").expect("the Core starts");
        Self { core: Some(core), runtime }
    }

    /// Runs something of the Core to its end.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Starts something in the Core's network and waits for it.
    pub fn inside<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(future)).expect("no panic")
    }

    /// Waits until the Cell has joined and taken its pool, and answers: one that has just died counts as there until the Core misses it.
    pub fn joined(&self, cell: &Cell) -> Duration {
        let (name, begun) = (cell.name(), Instant::now());
        self.wait(self.wait_cell(Some(&name), PATIENCE)).unwrap_or_else(|error| panic!("{error}"));
        eventually("the Cell answers", PATIENCE, || {
            let asked = async { timeout(MOMENT, self.query_storage(&name)).await };
            matches!(self.wait(asked), Ok(Ok(_)))
        });
        begun.elapsed()
    }

    /// Waits for an event about the guest.
    pub fn expect(&self, events: &mut Events, what: &str, fits: impl FnMut(&Event) -> bool) -> Duration {
        self.wait(events.wait(PATIENCE, fits)).unwrap_or_else(|error| panic!("{what}: {error}")).at
    }

    /// A guest of 32 MiB with a bootable disk.
    pub fn bootable_guest(&self, cell: &Cell, name: &str) -> GuestId {
        let guest = self.blank_guest(cell, name);
        cell.make_bootable(guest);
        guest
    }

    /// A guest of 32 MiB with a blank disk of 1 MiB. The name gets a suffix: cgroups of guests are shared by the labs of a machine.
    pub fn blank_guest(&self, cell: &Cell, name: &str) -> GuestId {
        let request = CreateGuest { memory: 32 << 20, ..CreateGuest::blank(&format!("{name}-{}", std::process::id()), 1 << 20) };
        self.wait(self.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id
    }

    /// Starts a guest and waits until it has printed its line once more.
    pub fn boot(&self, cell: &Cell, guest: GuestId) {
        let boots = cell.boots(guest);
        let mut events = self.events();
        self.wait(self.start_guest(&cell.name(), guest)).unwrap();
        self.expect(&mut events, "started", |event| event.is_started(guest));
        cell.wait_boots(guest, boots + 1);
    }

    /// Stops a guest and waits until it is stopped.
    pub fn halt(&self, cell: &Cell, guest: GuestId, mode: StopMode) {
        let mut events = self.events();
        self.wait(self.stop_guest(&cell.name(), guest, mode)).unwrap();
        self.expect(&mut events, "stopped", |event| event.is_stopped(guest));
    }

    /// Deletes a guest and waits until it is gone.
    pub fn remove(&self, cell: &Cell, guest: GuestId) {
        let mut events = self.events();
        self.wait(self.delete_guest(&cell.name(), guest)).unwrap();
        self.expect(&mut events, "deleted", |event| event.is_deleted(guest));
    }

    /// Whether the guest runs, as its Cell says now.
    pub fn running(&self, cell: &Cell, guest: GuestId) -> Result<bool, RequestError> {
        self.wait(self.get_status(&cell.name(), guest)).map(|status| status.running)
    }

    /// Whether the guest runs, when its Cell says so at once; for questions that are asked until it does.
    pub fn says(&self, cell: &Cell, guest: GuestId, runs: bool) -> bool {
        let name = cell.name();
        let asked = async { timeout(MOMENT, self.get_status(&name, guest)).await };
        matches!(self.wait(asked), Ok(Ok(status)) if status.running == runs)
    }

    /// Ends it as a crash would: nobody is told.
    pub fn crash(mut self) {
        if let Some(core) = self.core.take() {
            self.runtime.block_on(async { core.kill() });
        }
    }
}

/// A runtime whose threads live in the network of a host. The thread that makes it enters first, and threads inherit that.
fn runtime_inside(holder: &str) -> Runtime {
    let network = File::open(format!("/proc/{holder}/ns/net")).expect("the host's network");
    let build = move || {
        setns(network, CloneFlags::CLONE_NEWNET).expect("entering the host's network");
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    };
    std::thread::spawn(build).join().expect("no panic")
}
