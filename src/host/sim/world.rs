//! What there is on the simulated host, and libvirt's rules for changing it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;

use super::super::{
    agent, Change, DiskSpace, DomainSample, DomainStatus, ErrorKind, FailedDisk, HostError, HostEvent, Neighbour, NfsSource, Result,
    VolumeInfo,
};
use super::disks::SimLayer;
use super::images::{SimImage, SimPart};
use super::merges::{Merge, MergePlan};
use super::share::{next_host, SimShare};
use crate::model::{GuestConfig, GuestId, Pool, PoolMode, PowerState, SecurityPolicy};

/// Bytes that an empty volume takes on the disk (the tables of a qcow2 file with preallocated metadata).
pub const VOLUME_OVERHEAD: u64 = 256 << 10;

const TIB: u64 = 1 << 40;

/// Events that may wait for the node; beyond that it gets the full list instead.
pub(super) const EVENT_QUEUE: usize = 65_536;

/// Everything on the host that outlives an operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimState {
    /// Domains.
    pub domains: BTreeMap<GuestId, SimDomain>,
    /// Pools by name.
    pub pools: BTreeMap<String, SimPool>,
    /// Directories of pools, also of removed ones that were not empty: volume name -> virtual size in bytes.
    pub directories: BTreeMap<String, BTreeMap<String, u64>>,
    /// Small files by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What images hold, by path; one without an entry is blank.
    pub layers: BTreeMap<String, SimLayer>,
    /// Disks that hold an image, by path: its id.
    pub contents: BTreeMap<String, String>,
    /// Images that lie beside a disk, by the disk's path.
    pub parts: BTreeMap<String, SimPart>,
    /// Filters of guests that have no domain.
    pub stray_filters: BTreeSet<GuestId>,
}

/// A domain and its filter.
#[derive(Clone, Debug, PartialEq)]
pub struct SimDomain {
    /// What it was defined with.
    pub config: GuestConfig,
    /// File in the CD drive, while it runs.
    pub media: Option<String>,
    /// What QEMU runs with; none while it does not run.
    pub live: Option<GuestConfig>,
    /// Runs or not.
    pub power: PowerState,
    /// libvirt's autostart flag.
    pub autostart: bool,
    /// What the filter holds now.
    pub filter: Option<SecurityPolicy>,
    /// There is a filter.
    pub filtered: bool,
    /// The disk because of which QEMU holds it.
    pub held: Option<FailedDisk>,
    /// Its agent has frozen its file systems.
    pub frozen: bool,
}

/// A pool: a directory, or an export that is mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimPool {
    /// UUID.
    pub id: GuestId,
    /// Directory.
    pub target: String,
    /// The export of a shared pool.
    pub source: Option<NfsSource>,
    /// A shared pool that is not mounted can't be used.
    pub active: bool,
    /// Started with the host.
    pub autostart: bool,
}

/// The state and what goes with it.
pub(super) struct World {
    pub(super) state: SimState,
    pub(super) disk_size: u64,
    pub(super) unreadable: Vec<String>,
    /// Images that can be fetched, by id.
    pub(super) servers: BTreeMap<String, SimImage>,
    /// Disks that were sent, by image id.
    pub(super) uploads: BTreeMap<String, String>,
    /// Media images that can be fetched, by id: bytes.
    pub(super) media: BTreeMap<String, u64>,
    /// What can be mounted.
    pub(super) exports: Vec<(NfsSource, SimShare)>,
    /// Boot id.
    pub(super) boot: String,
    number: u64,
    connected: bool,
    events: mpsc::Sender<HostEvent>,
    /// Events count from the moment they are taken.
    listening: bool,
    /// The queue was full: the next event is the whole list.
    overflowed: bool,
    started: BTreeMap<GuestId, Instant>,
    pools_made: u8,
    /// What each guest's agent answers to a command.
    pub(super) agents: BTreeMap<GuestId, BTreeMap<String, String>>,
    /// Heard on the bridge.
    pub(super) neighbours: Vec<Neighbour>,
    /// On the bridge, heard once they are asked for.
    pub(super) quiet_neighbours: Vec<Neighbour>,
    /// What the agents were told.
    pub(super) agent_commands: Vec<(GuestId, String)>,
    /// Block jobs under way.
    pub(super) merges: Vec<Merge>,
    /// How block jobs go.
    pub(super) merge_plan: MergePlan,
    /// Images that QEMU has changed and nobody has brought to the disk, by path: what is on the disk.
    pub(super) unsynced: BTreeMap<String, SimLayer>,
    /// Images into which QEMU has merged and whose tables it has not written, by path: the blocks that are found without them.
    pub(super) held_back: BTreeMap<String, BTreeMap<u64, u64>>,
}

impl World {
    pub(super) fn new() -> Self {
        // Replaced before anybody listens.
        let (events, _) = mpsc::channel(1);
        Self {
            state: SimState::default(),
            disk_size: TIB,
            unreadable: Vec::new(),
            servers: BTreeMap::new(),
            uploads: BTreeMap::new(),
            media: BTreeMap::new(),
            exports: Vec::new(),
            boot: "first boot".into(),
            number: next_host(),
            connected: true,
            events,
            listening: false,
            overflowed: false,
            started: BTreeMap::new(),
            pools_made: 0,
            agents: BTreeMap::new(),
            neighbours: Vec::new(),
            quiet_neighbours: Vec::new(),
            agent_commands: Vec::new(),
            merges: Vec::new(),
            merge_plan: MergePlan::default(),
            unsynced: BTreeMap::new(),
            held_back: BTreeMap::new(),
        }
    }

    /// Events go to a new queue, to which nobody listens yet.
    pub(super) fn new_queue(&mut self) -> mpsc::Receiver<HostEvent> {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        (self.events, self.listening, self.overflowed) = (events, false, false);
        receiver
    }

    pub(super) fn connected(&self) -> bool {
        self.connected
    }

    pub(super) fn listen(&mut self) {
        self.listening = true;
        if self.connected {
            self.emit(HostEvent::Connected(self.domains()));
        }
    }

    pub(super) fn disconnect(&mut self, reason: &str) {
        if self.connected {
            self.emit(HostEvent::Disconnected(reason.into()));
            self.connected = false;
        }
    }

    pub(super) fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.emit(HostEvent::Connected(self.domains()));
        }
    }

    pub(super) fn emit(&mut self, event: HostEvent) {
        if !self.connected || !self.listening {
            return;
        }
        let event = if self.overflowed { HostEvent::Connected(self.domains()) } else { event };
        self.overflowed = matches!(self.events.try_send(event), Err(TrySendError::Full(_)));
    }

    pub(super) fn domains(&self) -> Vec<DomainStatus> {
        self.state.domains.iter().map(|(id, domain)| status(*id, domain)).collect()
    }

    pub(super) fn domain(&self, id: GuestId) -> Result<DomainStatus> {
        Ok(status(id, self.get(id)?))
    }

    pub(super) fn define(&mut self, guest: &GuestConfig) -> Result<()> {
        if guest.cores == 0 || guest.memory == 0 || guest.name.is_empty() {
            return Err(HostError::new(ErrorKind::Invalid, format!("guest '{}' needs a name, cores and memory", guest.name)));
        }
        if let Some(domain) = self.state.domains.get(&guest.id) {
            return if domain.config == *guest { Ok(()) } else { Err(exists("domain", &guest.id)) };
        }
        if self.state.domains.values().any(|domain| domain.config.name == guest.name) {
            return Err(exists("domain", &guest.name));
        }
        let domain = SimDomain {
            config: guest.clone(),
            media: None,
            live: None,
            power: PowerState::Stopped,
            autostart: false,
            filter: guest.security.clone(),
            filtered: true,
            held: None,
            frozen: false,
        };
        self.state.stray_filters.remove(&guest.id);
        self.state.domains.insert(guest.id, domain);
        self.emit(HostEvent::Defined(guest.id));
        Ok(())
    }

    pub(super) fn undefine(&mut self, id: GuestId) -> Result<Change> {
        match self.state.domains.get(&id) {
            None => Ok(changed(self.state.stray_filters.remove(&id))),
            Some(domain) if domain.power == PowerState::Running => {
                Err(HostError::new(ErrorKind::Busy, format!("can't undefine domain {id}: it is running")))
            }
            Some(_) => {
                self.forget(id);
                Ok(Change::Changed)
            }
        }
    }

    /// Removes a domain whatever it does.
    pub(super) fn forget(&mut self, id: GuestId) {
        self.set_power(id, PowerState::Stopped);
        if self.state.domains.remove(&id).is_some() {
            self.emit(HostEvent::Undefined(id));
        }
    }

    pub(super) fn start(&mut self, id: GuestId) -> Result<Change> {
        let domain = self.get(id)?;
        let volumes = self.state.pools.get(&domain.config.storage_pool).and_then(|pool| self.state.directories.get(&pool.target));
        if let Some(missing) = domain.config.storage_volumes.iter().find(|name| !volumes.is_some_and(|all| all.contains_key(*name))) {
            return Err(not_found("volume", &format!("{}/{missing}", domain.config.storage_pool)));
        }
        Ok(self.set_power(id, PowerState::Running))
    }

    pub(super) fn destroy(&mut self, id: GuestId) -> Result<Change> {
        self.get(id)?;
        Ok(self.set_power(id, PowerState::Stopped))
    }

    pub(super) fn set_power(&mut self, id: GuestId, power: PowerState) -> Change {
        let Some(domain) = self.state.domains.get_mut(&id) else { return Change::Unchanged };
        if domain.power == power {
            return Change::Unchanged;
        }
        self.end_merges();
        self.flush_all(id);
        let Some(domain) = self.state.domains.get_mut(&id) else { return Change::Unchanged };
        domain.power = power;
        (domain.held, domain.frozen) = (None, false);
        domain.live = (power == PowerState::Running).then(|| domain.config.clone());
        if power == PowerState::Running {
            self.started.insert(id, Instant::now());
        } else {
            domain.media = None;
            self.started.remove(&id);
        }
        if let Some(share) = self.share_of_guest(id) {
            share.note_power(id, self.number, power == PowerState::Running);
        }
        self.emit(HostEvent::Power { id, power });
        Change::Changed
    }

    /// When a guest was started; an error unless it runs.
    pub(super) fn running(&self, id: GuestId) -> Result<Instant> {
        self.get(id)?;
        let started = self.started.get(&id).copied();
        started.ok_or_else(|| HostError::new(ErrorKind::Busy, format!("domain {id} is not running")))
    }

    pub(super) fn set_autostart(&mut self, id: GuestId, enable: bool) -> Result<Change> {
        let domain = self.get_mut(id)?;
        Ok(changed(std::mem::replace(&mut domain.autostart, enable) != enable))
    }

    /// What libvirt does when the host comes up. One that can't be started stays as it is.
    pub(super) fn start_marked(&mut self) {
        let marked = self.state.domains.iter().filter(|(_, domain)| domain.autostart);
        for id in marked.map(|(id, _)| *id).collect::<Vec<_>>() {
            let _ = self.start(id);
        }
    }

    pub(super) fn update_filter(&mut self, id: GuestId, policy: Option<&SecurityPolicy>) -> Result<Change> {
        let domain = self.get_mut(id)?;
        let different = domain.filter.as_ref() != policy || !domain.filtered;
        (domain.filter, domain.filtered) = (policy.cloned(), true);
        Ok(changed(different))
    }

    /// The agent of a running guest.
    pub(super) fn agent(&mut self, id: GuestId, command: &str) -> Result<String> {
        self.running(id)?;
        let answer = self.agent_answer(id, command)?;
        if [agent::FREEZE, agent::THAW].contains(&command) {
            self.get_mut(id)?.frozen = command == agent::FREEZE;
        }
        Ok(answer)
    }

    fn agent_answer(&self, id: GuestId, command: &str) -> Result<String> {
        let name =
            serde_json::from_str::<serde_json::Value>(command).ok().and_then(|command| Some(command.get("execute")?.as_str()?.to_owned()));
        let answer = name.and_then(|name| self.agents.get(&id)?.get(&name).cloned());
        answer.ok_or_else(|| HostError::new(ErrorKind::Unsupported, format!("guest {id} has no agent that answers")))
    }

    pub(super) fn write_file(&mut self, path: &str, content: &[u8]) -> Change {
        changed(self.state.files.insert(path.into(), content.to_vec()).as_deref() != Some(content))
    }

    pub(super) fn remove_file(&mut self, path: &str) -> Change {
        changed(self.state.files.remove(path).is_some())
    }

    pub(super) fn solicit(&mut self, address: Ipv4Addr) {
        let (heard, quiet) = self.quiet_neighbours.drain(..).partition(|neighbour| neighbour.address == address);
        self.quiet_neighbours = quiet;
        self.neighbours.extend::<Vec<_>>(heard);
    }

    pub(super) fn resize_disk(&mut self, id: GuestId, path: &str, capacity: u64) -> Result<Change> {
        self.running(id)?;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let size = self.state.directories.get_mut(directory).and_then(|files| files.get_mut(name));
        let size = size.ok_or_else(|| not_found("image", &path))?;
        Ok(changed(std::mem::replace(size, capacity) != capacity))
    }

    pub(super) fn change_volumes(&mut self, id: GuestId, volumes: &[(String, String)]) -> Result<Change> {
        let mut change = Change::Unchanged;
        for name in &mut self.get_mut(id)?.config.storage_volumes {
            if let Some((_, new)) = volumes.iter().find(|(present, _)| present == name) {
                name.clone_from(new);
                change = Change::Changed;
            }
        }
        Ok(change)
    }

    pub(super) fn switch_disks(&mut self, id: GuestId, images: &[(String, String)]) -> Result<Change> {
        self.running(id)?;
        for (present, new) in images {
            let based = self.state.layers.get(new).and_then(|layer| layer.backing.as_ref());
            if based != Some(present) {
                return Err(HostError::new(ErrorKind::Invalid, format!("{new} is not based on {present}")));
            }
        }
        Ok(Change::Changed)
    }

    /// A guest that keeps a tenth of its CPUs busy, half of its memory free, and moves 1 MiB/s each way.
    pub(super) fn sample(&self, id: GuestId) -> Result<DomainSample> {
        let up = self.running(id)?.elapsed();
        let config = &self.get(id)?.config;
        let moved = u64::try_from(up.as_millis()).unwrap_or(u64::MAX).saturating_mul(1 << 10);
        let nanoseconds = u64::try_from(up.as_nanos()).unwrap_or(u64::MAX);
        Ok(DomainSample {
            cpu_time_ns: (nanoseconds / 10).saturating_mul(config.cores.into()),
            cpus: config.cores,
            memory_available: config.memory / 2,
            disk_available: config.disks.iter().map(|size| size.saturating_sub(VOLUME_OVERHEAD)).sum(),
            disk_read: moved,
            disk_written: moved,
            net_received: moved,
            net_sent: moved,
        })
    }

    pub(super) fn ensure_local_pool(&mut self, name: &str, target: &str) -> Result<Pool> {
        if !target.starts_with('/') || name.is_empty() || name.contains('/') {
            return Err(HostError::new(ErrorKind::Invalid, format!("pool '{name}' can't be at '{target}'")));
        }
        match self.state.pools.get_mut(name) {
            Some(pool) if pool.target != target || pool.source.is_some() => return Err(exists("pool", &name)),
            Some(pool) => (pool.active, pool.autostart) = (true, true),
            None => {
                self.pools_made = self.pools_made.wrapping_add(1);
                let id = GuestId::from_bytes([self.pools_made; 16]);
                self.state.pools.insert(name.into(), SimPool { id, target: target.into(), source: None, active: true, autostart: true });
                self.state.directories.entry(target.into()).or_default();
            }
        }
        self.pool(name)
    }

    pub(super) fn pool(&self, name: &str) -> Result<Pool> {
        let pool = self.state.pools.get(name).ok_or_else(|| not_found("pool", &name))?;
        let volumes = self.state.directories.get(&pool.target).into_iter().flatten().map(|(volume, _)| (volume.clone(), true)).collect();
        let source = pool.source.clone();
        let mode = if source.is_some() { PoolMode::Nfs } else { PoolMode::Local };
        let (source_host, source_target) = source.map(|source| (source.host, source.path)).unwrap_or_default();
        let (name, id, target) = (name.into(), pool.id.to_string(), pool.target.clone());
        Ok(Pool { name, id, mode, target, source_host, source_target, volumes, ..Pool::default() })
    }

    pub(super) fn ensure_nfs_pool(&mut self, name: &str, source: &NfsSource, target: &str) -> Result<Pool> {
        match self.state.pools.get_mut(name) {
            Some(pool) if pool.source.as_ref() != Some(source) => return Err(exists("pool", &name)),
            Some(pool) => (pool.active, pool.autostart) = (true, false),
            None => {
                let refused = || HostError::new(ErrorKind::Failed, format!("{}:{} can't be mounted", source.host, source.path));
                self.export(source).ok_or_else(refused)?;
                self.pools_made = self.pools_made.wrapping_add(1);
                let id = GuestId::from_bytes([self.pools_made; 16]);
                self.state.pools.insert(
                    name.into(),
                    SimPool { id, target: target.into(), source: Some(source.clone()), active: true, autostart: false },
                );
            }
        }
        self.pull();
        self.pool(name)
    }

    pub(super) fn check_pool(&self, name: &str) -> Result<()> {
        let pool = self.state.pools.get(name).ok_or_else(|| not_found("pool", &name))?;
        if pool.active {
            return Ok(());
        }
        Err(HostError::new(ErrorKind::Unavailable, format!("pool {name} is not mounted")))
    }

    /// Runs an operation with the files of mounted exports in their directories.
    pub(super) fn act<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        self.pull();
        let result = act(self);
        for (target, share) in self.mounts() {
            let volumes = self.state.directories.get(&target).cloned().unwrap_or_default();
            share.change(|state| state.volumes = volumes);
        }
        result
    }

    /// Fills the directories of mounted exports.
    pub(super) fn pull(&mut self) {
        for (target, share) in self.mounts() {
            self.state.directories.insert(target, share.state().volumes);
        }
    }

    fn mounts(&self) -> Vec<(String, SimShare)> {
        let mounted = self.state.pools.values().filter(|pool| pool.active);
        mounted.filter_map(|pool| Some((pool.target.clone(), self.export(pool.source.as_ref()?)?))).collect()
    }

    /// What is mounted at a directory.
    pub(super) fn mounted_at(&self, directory: &str) -> Option<SimShare> {
        self.mounts().into_iter().find_map(|(target, share)| (target == directory).then_some(share))
    }

    pub(super) fn export(&self, source: &NfsSource) -> Option<SimShare> {
        self.exports.iter().find_map(|(present, share)| (present == source).then(|| share.clone()))
    }

    pub(super) fn share_of_pool(&self, name: &str) -> Option<SimShare> {
        self.export(self.state.pools.get(name)?.source.as_ref()?)
    }

    pub(super) fn share_of_guest(&self, id: GuestId) -> Option<SimShare> {
        self.share_of_pool(&self.state.domains.get(&id)?.config.storage_pool)
    }

    pub(super) fn remove_pool(&mut self, name: &str) -> Change {
        let Some(pool) = self.state.pools.remove(name) else { return Change::Unchanged };
        // An export keeps its files; the empty directory below it goes.
        if pool.source.is_some() || self.state.directories.get(&pool.target).is_some_and(BTreeMap::is_empty) {
            self.state.directories.remove(&pool.target);
        }
        Change::Changed
    }

    pub(super) fn create_volume(&mut self, pool: &str, name: &str, capacity: u64) -> Result<VolumeInfo> {
        let free = self.free();
        let (target, volumes) = self.directory(pool)?;
        if name.is_empty() || name.contains('/') {
            return Err(HostError::new(ErrorKind::Invalid, format!("'{name}' is no name for a volume")));
        }
        if volumes.contains_key(name) {
            return Err(exists("volume", &format!("{pool}/{name}")));
        }
        if free < VOLUME_OVERHEAD {
            return Err(HostError::new(ErrorKind::NoSpace, format!("can't create volume {pool}/{name}: no space left")));
        }
        volumes.insert(name.into(), capacity);
        let path = format!("{target}/{name}");
        Ok(VolumeInfo { key: path.clone(), path, capacity })
    }

    pub(super) fn delete_volume(&mut self, pool: &str, name: &str) -> Result<Change> {
        let (target, volumes) = self.directory(pool)?;
        let removed = volumes.remove(name).is_some();
        self.state.layers.remove(&format!("{target}/{name}"));
        self.state.contents.remove(&format!("{target}/{name}"));
        Ok(changed(removed))
    }

    pub(super) fn space(&self, paths: &[String]) -> DiskSpace {
        let (unreadable, readable): (Vec<&String>, Vec<&String>) =
            paths.iter().partition(|path| self.unreadable.iter().any(|bad| path.starts_with(bad.as_str())));
        let unreadable = unreadable.into_iter().map(|path| format!("{path}: Input/output error")).collect();
        if readable.is_empty() {
            return DiskSpace { unreadable, ..DiskSpace::default() };
        }
        DiskSpace { free: self.free(), total: self.disk_size, unreadable }
    }

    pub(super) fn free(&self) -> u64 {
        let volumes = self.state.directories.values().flatten();
        volumes.fold(self.disk_size, |free, _| free.saturating_sub(VOLUME_OVERHEAD))
    }

    fn directory(&mut self, pool: &str) -> Result<(String, &mut BTreeMap<String, u64>)> {
        let target = self.state.pools.get(pool).ok_or_else(|| not_found("pool", &pool))?.target.clone();
        let volumes = self.state.directories.entry(target.clone()).or_default();
        Ok((target, volumes))
    }

    pub(super) fn get(&self, id: GuestId) -> Result<&SimDomain> {
        self.state.domains.get(&id).ok_or_else(|| not_found("domain", &id))
    }

    pub(super) fn get_mut(&mut self, id: GuestId) -> Result<&mut SimDomain> {
        self.state.domains.get_mut(&id).ok_or_else(|| not_found("domain", &id))
    }
}

fn status(id: GuestId, domain: &SimDomain) -> DomainStatus {
    DomainStatus { id, name: domain.config.name.clone(), power: domain.power, autostart: domain.autostart }
}

pub(super) fn changed(yes: bool) -> Change {
    if yes {
        Change::Changed
    } else {
        Change::Unchanged
    }
}

pub(super) fn not_found(what: &str, which: &dyn std::fmt::Display) -> HostError {
    HostError::new(ErrorKind::NotFound, format!("there is no {what} {which}"))
}

pub(super) fn exists(what: &str, which: &dyn std::fmt::Display) -> HostError {
    HostError::new(ErrorKind::Exists, format!("there is another {what} {which} already"))
}
