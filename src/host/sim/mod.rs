//! A host in memory: guests, volumes and a bridge without libvirt, for tests of what stands above the host traits and for nodes with
//! thousands of guests on a small machine.
//!
//! Contract: it answers as libvirt would, errors included, and tells the same events. What goes wrong is asked for beforehand: an
//! operation that fails ([`SimHost::fail_next`], [`SimHost::fail_at`]) before or after it took effect, a guest whose operations hang, a
//! full disk, a lost connection, a guest started or stopped behind the node's back. Time is tokio's, so a test with paused time is
//! instant. [`SimHost::state`] is all there is of the host, comparable: a transaction that was rolled back leaves it as it was.

mod disks;
mod edits;
mod faults;
mod images;
mod merges;
mod process;
mod share;
mod survey;
mod traits;
mod world;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, Notify};
use tokio::task::JoinSet;

use super::{Bridge, Host, HostEvent, Neighbour};
use crate::model::{GuestId, PowerState, SecurityPolicy};

pub use disks::{SimBefore, SimLayer};
pub use faults::{Effect, Fault, Operation};
pub use images::{SimImage, SimPart};
pub use process::SimProcess;
pub use share::{ShareState, SimShare};
pub use world::{SimDomain, SimPool, SimState, VOLUME_OVERHEAD};

use faults::Plan;
use world::World;
#[cfg(test)]
use world::EVENT_QUEUE;

/// The simulated host. Clones are the same host.
#[derive(Clone)]
pub struct SimHost {
    inner: Arc<Inner>,
}

struct Inner {
    world: Mutex<World>,
    plan: Mutex<Plan>,
    bridge: Mutex<Bridge>,
    process: Mutex<SimProcess>,
    /// Wakes the operations that hang.
    released: Notify,
    /// Not yet taken.
    events: Mutex<Option<mpsc::Receiver<HostEvent>>>,
    /// Guests on their way down; ended with the host.
    shutdowns: Mutex<JoinSet<()>>,
}

impl SimHost {
    /// An empty host: connected, no latency, 1 TiB of disk, bridge `br0` with 127.0.0.1.
    pub fn new() -> Self {
        let mut world = World::new();
        let receiver = world.new_queue();
        let bridge = Bridge { name: "br0".into(), index: 1, mac: [0x02, 0, 0, 0, 0, 1], address: Some(std::net::Ipv4Addr::LOCALHOST) };
        Self {
            inner: Arc::new(Inner {
                world: Mutex::new(world),
                plan: Mutex::new(Plan::default()),
                bridge: Mutex::new(bridge),
                process: Mutex::default(),
                released: Notify::new(),
                events: Mutex::new(Some(receiver)),
                shutdowns: Mutex::new(JoinSet::new()),
            }),
        }
    }

    /// It as the host traits.
    pub fn host(&self) -> Host {
        let this = Arc::new(self.clone());
        Host {
            hypervisor: this.clone(),
            storage: this.clone(),
            disks: this.clone(),
            network: this.clone(),
            images: this.clone(),
            shared: this,
        }
    }

    /// All there is of it now.
    pub fn state(&self) -> SimState {
        let mut world = self.inner.world.lock();
        world.pull();
        world.state.clone()
    }

    /// Operations begun so far, failed ones included.
    pub fn operations(&self) -> u64 {
        self.inner.plan.lock().begun()
    }

    /// Which operations failed on demand so far, by their numbers as [`SimHost::operations`] counts.
    pub fn faults_met(&self) -> Vec<u64> {
        self.inner.plan.lock().met()
    }

    /// The next operation of this kind that has no fault yet fails. Several calls queue up.
    pub fn fail_next(&self, operation: Operation, fault: impl Into<Fault>) {
        self.inner.plan.lock().fail_next(operation, fault.into());
    }

    /// The `nth` operation from now, whatever it is, fails; 1 is the next one. With [`SimHost::operations`] of a run that succeeds, a test
    /// can let each step fail in turn.
    pub fn fail_at(&self, nth: u64, fault: impl Into<Fault>) {
        self.inner.plan.lock().fail_at(nth, fault.into());
    }

    /// Takes back faults that were not reached.
    pub fn clear_faults(&self) {
        self.inner.plan.lock().clear();
    }

    /// How long each operation of this kind takes.
    pub fn set_latency(&self, operation: Operation, latency: Duration) {
        self.inner.plan.lock().latency.insert(operation, latency);
    }

    /// After this time an operation ends in [`super::ErrorKind::Unknown`] (default 10 s).
    pub fn set_deadline(&self, deadline: Duration) {
        self.inner.plan.lock().deadline = deadline;
    }

    /// From now on what is asked of this guest waits, up to the deadline; its state can still be read.
    pub fn hang(&self, id: GuestId) {
        self.inner.plan.lock().hung.insert(id);
    }

    /// Ends [`SimHost::hang`]; what waits goes on.
    pub fn release(&self, id: GuestId) {
        self.inner.plan.lock().hung.remove(&id);
        self.inner.released.notify_waiters();
    }

    /// How long a guest takes to shut down once asked (default 1 s); `None`: guests ignore the request.
    pub fn set_shutdown_time(&self, time: Option<Duration>) {
        self.inner.plan.lock().shutdown_time = time;
    }

    /// libvirtd goes away: [`HostEvent::Disconnected`], and what needs it is unavailable. Guests run on, and so do images and servers.
    pub fn disconnect(&self, reason: &str) {
        self.inner.world.lock().disconnect(reason);
    }

    /// libvirtd goes away when the `nth` operation from now is asked for; 1 is the next one.
    pub fn disconnect_at(&self, nth: u64) {
        self.inner.plan.lock().leave_at(nth);
    }

    /// False while libvirtd is away.
    pub fn is_connected(&self) -> bool {
        self.inner.world.lock().connected()
    }

    /// libvirtd is back: [`HostEvent::Connected`] with everything.
    pub fn connect(&self) {
        self.inner.world.lock().connect();
    }

    /// Somebody else starts or stops a guest; nothing happens when there is no such domain.
    pub fn set_power_behind(&self, id: GuestId, running: bool) {
        let power = if running { PowerState::Running } else { PowerState::Stopped };
        self.inner.world.lock().set_power(id, power);
    }

    /// A guest's QEMU dies, with what it held back of its images.
    pub fn kill_behind(&self, id: GuestId) {
        let mut world = self.inner.world.lock();
        world.forget_held_back(id);
        world.set_power(id, PowerState::Stopped);
    }

    /// Somebody else changes a guest's filter; nothing happens when there is no such domain.
    pub fn set_filter_behind(&self, id: GuestId, policy: Option<SecurityPolicy>) {
        if let Some(domain) = self.inner.world.lock().state.domains.get_mut(&id) {
            domain.filter = policy;
        }
    }

    /// Somebody else changes the host, and nobody is told.
    pub fn change(&self, change: impl FnOnce(&mut SimState)) {
        change(&mut self.inner.world.lock().state);
    }

    /// A guest's write to this disk finds no space, and QEMU holds the guest; nothing happens when it does not run.
    pub fn hold_behind(&self, id: GuestId, disk: &str) {
        self.inner.world.lock().hold(id, disk);
    }

    /// Somebody else removes a domain, running or not.
    pub fn undefine_behind(&self, id: GuestId) {
        self.inner.world.lock().forget(id);
    }

    /// Size of the disk in bytes. Each volume takes [`VOLUME_OVERHEAD`] of it.
    pub fn set_disk_size(&self, bytes: u64) {
        self.inner.world.lock().disk_size = bytes;
    }

    /// Paths under this one can't be read.
    pub fn set_unreadable(&self, path: &str) {
        self.inner.world.lock().unreadable.push(path.into());
    }

    /// The guest's agent answers to the command of this name with this JSON, while it runs.
    pub fn set_agent_answer(&self, id: GuestId, command: &str, answer: &str) {
        self.inner.world.lock().agents.entry(id).or_default().insert(command.into(), answer.into());
    }

    /// The neighbours that the kernel knows of.
    pub fn set_neighbours(&self, neighbours: Vec<Neighbour>) {
        self.inner.world.lock().neighbours = neighbours;
    }

    /// Neighbours that the kernel gets to know once it asks for them.
    pub fn set_quiet_neighbours(&self, neighbours: Vec<Neighbour>) {
        self.inner.world.lock().quiet_neighbours = neighbours;
    }

    /// The commands that reached the guest's agent, oldest first.
    pub fn agent_commands(&self, id: GuestId) -> Vec<String> {
        let world = self.inner.world.lock();
        world.agent_commands.iter().filter(|(guest, _)| *guest == id).map(|(_, command)| command.clone()).collect()
    }

    /// An image server has this image from now on.
    pub fn put_image(&self, id: &str, image: SimImage) {
        self.inner.world.lock().servers.insert(id.into(), image);
    }

    /// An image server has this media image of so many bytes from now on.
    pub fn put_media(&self, id: &str, size: u64) {
        self.inner.world.lock().media.insert(id.into(), size);
    }

    /// Somebody else changes what is in a running guest's drive.
    pub fn set_media_behind(&self, id: GuestId, file: Option<String>) {
        if let Some(domain) = self.inner.world.lock().state.domains.get_mut(&id) {
            domain.media = file;
        }
    }

    /// What was uploaded so far: image id -> path of the disk that it was made from.
    pub fn uploads(&self) -> std::collections::BTreeMap<String, String> {
        self.inner.world.lock().uploads.clone()
    }

    /// Replaces the bridge.
    pub fn set_bridge(&self, bridge: Bridge) {
        *self.inner.bridge.lock() = bridge;
    }
}

impl Default for SimHost {
    fn default() -> Self {
        Self::new()
    }
}
