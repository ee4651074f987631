//! What there is, in a form that can be compared, and what always has to be true of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::host::sim::{ShareState, SimShare, SimState};
use crate::model::{GuestConfig, PoolMode, Secret};
use crate::txn::testing::Rig;

/// Host, shared pool and data files.
#[derive(PartialEq)]
pub(super) struct View {
    host: SimState,
    share: Option<ShareState>,
    files: BTreeMap<&'static str, Value>,
}

impl View {
    /// `exact`: with what is drawn by lot and what the clock says.
    pub(super) fn of(rig: &Rig, share: Option<&SimShare>, exact: bool) -> Self {
        let mut host = rig.sim.state();
        let mut share = share.map(SimShare::state);
        let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let mut files: BTreeMap<&str, Value> = rig.files().into_iter().map(|(name, text)| (name, parse(text))).collect();
        // A pool that is made anew has another id.
        host.pools.values_mut().for_each(|pool| pool.id = crate::model::GuestId::from_bytes([0; 16]));
        if let Some(pools) = files.get_mut("storage.data").and_then(|book| book["pools"].as_object_mut()) {
            pools.values_mut().for_each(|pool| pool["id"] = Value::Null);
        }
        if let Some(share) = &mut share {
            // How often a claim changed hands does not matter.
            share.claims.values_mut().for_each(|claim| (claim.generation, claim.tenure) = (0, 0));
        }
        if !exact {
            for domain in host.domains.values_mut() {
                scrub(&mut domain.config);
                domain.live.iter_mut().for_each(scrub);
            }
            share.iter_mut().flat_map(|share| share.guests.values_mut()).for_each(|guest| scrub(&mut guest.config));
            // The seed holds the password.
            host.files.values_mut().for_each(Vec::clear);
            files.values_mut().for_each(scrub_json);
        }
        Self { host, share, files }
    }

    /// Panics with the lines in which they differ.
    pub(super) fn check(&self, wanted: &Self, at: &str) {
        assert!(self == wanted, "{at} {}", self.differences(wanted));
    }

    pub(super) fn differences(&self, wanted: &Self) -> String {
        let (found, wanted) = (self.lines(), wanted.lines());
        let only = |of: &[String], other: &[String]| {
            of.iter().filter(|line| !other.contains(line)).take(12).cloned().collect::<Vec<_>>().join(" ")
        };
        format!("found {} instead of {}", only(&found, &wanted), only(&wanted, &found))
    }

    fn lines(&self) -> Vec<String> {
        format!("{:#?}\n{:#?}\n{:#?}", self.files, self.host, self.share).lines().map(|line| line.trim().to_owned()).collect()
    }
}

fn scrub(config: &mut GuestConfig) {
    config.monitor_port = 0;
    (config.monitor_secret, config.auth_secret) = (Secret::default(), Secret::default());
    config.hardware_address.clear();
    config.create_time.clear();
}

fn scrub_json(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["monitor_port", "monitor_secret", "auth_secret", "hardware_address", "create_time"] {
                map.remove(key);
            }
            map.values_mut().for_each(scrub_json);
        }
        Value::Array(list) => list.iter_mut().for_each(scrub_json),
        _ => {}
    }
}

/// Books, libvirt and pools say the same, and there is nothing that nobody knows.
pub(super) fn check_consistent(rig: &Rig, at: &str) {
    let state = rig.sim.state();
    let books = rig.node.books.lock();
    assert_eq!(state.domains.keys().collect::<Vec<_>>(), books.guests.keys().collect::<Vec<_>>(), "{at}: domains");
    assert_eq!(books.storage.groups.keys().collect::<Vec<_>>(), books.guests.keys().collect::<Vec<_>>(), "{at}: volume groups");
    assert_eq!(books.network.resources.keys().collect::<Vec<_>>(), books.guests.keys().collect::<Vec<_>>(), "{at}: resources");
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, guest) in &books.guests {
        let (config, domain, group) = (&guest.config, &state.domains[id], &books.storage.groups[id]);
        let defined = GuestConfig { disks: Vec::new(), ..domain.config.clone() };
        // What the domain's definition holds of the configuration.
        let expected = GuestConfig {
            name: config.name.clone(),
            cores: config.cores,
            memory: config.memory,
            cpu_priority: config.cpu_priority,
            read_speed: config.read_speed,
            write_speed: config.write_speed,
            read_iops: config.read_iops,
            write_iops: config.write_iops,
            monitor_port: config.monitor_port,
            monitor_secret: config.monitor_secret.clone(),
            hardware_address: config.hardware_address.clone(),
            storage_volumes: config.storage_volumes.clone(),
            storage_pool: config.storage_pool.clone(),
            ..defined.clone()
        };
        assert_eq!(defined, expected, "{at}: definition");
        assert!(domain.config.monitor_secret == config.monitor_secret, "{at}: monitor password");
        assert_eq!(domain.filter, config.security, "{at}: filter");
        assert_eq!(domain.autostart, config.auto_start && books.shared_pool(config).is_none(), "{at}: automatic start");
        assert_eq!(domain.media, config.media.as_ref().map(|media| media.file.clone()), "{at}: media");
        let resource = &books.network.resources[id];
        assert_eq!((resource.monitor_port, &resource.hardware_address), (config.monitor_port, &config.hardware_address), "{at}");
        assert!(!config.unfinished, "{at}: unfinished");
        assert_eq!(group.volumes().map(|volume| volume.name.clone()).collect::<Vec<_>>(), config.storage_volumes, "{at}: volumes");
        let frozen = group.snapshots.values().flat_map(|snapshot| snapshot.files.values());
        for path in group.volumes().map(crate::model::Volume::file).chain(frozen.map(String::as_str)) {
            let (directory, name) = path.rsplit_once('/').unwrap();
            files.entry(directory.into()).or_default().insert(name.into());
        }
        for volume in group.volumes() {
            assert!(rig.sim.read_block(volume.file(), 0).is_some(), "{at}: {} is whole", volume.file());
        }
    }
    for (directory, present) in &state.directories {
        let known = files.remove(directory).unwrap_or_default();
        let foreign = |name: &&String| {
            books.storage.pools.values().any(|pool| pool.target == **directory && pool.mode == PoolMode::Nfs) && !known.contains(*name)
        };
        let present: BTreeSet<String> = present.keys().filter(|name| !foreign(name)).cloned().collect();
        assert_eq!(present, known, "{at}: files in {directory}");
    }
    assert!(files.is_empty(), "{at}: {files:?} are missing");
    assert!(state.parts.is_empty(), "{at}: an image beside a disk");
    let seeds: BTreeSet<&String> = state.files.keys().filter(|path| !path.contains(".media")).collect();
    assert_eq!(seeds, books.guests.values().map(|guest| &guest.config.boot_image).filter(|path| !path.is_empty()).collect(), "{at}: seeds");
    assert_eq!(state.pools.keys().collect::<Vec<_>>(), books.storage.pools.keys().collect::<Vec<_>>(), "{at}: pools");
    for (name, pool) in &books.storage.pools {
        assert_eq!(pool.target, state.pools[name].target, "{at}: pool {name}");
        let known: BTreeSet<&String> = pool.volumes.keys().collect();
        let volumes = books.storage.groups.values().flat_map(|group| group.volumes()).filter(|volume| volume.pool == *name);
        assert_eq!(known, volumes.map(|volume| &volume.name).collect(), "{at}: volumes of pool {name}");
    }
}
