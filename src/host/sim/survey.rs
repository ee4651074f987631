//! The simulated host as a whole, and guests that QEMU holds there.

use std::collections::BTreeSet;

use super::super::{
    Change, DefinedDomain, DiskSource, DomainDefinition, FailedDisk, FilterState, GuestFilter, HeldGuest, HostEvent, PoolStatus, Result,
};
use super::world::{SimDomain, World};
use crate::model::{GuestConfig, GuestId, PowerState};

impl World {
    /// QEMU holds a running guest because of a disk.
    pub(super) fn hold(&mut self, id: GuestId, disk: &str) {
        let Some(domain) = self.state.domains.get_mut(&id).filter(|domain| domain.power == PowerState::Running) else { return };
        domain.held = Some(FailedDisk { path: disk.into(), full: true });
        self.emit(HostEvent::Held(id));
    }

    pub(super) fn held(&self) -> Vec<HeldGuest> {
        let held = |(id, domain): (&GuestId, &SimDomain)| Some(HeldGuest { id: *id, disks: vec![domain.held.clone()?] });
        self.state.domains.iter().filter_map(held).collect()
    }

    /// The guest writes again; without space it is held at once again.
    pub(super) fn resume(&mut self, id: GuestId) -> Result<Change> {
        let full = self.free() == 0;
        let Some(disk) = self.get_mut(id)?.held.take() else { return Ok(Change::Unchanged) };
        self.emit(HostEvent::Power { id, power: PowerState::Running });
        if full {
            self.hold(id, &disk.path);
        }
        Ok(Change::Changed)
    }

    pub(super) fn definitions(&self) -> Vec<DefinedDomain> {
        let defined = |(id, domain): (&GuestId, &SimDomain)| DefinedDomain {
            id: *id,
            name: domain.config.name.clone(),
            power: domain.power,
            autostart: domain.autostart,
            definition: definition(&domain.config, domain.live.as_ref()),
        };
        self.state.domains.iter().map(defined).collect()
    }

    pub(super) fn filters(&self) -> Vec<GuestFilter> {
        let present = self.state.domains.iter().filter(|(_, domain)| domain.filtered).map(|(id, _)| id);
        let all = present.chain(&self.state.stray_filters);
        all.map(|id| GuestFilter { name: filter_name(*id), guest: *id }).collect()
    }

    pub(super) fn filter_state(&self, guest: &GuestConfig) -> FilterState {
        match self.state.domains.get(&guest.id).filter(|domain| domain.filtered) {
            None => FilterState::Missing,
            Some(domain) if domain.filter == guest.security => FilterState::Right,
            Some(_) => FilterState::Different,
        }
    }

    pub(super) fn pools(&self) -> Result<Vec<PoolStatus>> {
        let status = |(name, known): (&String, &super::SimPool)| {
            let mut pool = self.pool(name)?;
            pool.volumes.clear();
            Ok(PoolStatus { pool, active: known.active, autostart: known.autostart })
        };
        self.state.pools.iter().map(status).collect()
    }

    /// Names of all files in a directory: images, what lies beside them, small files, and what is written about guests of a shared pool.
    pub(super) fn names_in(&self, directory: &str) -> Vec<String> {
        let mut names: BTreeSet<String> =
            self.state.directories.get(directory).into_iter().flat_map(|files| files.keys().cloned()).collect();
        let within = |path: &str| Some(path.strip_prefix(directory)?.strip_prefix('/')?.to_owned()).filter(|name| !name.contains('/'));
        names.extend(self.state.files.keys().filter_map(|path| within(path)));
        names.extend(self.state.parts.keys().filter_map(|path| within(path)).map(|name| format!(".{name}.part")));
        if let Some(share) = self.mounted_at(directory) {
            let state = share.state();
            names.extend(state.guests.keys().flat_map(|id| [format!("{id}.meta"), format!("{id}.vols")]));
            names.extend(state.claims.keys().map(|id| format!("{id}.claim")));
        }
        names.into_iter().collect()
    }
}

fn definition(config: &GuestConfig, live: Option<&GuestConfig>) -> DomainDefinition {
    let volume = |volume: &String| DiskSource::Volume { pool: config.storage_pool.clone(), volume: volume.clone() };
    let mut files: Vec<String> =
        config.storage_volumes.iter().chain(live.into_iter().flat_map(|live| &live.storage_volumes)).cloned().collect();
    files.sort();
    files.dedup();
    DomainDefinition {
        cores: config.cores,
        memory: config.memory,
        disks: config.storage_volumes.iter().map(volume).collect(),
        macs: vec![config.hardware_address.clone()],
        filters: vec![filter_name(config.id)],
        monitor_port: Some(config.monitor_port),
        files,
    }
}

fn filter_name(id: GuestId) -> String {
    format!("nano-nwfilter-{id}")
}
