//! The node's books in memory: guests, volumes, network assignments; what `data/` holds is written from here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::model::{
    Guest, GuestConfig, GuestId, InstanceBook, NetworkBook, Origin, Pool, PoolMode, PowerState, Resource, StorageBook, VolumeGroup,
    LOCAL_POOL,
};
use crate::store::{encode, DataFile, Loaded, Source, StoreError};
use crate::txn::{secrets, Failure};

/// First monitor port; guest ports are this and the `max_guest - 1` that follow (contract §11.4).
const FIRST_MONITOR_PORT: u16 = 5901;

/// Everything that is known, under one lock that is never held across a call to the host.
pub struct Books {
    inner: Mutex<Inner>,
}

/// The books while locked.
pub struct Inner {
    /// All guests.
    pub guests: BTreeMap<GuestId, Guest>,
    /// Assignments.
    pub network: NetworkBook,
    /// Pools and volume groups.
    pub storage: StorageBook,
    /// Guests that have come from another host and of which the Core has yet to be told.
    pub arrivals: BTreeMap<GuestId, Origin>,
    /// `instance.data` but for its guests: pool of new guests and limit.
    instance: InstanceBook,
    /// What creates that are under way hold.
    reserved: BTreeMap<GuestId, Reserved>,
}

/// Where a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its file.
    pub path: String,
    /// Its pool.
    pub pool: String,
}

struct Reserved {
    name: String,
    resource: Resource,
}

impl Books {
    /// From what was loaded. Guests are taken as lost until the hypervisor's list says otherwise.
    pub fn new(loaded: Loaded) -> Self {
        let mut instance = loaded.instance;
        let guests: BTreeMap<GuestId, Guest> = std::mem::take(&mut instance.instances)
            .into_iter()
            .map(|config| (config.id, Guest { power: PowerState::Lost, ..Guest::new(config) }))
            .collect();
        let mut arrivals = std::mem::take(&mut instance.arrivals);
        arrivals.retain(|id, _| guests.contains_key(id));
        let (network, storage) = (loaded.network, loaded.storage);
        let mut inner = Inner { guests, network, storage, arrivals, instance, reserved: BTreeMap::new() };
        inner.sync_resources();
        Self { inner: Mutex::new(inner) }
    }

    /// Access to everything; keep it short and never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// A copy of one guest; cheap, the configuration is shared.
    pub fn guest(&self, id: GuestId) -> Result<Guest, Failure> {
        self.inner.lock().guests.get(&id).cloned().ok_or(Failure::NoSuchGuest(id))
    }
}

impl Inner {
    /// Gives every guest its entry in `network.data`, and drops entries without a guest (contract §8.6, §14 D9).
    fn sync_resources(&mut self) {
        let guests = &self.guests;
        self.network.resources.retain(|id, _| guests.contains_key(id));
        for (id, guest) in guests {
            let config = &guest.config;
            let entry = self.network.resources.entry(*id).or_default();
            entry.monitor_port = config.monitor_port;
            entry.hardware_address.clone_from(&config.hardware_address);
            if entry.internal_address.is_empty() {
                entry.internal_address.clone_from(&config.internal_address);
            }
            if entry.external_address.is_empty() {
                entry.external_address.clone_from(&config.external_address);
            }
        }
    }

    /// Replaces a guest's configuration.
    pub fn update(&mut self, id: GuestId, change: impl FnOnce(&mut GuestConfig)) -> Result<(), Failure> {
        let guest = self.guests.get_mut(&id).ok_or(Failure::NoSuchGuest(id))?;
        change(Arc::make_mut(&mut guest.config));
        Ok(())
    }

    /// Sets a name, a monitor port and a MAC aside for a guest that is being created.
    pub fn reserve(&mut self, id: GuestId, name: &str, internal: &str, external: &str) -> Result<Resource, Failure> {
        if self.guests.contains_key(&id) || self.reserved.contains_key(&id) {
            return Err(Failure::refused(format!("guest {id} exists already")));
        }
        if let Some(other) = self.guest_named(name) {
            return Err(Failure::refused(format!("the name '{name}' is taken by guest {other}")));
        }
        let resource = Resource {
            monitor_port: self.free_monitor_port()?,
            hardware_address: self.free_mac()?,
            internal_address: internal.to_owned(),
            external_address: external.to_owned(),
        };
        self.reserved.insert(id, Reserved { name: name.to_owned(), resource: resource.clone() });
        Ok(resource)
    }

    /// The guest that has this name or is being created with it.
    pub fn guest_named(&self, name: &str) -> Option<GuestId> {
        let present = self.guests.values().find(|guest| guest.config.name == name).map(|guest| guest.config.id);
        present.or_else(|| self.reserved.iter().find(|(_, reserved)| reserved.name == name).map(|(id, _)| *id))
    }

    fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.network.resources.values().chain(self.reserved.values().map(|reserved| &reserved.resource))
    }

    fn free_monitor_port(&self) -> Result<u16, Failure> {
        let taken: BTreeSet<u16> = self.resources().map(|resource| resource.monitor_port).collect();
        let count = self.instance.max_guest.min(u32::from(u16::MAX - FIRST_MONITOR_PORT) + 1);
        let start = secrets::below(count)?;
        (0..count)
            .filter_map(|step| u16::try_from((start + step) % count).ok())
            .map(|offset| FIRST_MONITOR_PORT + offset)
            .find(|port| !taken.contains(port))
            .ok_or_else(|| {
                Failure::refused(format!(
                    "no monitor port is free: this cell holds {count} guests at most (max_guest in data/instance.data)"
                ))
            })
    }

    fn free_mac(&self) -> Result<String, Failure> {
        loop {
            let mac = secrets::mac()?;
            if !self.resources().any(|resource| resource.hardware_address == mac) {
                return Ok(mac);
            }
        }
    }

    /// The shared pool of a guest's volumes; none for a guest of a local pool.
    pub fn shared_pool(&self, config: &GuestConfig) -> Option<&Pool> {
        self.storage.pools.get(&config.storage_pool).filter(|pool| pool.mode == PoolMode::Nfs)
    }

    /// The shared pool of new guests; none while they are local.
    pub fn current_shared(&self) -> Option<&Pool> {
        self.storage.pools.get(&self.storage.current_pool).filter(|pool| pool.mode == PoolMode::Nfs)
    }

    /// Directories whose free space new guests can have (contract §14 B11).
    pub fn disk_paths(&self) -> Vec<String> {
        self.current_shared().map_or_else(|| self.storage.system_paths.clone(), |pool| vec![pool.target.clone()])
    }

    /// Every shared pool.
    pub fn shared_pools(&self) -> Vec<Pool> {
        self.storage.pools.values().filter(|pool| pool.mode == PoolMode::Nfs).cloned().collect()
    }

    /// How many guests have volumes in a pool.
    pub fn guests_in(&self, pool: &str) -> usize {
        let within = |id: &GuestId, group: &VolumeGroup| {
            group.volumes().any(|volume| volume.pool == pool) || self.guests.get(id).is_some_and(|guest| guest.config.storage_pool == pool)
        };
        self.storage.groups.iter().filter(|(id, group)| within(id, group)).count()
    }

    /// New guests go to this shared pool.
    pub fn use_shared(&mut self, pool: Pool) {
        self.storage.mode = "nfs".into();
        self.storage.current_pool.clone_from(&pool.name);
        self.instance.storage_pool.clone_from(&pool.name);
        self.instance.storage_url.clone_from(&pool.target);
        let volumes = self.storage.pools.get(&pool.name).map(|known| known.volumes.clone()).unwrap_or_default();
        self.storage.pools.insert(pool.name.clone(), Pool { volumes, ..pool });
    }

    /// New guests go to the local pool, in both books (contract §14 B19); false when there is none.
    pub fn use_local(&mut self) -> bool {
        let mut local = self.storage.pools.values().filter(|pool| pool.mode == PoolMode::Local).map(|pool| pool.name.clone());
        let Some(name) = local.find(|name| name == LOCAL_POOL).or_else(|| local.next()) else { return false };
        self.storage.mode = "local".into();
        self.instance.storage_pool.clone_from(&name);
        self.instance.storage_url.clear();
        self.storage.current_pool = name;
        true
    }

    /// Where new guests go, and the pools; to be put back by [`Inner::restore_layout`].
    pub fn layout(&self) -> (StorageBook, InstanceBook) {
        (StorageBook { groups: BTreeMap::new(), ..self.storage.clone() }, self.instance.clone())
    }

    /// Puts a former layout back; pools that are there keep the volumes that they have now.
    pub fn restore_layout(&mut self, storage: &StorageBook, instance: &InstanceBook) {
        let present = std::mem::take(&mut self.storage);
        let mut storage = StorageBook { groups: present.groups, ..storage.clone() };
        for (name, pool) in present.pools {
            if let Some(restored) = storage.pools.get_mut(&name) {
                restored.volumes = pool.volumes;
            }
        }
        (self.storage, self.instance) = (storage, instance.clone());
    }

    /// True for a shared pool that holds no guest and takes no new ones.
    pub fn is_unused(&self, pool: &str) -> bool {
        self.storage.pools.get(pool).is_some_and(|pool| pool.mode == PoolMode::Nfs)
            && self.storage.current_pool != pool
            && self.guests_in(pool) == 0
    }

    /// Sets name and MAC of a guest that comes from another host aside, and a monitor port of ours.
    pub fn reserve_moved(&mut self, config: &GuestConfig) -> Result<Resource, Failure> {
        let resource = self.reserve(config.id, &config.name, &config.internal_address, &config.external_address)?;
        let mac = &config.hardware_address;
        let taken =
            self.network.resources.values().chain(self.reserved.iter().filter(|(id, _)| **id != config.id).map(|(_, held)| &held.resource));
        if taken.into_iter().any(|resource| resource.hardware_address == *mac) {
            self.cancel(config.id);
            return Err(Failure::refused(format!("another guest of this cell has the MAC address {mac}")));
        }
        let resource = Resource { hardware_address: mac.clone(), ..resource };
        if let Some(reserved) = self.reserved.get_mut(&config.id) {
            reserved.resource.clone_from(&resource);
        }
        Ok(resource)
    }

    /// A monitor port for a guest that has come here: its own, unless another guest has that by now.
    pub fn port_for(&self, id: GuestId, own: u16) -> Result<u16, Failure> {
        let assigned = self.network.resources.iter().filter(|(other, _)| **other != id).map(|(_, resource)| resource);
        let reserved = self.reserved.iter().filter(|(other, _)| **other != id).map(|(_, reserved)| &reserved.resource);
        let is_taken = assigned.chain(reserved).any(|resource| resource.monitor_port == own);
        if is_taken {
            return self.free_monitor_port();
        }
        Ok(own)
    }

    /// The guest's system disk; the reference may have left its path out.
    pub fn system_disk(&self, id: GuestId) -> Option<Disk> {
        let volume = &self.storage.groups.get(&id)?.system;
        let path = match volume.path.as_str() {
            "" if volume.name.is_empty() => return None,
            "" => format!("{}/{}", self.storage.pools.get(&volume.pool)?.target, volume.name),
            path => path.to_owned(),
        };
        Some(Disk { path, pool: volume.pool.clone() })
    }

    /// Gives back what a failed create had set aside.
    pub fn cancel(&mut self, id: GuestId) {
        self.reserved.remove(&id);
    }

    /// Enters a created guest; its reservation becomes an assignment.
    pub fn insert(&mut self, guest: Guest, volumes: VolumeGroup) {
        let id = guest.config.id;
        if let Some(reserved) = self.reserved.remove(&id) {
            self.network.resources.insert(id, reserved.resource);
        }
        enter_in(&mut self.storage.pools, &volumes);
        self.storage.groups.insert(id, volumes);
        self.guests.insert(id, guest);
    }

    /// Puts back what is missing of a guest that was in the books.
    pub fn restore_guest(&mut self, guest: Guest, volumes: &VolumeGroup, resource: Option<Resource>) {
        let id = guest.config.id;
        self.reserved.remove(&id);
        self.network.resources.extend(resource.map(|resource| (id, resource)));
        let volumes = self.storage.groups.entry(id).or_insert_with(|| volumes.clone());
        enter_in(&mut self.storage.pools, volumes);
        self.guests.entry(id).or_insert(guest);
    }

    /// Replaces what is known of a guest's volumes, if anything is.
    pub fn replace_volumes(&mut self, id: GuestId, group: VolumeGroup) {
        if let Some(before) = self.storage.groups.get(&id) {
            strike_from(&mut self.storage.pools, before);
        }
        enter_in(&mut self.storage.pools, &group);
        self.storage.groups.insert(id, group);
    }

    /// Strikes a guest with all that it held.
    pub fn remove(&mut self, id: GuestId) {
        self.guests.remove(&id);
        self.arrivals.remove(&id);
        self.network.resources.remove(&id);
        if let Some(group) = self.storage.groups.remove(&id) {
            strike_from(&mut self.storage.pools, &group);
        }
    }
}

/// The pools list the volumes of a group.
fn enter_in(pools: &mut BTreeMap<String, Pool>, group: &VolumeGroup) {
    for volume in group.volumes() {
        if let Some(pool) = pools.get_mut(&volume.pool) {
            pool.volumes.insert(volume.name.clone(), true);
        }
    }
}

/// The pools do not list them any more.
fn strike_from(pools: &mut BTreeMap<String, Pool>, group: &VolumeGroup) {
    for volume in group.volumes() {
        if let Some(pool) = pools.get_mut(&volume.pool) {
            pool.volumes.remove(&volume.name);
        }
    }
}

impl Source for Books {
    fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError> {
        let inner = self.inner.lock();
        match file {
            DataFile::Storage => encode(file, &inner.storage),
            DataFile::Network => encode(file, &inner.network),
            DataFile::Instance => {
                let instances = inner.guests.values().map(|guest| guest.config.clone()).collect();
                encode(file, &InstanceBook { instances, arrivals: inner.arrivals.clone(), ..inner.instance.clone() })
            }
        }
    }
}
