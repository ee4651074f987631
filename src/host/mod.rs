//! What the node needs of its host, as traits: hypervisor, storage, disk images, network and image servers.
//!
//! Contract: implementations are `libvirt` (hypervisor and pools), `storage` (files, images of disks and their transfers), `network` (bridge) and,
//! for tests and scale, `sim` with injected faults. Every operation is idempotent and says whether it changed something. An operation past its
//! deadline ends in [`ErrorKind::Unknown`]: it may still happen, so the caller reconciles and never assumes failure. One guest's stuck operation
//! delays no other guest.

pub mod agent;
pub mod cloudinit;
mod disks;
mod error;
mod guests;
pub mod libvirt;
pub mod network;
pub mod platform;
pub mod sim;
pub mod storage;
mod survey;
mod transfer;
mod types;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::model::{Claim, GuestConfig, GuestId, Pool};

pub use disks::{DiskImage, Disks, LongJob};
pub use error::{ErrorKind, HostError};
pub use guests::*;
pub use survey::*;
pub use transfer::Transfer;
pub use types::*;

/// Result of a host operation.
pub type Result<T> = std::result::Result<T, HostError>;

/// Domains, their filters and their events.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Every domain of the host with its state, in one call.
    async fn domains(&self) -> Result<Vec<DomainStatus>>;

    /// State of one domain; [`ErrorKind::NotFound`] when there is none.
    async fn domain(&self, id: GuestId) -> Result<DomainStatus>;

    /// Defines the filter and the domain of a guest (contract §11.2, §11.3). All or nothing.
    async fn define(&self, guest: &GuestConfig) -> Result<()>;

    /// Removes the domain and its filter; unchanged when there is none. Refused while it runs ([`ErrorKind::Busy`]).
    async fn undefine(&self, id: GuestId) -> Result<Change>;

    /// Starts a defined domain; unchanged when it runs already.
    async fn start(&self, id: GuestId) -> Result<Change>;

    /// Starts a defined domain with this file in its CD drive, for this run only; unchanged when it runs already.
    async fn start_with_media(&self, id: GuestId, file: &str) -> Result<Change>;

    /// Puts a file into the CD drive of a running domain, or empties it, until it stops; unchanged when it is so already.
    async fn set_media(&self, id: GuestId, file: Option<&str>) -> Result<Change>;

    /// The file in the CD drive of a running domain.
    async fn media(&self, id: GuestId) -> Result<Option<String>>;

    /// Asks the guest to shut down (ACPI); returns when asked, not when done.
    async fn shutdown(&self, id: GuestId) -> Result<()>;

    /// Asks the guest to reboot (ACPI).
    async fn reboot(&self, id: GuestId) -> Result<()>;

    /// Presses the reset button.
    async fn reset(&self, id: GuestId) -> Result<()>;

    /// Ends the QEMU process; unchanged when there is none.
    async fn destroy(&self, id: GuestId) -> Result<Change>;

    /// libvirt's autostart flag.
    async fn set_autostart(&self, id: GuestId, enable: bool) -> Result<Change>;

    /// Changes one thing of a domain's definition and nothing else of it, and of the running domain where that is possible.
    async fn reconfigure(&self, id: GuestId, edit: &DomainEdit) -> Result<Applied>;

    /// Counters of a running domain. May wait for a busy guest: never call it on the way of another guest's request.
    async fn sample(&self, id: GuestId) -> Result<DomainSample>;

    /// Makes a guest's filter as its configuration wants it (security policy, MAC, assigned addresses); a running guest feels it at once.
    async fn update_filter(&self, guest: &GuestConfig) -> Result<Change>;

    /// Sends a command (JSON) to the guest agent and gives its answer (JSON). [`ErrorKind::Unsupported`] when the guest has no agent that listens;
    /// an agent that does not answer within `deadline` ends in [`ErrorKind::Unknown`].
    async fn agent(&self, id: GuestId, command: &str, deadline: Duration) -> Result<String>;

    /// Tells a running guest that the disk at `path` has `capacity` bytes now; the image grows with it. Unchanged when it has them already.
    async fn resize_disk(&self, id: GuestId, path: &str, capacity: u64) -> Result<Change>;

    /// Gives disks of the domain's permanent definition other volumes of the same pool, as (present, new) names; what runs goes on as it is.
    async fn change_volumes(&self, id: GuestId, volumes: &[(String, String)]) -> Result<Change>;

    /// A running guest goes on with other images, as (present, new) paths, all at the same moment; each new one is there, is empty and is based on
    /// its present one. Unchanged when it uses them already. [`ErrorKind::Unknown`] leaves open which ones it uses: both show the same.
    /// `freeze`: the guest's agent is told to freeze the file systems meanwhile, and to thaw them afterwards whatever happened; whether it did
    /// is not part of the result.
    async fn switch_disks(&self, id: GuestId, images: &[(String, String)], freeze: bool) -> Result<Change>;

    /// Running guests that QEMU holds because a disk could not be written or read. Asks their monitors only, and none that does not answer
    /// keeps the others from being told.
    async fn held(&self) -> Result<Vec<HeldGuest>>;

    /// Lets a guest go on that is held for that reason; unchanged when it is not, whoever else has paused it.
    async fn resume(&self, id: GuestId) -> Result<Change>;

    /// Every domain of the host with its permanent definition.
    async fn definitions(&self) -> Result<Vec<DefinedDomain>>;

    /// Every filter that bears a guest's name, whether there is such a guest or not.
    async fn filters(&self) -> Result<Vec<GuestFilter>>;

    /// Whether the guest's filter is as [`Hypervisor::update_filter`] would make it.
    async fn filter_state(&self, guest: &GuestConfig) -> Result<FilterState>;
    /// Lets the QEMU of a running guest begin to take an image out of the chain below a disk; the guest goes on and sees no difference, and neither
    /// does one that starts again after it broke off at any moment. Changed when it has begun or is under way, unchanged when the chain is so
    /// already. Whether it was done, the images tell: what a failed job leaves can be begun again.
    async fn begin_merge(&self, id: GuestId, merge: &LiveMerge) -> Result<Change>;

    /// How far the job on the disk at `path` has come; none when none is under way. [`ErrorKind::Busy`] when the guest does not run.
    async fn merge_progress(&self, id: GuestId, path: &str) -> Result<Option<Progress>>;

    /// Brings to the disk what the QEMU of a running guest holds back of the image at `path`, on which its disk is. Until then a QEMU that dies
    /// takes it along, also what a merge has put there. [`ErrorKind::Busy`] when the guest does not run.
    async fn flush_disk(&self, id: GuestId, path: &str) -> Result<()>;

    /// The stream of events: one receiver, taken once. Starts with [`HostEvent::Connected`] and a full list, which is repeated after every reconnect.
    fn take_events(&self) -> Option<mpsc::Receiver<HostEvent>>;
}

/// Pools and volumes.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Defines, builds, starts and marks for autostart a local directory pool; returns what it is. Unchanged when it is there with the same target.
    async fn ensure_local_pool(&self, name: &str, target: &str) -> Result<Pool>;

    /// Defines, mounts and keeps mounted a pool on an NFS export; returns what it is. Unchanged when it is there with the same source, also below
    /// another directory than `target`; [`ErrorKind::Exists`] with another source. It is never marked for autostart: a libvirtd that mounts a dead
    /// server when it starts serves nobody.
    async fn ensure_nfs_pool(&self, name: &str, source: &NfsSource, target: &str) -> Result<Pool>;

    /// Whether the pool can be used right now: active, and a shared one mounted and answering.
    async fn check_pool(&self, name: &str) -> Result<()>;

    /// Has the pool's directory read again, after another host has changed it.
    async fn refresh_pool(&self, name: &str) -> Result<()>;

    /// The pool as libvirt has it, with its volumes' names; [`ErrorKind::NotFound`] when there is none.
    async fn pool(&self, name: &str) -> Result<Pool>;

    /// Stops and undefines a pool. Its files stay, an empty directory is removed, and nothing is touched below one that is still mounted.
    async fn remove_pool(&self, name: &str) -> Result<Change>;

    /// Every pool of the kinds that this node uses.
    async fn pools(&self) -> Result<Vec<PoolStatus>>;

    /// Creates a blank qcow2 volume of `capacity` bytes (contract §11.1).
    async fn create_volume(&self, pool: &str, name: &str, capacity: u64) -> Result<VolumeInfo>;

    /// Deletes a volume; unchanged when there is none.
    async fn delete_volume(&self, pool: &str, name: &str) -> Result<Change>;

    /// Puts a small file beside the volumes, whole or not at all; unchanged when it is there with this content.
    async fn write_file(&self, path: &str, content: Arc<[u8]>) -> Result<Change>;

    /// Removes such a file; unchanged when there is none.
    async fn remove_file(&self, path: &str) -> Result<Change>;

    /// Makes known to everybody who uses the pools beside us what was done in them so far; called before the service ends.
    async fn settle(&self) {}

    /// Free (for unprivileged users) and total bytes of the file systems under `paths`, each file system counted once.
    /// Paths that can't be read are named in the result and do not stop the others.
    async fn space(&self, paths: &[String]) -> DiskSpace;
}

/// System disks from and to the domain's image servers (contract §9.2). Each takes as long as it takes: it ends when it is done, when
/// nothing moves any more, or when its [`Transfer`] is stopped.
#[async_trait]
pub trait Images: Send + Sync {
    /// Fetches a disk image into a file beside the existing disk `disk` (its path), checks it, and grows it to `capacity` bytes. The disk
    /// itself is not touched; on failure nothing is left beside it.
    async fn fetch(&self, image: &ImageLocation, disk: &str, capacity: u64, transfer: &Transfer) -> Result<()>;

    /// Puts what [`Images::fetch`] left beside the disk in its place, in one step.
    async fn install(&self, disk: &str) -> Result<()>;

    /// Removes what a fetch left beside the disk; unchanged when there is nothing.
    async fn discard(&self, disk: &str) -> Result<Change>;

    /// Fetches a media image (contract §9.3) into `directory`, or finds it there as it is on the server; gives its file's path. Its announced size
    /// does not matter.
    async fn fetch_media(&self, media: &ImageLocation, directory: &str, transfer: &Transfer) -> Result<String>;

    /// Removes from `directory` the media images that are neither in `keep` nor to be kept for another time. Not while one is fetched.
    async fn discard_media(&self, directory: &str, keep: &[String]) -> Result<Change>;

    /// Sends a disk's file to the image server; gives its size in bytes. The disk must not change meanwhile.
    async fn upload(&self, disk: &str, image: &ImageLocation, transfer: &Transfer) -> Result<u64>;
}

/// The files about guests in the directory of a shared pool, which all its hosts read and write. A server that does not answer costs the
/// caller some seconds and a bounded number of threads; a directory that is not mounted is [`ErrorKind::Unavailable`].
#[async_trait]
pub trait Shared: Send + Sync {
    /// What is written there about a guest; [`ErrorKind::NotFound`] when nothing is.
    async fn load(&self, directory: &str, id: GuestId) -> Result<SharedGuest>;

    /// Writes down a guest, each file as a whole or not at all.
    async fn save(&self, directory: &str, guest: &SharedGuest) -> Result<()>;

    /// Removes what is written about a guest, its claim included.
    async fn erase(&self, directory: &str, id: GuestId) -> Result<Change>;

    /// Who may run a guest; none when nobody has ever claimed it.
    async fn claim(&self, directory: &str, id: GuestId) -> Result<Option<Claim>>;

    /// Replaces a claim. Its generation must be one more than that of the present one (0 without one): else somebody else was faster, and it is
    /// [`ErrorKind::Busy`].
    async fn set_claim(&self, directory: &str, id: GuestId, claim: &Claim) -> Result<()>;

    /// The boot id of this host.
    fn boot(&self) -> String;
}

/// The bridge that guests are joined to and the domain is reached through.
#[async_trait]
pub trait Network: Send + Sync {
    /// Name, index, MAC and first IPv4 address, read anew on each call.
    fn bridge(&self) -> Result<Bridge>;

    /// Who was heard on the bridge's segment lately: the kernel's neighbour table.
    fn neighbours(&self) -> Result<Vec<Neighbour>>;

    /// Makes the kernel ask who has this address, so that [`Network::neighbours`] knows a little later. Says nothing to the one who has it.
    fn solicit(&self, address: Ipv4Addr) -> Result<()>;
}

/// All of them.
#[derive(Clone)]
pub struct Host {
    /// Domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Volumes.
    pub storage: Arc<dyn Storage>,
    /// Files of volumes.
    pub disks: Arc<dyn Disks>,
    /// Bridge.
    pub network: Arc<dyn Network>,
    /// Image servers.
    pub images: Arc<dyn Images>,
    /// Files about guests in shared pools.
    pub shared: Arc<dyn Shared>,
}

/// An address and the MAC that answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Address.
    pub address: Ipv4Addr,
    /// MAC address.
    pub mac: [u8; 6],
}

/// A Linux bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// For example "br0".
    pub name: String,
    /// Interface index, for multicast membership.
    pub index: u32,
    /// MAC address; all zero on a bridge that lost its last port and was given none of its own.
    pub mac: [u8; 6],
    /// First IPv4 address, when it has one.
    pub address: Option<Ipv4Addr>,
}
