//! A healthy node on the simulated host, with real data files, and everything that can drift on it.

mod drifts;
mod safety;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::host::platform::{PortState, Space};
use crate::host::sim::{SimHost, SimShare};
use crate::host::{Bridge, Host, NfsSource, SharedGuest};
use crate::model::{Claim, GuestConfig, GuestId, Pool, Resource, Volume, VolumeGroup, LOCAL_POOL};
use crate::store::{encode, DataFile, Identity, Store};

const LOCAL: &str = "/images/local0";
const NAS: &str = "/pools/nas";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MIB: u64 = 1 << 20;

/// Guests of the ward: two on the local pool, the first with a snapshot, and one on the shared pool.
const ONE: u8 = 1;
const TWO: u8 = 2;
const THREE: u8 = 3;

fn id(number: u8) -> GuestId {
    GuestId::from_bytes([number; 16])
}

/// A node that is well.
struct Ward {
    sim: SimHost,
    host: Host,
    share: SimShare,
    platform: Platform,
    expectation: Expectation,
    running: bool,
    directory: tempfile::TempDir,
}

impl Ward {
    async fn new() -> Self {
        let (sim, share) = (SimHost::new(), SimShare::new());
        let host = sim.host();
        let source = NfsSource { host: "nas".into(), path: "/export".into() };
        sim.put_export(&source, &share);
        let directory = tempfile::tempdir().unwrap();
        let bridge = Bridge { name: "br0".into(), index: 1, mac: MAC, address: Some([10, 0, 0, 2].into()) };
        let ward = Self {
            platform: platform(bridge),
            expectation: Expectation { virtualization: Virtualization::Auto, core_named: false, complaints: Vec::new() },
            running: false,
            sim,
            host,
            share,
            directory,
        };
        fs::write(ward.path("identity.json"), format!(r#"{{"name": "{}"}}"#, ward.name())).unwrap();
        let mut books = Store::look(ward.directory.path(), "br0").map(books_of).unwrap();
        for pool in [
            ward.host.storage.ensure_local_pool(LOCAL_POOL, LOCAL).await.unwrap(),
            ward.host.storage.ensure_nfs_pool("nas", &source, NAS).await.unwrap(),
        ] {
            books.storage.pools.insert(pool.name.clone(), Pool { volumes: Default::default(), ..pool });
        }
        for (number, pool) in [(ONE, LOCAL_POOL), (TWO, LOCAL_POOL), (THREE, "nas")] {
            ward.admit(&mut books, number, pool).await;
        }
        ward.freeze(&mut books, ONE, "before").await;
        ward.write(&books);
        ward
    }

    fn name(&self) -> String {
        Identity::name_of(MAC)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A guest with two disks, everywhere where a guest is known.
    async fn admit(&self, books: &mut Books, number: u8, pool: &str) {
        let guest = id(number);
        let mut volumes = Vec::new();
        for name in [format!("{guest}_sys.qcow2"), format!("{guest}_0.qcow2")] {
            let info = self.host.storage.create_volume(pool, &name, 64 * MIB).await.unwrap();
            books.storage.pools.get_mut(pool).unwrap().volumes.insert(name.clone(), true);
            volumes.push(Volume { name, format: "qcow2".into(), key: info.key, path: info.path, capacity: 64 * MIB, pool: pool.into() });
        }
        let config = GuestConfig {
            disks: vec![64 * MIB; 2],
            storage_pool: pool.into(),
            storage_volumes: volumes.iter().map(|volume| volume.name.clone()).collect(),
            monitor_port: 5900 + u16::from(number),
            hardware_address: format!("00:16:3e:00:00:{number:02x}"),
            auto_start: number == TWO,
            ..blank(guest, &format!("group.guest{number}"))
        };
        self.host.hypervisor.define(&config).await.unwrap();
        self.host.hypervisor.set_autostart(guest, config.auto_start).await.unwrap();
        let resource =
            Resource { monitor_port: config.monitor_port, hardware_address: config.hardware_address.clone(), ..Resource::default() };
        let group = VolumeGroup { system: volumes.remove(0), data: volumes, ..VolumeGroup::default() };
        if pool == "nas" {
            let claim = Claim { owner: self.name(), generation: 1, ..Claim::default() };
            self.share.change(|state| {
                state.guests.insert(guest, SharedGuest { config: config.clone(), volumes: group.clone() });
                state.claims.insert(guest, claim);
            });
        }
        books.network.resources.insert(guest, resource);
        books.storage.groups.insert(guest, group);
        books.instance.instances.push(Arc::new(config));
    }

    /// A snapshot, as a stopped guest has it: the images that it had got the snapshot's names.
    async fn freeze(&self, books: &mut Books, number: u8, snapshot: &str) {
        let group = books.storage.groups.get_mut(&id(number)).unwrap();
        let mut files = std::collections::BTreeMap::new();
        for volume in group.volumes() {
            let aside = volume.path.replace(&format!("{}_", id(number)), &format!("{}_{snapshot}_", id(number)));
            let (new, disks) = (format!("{}.new", volume.path), &self.host.disks);
            disks.overlay(&new, &aside, volume.capacity).await.unwrap();
            disks.replace(&volume.path, &new, &aside).await.unwrap();
            files.insert(volume.name.clone(), aside);
        }
        group.take_snapshot(snapshot, "", "2026-01-01 00:00:00".into(), files);
    }

    fn books(&self) -> Books {
        books_of(Store::look(self.directory.path(), "br0").unwrap())
    }

    fn write(&self, books: &Books) {
        for (file, content) in [
            (DataFile::Instance, encode(DataFile::Instance, &books.instance)),
            (DataFile::Storage, encode(DataFile::Storage, &books.storage)),
            (DataFile::Network, encode(DataFile::Network, &books.network)),
        ] {
            let path = self.path(file.name());
            fs::write(&path, content.unwrap()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// Changes the data files behind everybody's back.
    fn edit(&self, change: impl FnOnce(&mut Books)) {
        let mut books = self.books();
        change(&mut books);
        self.write(&books);
    }

    fn edit_guest(&self, number: u8, change: impl FnOnce(&mut GuestConfig)) {
        self.edit(|books| {
            let guest = books.instance.instances.iter_mut().find(|guest| guest.id == id(number)).unwrap();
            change(Arc::make_mut(guest));
        });
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            data: self.directory.path(),
            bridge: "br0",
            running: self.running,
            libvirt: Ok((self.host.hypervisor.clone(), self.host.storage.clone())),
            disks: self.host.disks.clone(),
            images: self.host.images.clone(),
            shared: self.host.shared.clone(),
        }
    }

    async fn examine(&self) -> Findings {
        examine(&self.sources(), &self.platform, &self.expectation).await
    }

    async fn repair(&self) -> (Vec<Deed>, Findings) {
        repair(&self.sources(), &self.platform, &self.expectation).await
    }

    /// Everything that a look must not change.
    fn everything(&self) -> (String, Vec<(PathBuf, Vec<u8>)>) {
        let mut files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        (format!("{:?} {:?}", self.sim.state(), self.share.state()), files)
    }
}

fn blank(id: GuestId, name: &str) -> GuestConfig {
    serde_json::from_value(serde_json::json!({
        "id": id, "name": name, "cores": 1, "memory": 64 * MIB, "monitor_port": 0, "auth_user": "root", "template": null
    }))
    .unwrap()
}

fn books_of(loaded: crate::store::Loaded) -> Books {
    Books { instance: loaded.instance, storage: loaded.storage, network: loaded.network }
}

fn platform(bridge: Bridge) -> Platform {
    let space =
        |path: &str, pool| Space { path: path.into(), pool, free: 1 << 40, total: 1 << 41, files_free: Some(1 << 20), read_only: false };
    Platform {
        root: true,
        kvm: None,
        guests: Ok("kvm on /usr/bin/qemu-system-x86_64".into()),
        bridge: Ok(bridge),
        bridge_ports: Some(vec!["eth0".into()]),
        default_route: Ok(Some("br0".into())),
        multicast: Ok(()),
        dhcp_port: PortState::Free,
        cloud_init_port: PortState::Free,
        spaces: vec![space("/opt/nano/cell/data", false), space(LOCAL, true)],
        open_files: Some(1024),
        threads: None,
        qemu_img: Ok("7.2".into()),
        now: SystemTime::now(),
        last_write: Some(SystemTime::now() - Duration::from_secs(60)),
    }
}
