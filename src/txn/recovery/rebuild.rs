//! Guests that libvirt knows and the books have lost.
//!
//! Contract: only for a start that found a data file damaged or gone. A domain is taken for a guest of ours when all its disks are volumes that bear its
//! id in a local pool of the books; a guest of a shared pool is the Core's to place. What libvirt and the pool show is entered; the console gets a new
//! password, for the books need it and libvirt does not tell it. What nobody shows any more (owner, passwords in the guest, limits, rules, an
//! address) is said in the log.

use std::sync::Arc;

use crate::host::{DefinedDomain, DiskSource, DomainEdit};
use crate::model::{Guest, GuestConfig, GuestId, PoolMode, PowerState, Resource, Volume, VolumeGroup};
use crate::store::DataFile;
use crate::txn::volumes::file_prefix;
use crate::txn::{secrets, Failure, Node};

/// Enters all of them.
pub async fn rebuild(node: &Arc<Node>) {
    let defined = match node.host.hypervisor.definitions().await {
        Ok(defined) => defined,
        Err(error) => return tracing::error!("whether libvirt knows guests that were lost can't be seen: {}", Failure::Host(error)),
    };
    let mut found = false;
    for domain in defined.into_iter().filter(|domain| node.books.guest(domain.id).is_err()) {
        let Some((pool, volumes)) = own_volumes(node, &domain) else { continue };
        let (id, name) = (domain.id, domain.name.clone());
        match enter(node, domain, pool, volumes).await {
            Ok(()) => {
                found = true;
                tracing::warn!(
                    guest = %id, %name,
                    "it was lost from data/ and is entered again from what libvirt and its pool show; its console has a new password; its owner, limits, \
                     rules, addresses and the passwords in it are not known any more"
                );
            }
            Err(failure) => tracing::error!(guest = %id, %name, "it was lost from data/, and can't be entered again: {failure}"),
        }
    }
    if found {
        if let Err(failure) = node.save(&DataFile::ALL).await {
            tracing::error!("guests that were entered again can't be written down yet: {failure}");
        }
    }
}

/// The pool and the volumes of a domain that is a guest of this node.
fn own_volumes(node: &Node, domain: &DefinedDomain) -> Option<(String, Vec<String>)> {
    let prefix = file_prefix(domain.id);
    let mut pool = None;
    let mut volumes = Vec::new();
    for disk in &domain.definition.disks {
        let DiskSource::Volume { pool: own, volume } = disk else { return None };
        if !volume.starts_with(&prefix) || pool.as_ref().is_some_and(|pool| pool != own) {
            return None;
        }
        pool = Some(own.clone());
        volumes.push(volume.clone());
    }
    let pool = pool?;
    let books = node.books.lock();
    books.storage.pools.get(&pool).filter(|known| known.mode == PoolMode::Local)?;
    Some((pool, volumes))
}

async fn enter(node: &Arc<Node>, domain: DefinedDomain, pool: String, names: Vec<String>) -> Result<(), Failure> {
    let definition = domain.definition;
    let unclear = |what: &str| Failure::refused(format!("its definition has no {what}"));
    let monitor_port = definition.monitor_port.ok_or_else(|| unclear("port of the console"))?;
    let hardware_address = definition.macs.first().cloned().ok_or_else(|| unclear("network interface"))?;
    let (group, disks) = volumes(node, domain.id, &pool, &names).await?;
    let monitor_secret = secrets::password(secrets::MONITOR_SECRET_LENGTH)?;
    let bare = serde_json::json!({
        "name": domain.name, "id": domain.id, "cores": definition.cores, "memory": definition.memory, "monitor_port": monitor_port
    });
    let config: GuestConfig = serde_json::from_value(bare).map_err(|error| Failure::Internal(error.to_string()))?;
    let config = GuestConfig {
        group: domain.name.split_once('.').map_or_else(String::new, |(group, _)| group.to_owned()),
        auto_start: domain.autostart,
        disks,
        storage_pool: pool,
        storage_volumes: names,
        network_mode: 1,
        network_source: node.settings.bridge.clone(),
        hardware_address: hardware_address.clone(),
        boot_image: group.boot_image.clone(),
        monitor_secret: monitor_secret.clone(),
        ..config
    };
    node.host.hypervisor.reconfigure(domain.id, &DomainEdit::MonitorSecret(monitor_secret)).await?;
    let resource = Resource { monitor_port, hardware_address, ..Resource::default() };
    let guest = Guest { power: PowerState::Lost, ..Guest::new(config) };
    node.books.lock().restore_guest(guest, &group, Some(resource));
    Ok(())
}

/// What the books, or else the files, know of the volumes, and their sizes in bytes.
async fn volumes(node: &Node, id: GuestId, pool: &str, names: &[String]) -> Result<(VolumeGroup, Vec<u64>), Failure> {
    let (known, target) = {
        let storage = &node.books.lock().storage;
        let target = storage.pools.get(pool).map(|pool| pool.target.clone()).unwrap_or_default();
        (storage.groups.get(&id).cloned(), target)
    };
    let mut sizes = Vec::new();
    let mut volumes = Vec::new();
    for name in names {
        let path = format!("{}/{name}", target.trim_end_matches('/'));
        let capacity = node.host.disks.inspect(&path).await?.capacity;
        sizes.push(capacity);
        volumes.push(Volume { name: name.clone(), format: "qcow2".into(), key: path.clone(), path, capacity, pool: pool.to_owned() });
    }
    let same = |group: &VolumeGroup| group.volumes().map(|volume| &volume.name).eq(names);
    let mut volumes = volumes.into_iter();
    let rebuilt = VolumeGroup { system: volumes.next().unwrap_or_default(), data: volumes.collect(), ..VolumeGroup::default() };
    let group = match known {
        Some(group) if same(&group) => group,
        Some(_) | None => rebuilt,
    };
    Ok((group, sizes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LOCAL_POOL;
    use crate::proto::message::{Key, Message, MessageId};
    use crate::txn::testing::{about, start_request, Rig};

    /// A node with two guests, one with a snapshot, and one domain of somebody else.
    async fn rig() -> (Rig, GuestId, GuestId) {
        let mut rig = Rig::new().await;
        let (one, two) = (rig.with_guest(1).await, rig.with_guest(2).await);
        let snapshot = about(MessageId::CREATE_SNAPSHOT_REQUEST, one).string(Key::Name, "s1").string(Key::Description, "");
        assert!(rig.ask(snapshot).await.success);
        rig.settle().await;
        let foreign = GuestConfig {
            id: GuestId::from_bytes([9; 16]),
            name: "foreign".into(),
            storage_volumes: vec!["disk.qcow2".into()],
            ..(*rig.node.books.guest(two).unwrap().config).clone()
        };
        rig.sim.host().hypervisor.define(&foreign).await.unwrap();
        (rig, one, two)
    }

    async fn reboot(rig: Rig) -> Rig {
        rig.reboot(None).await.ok().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn guests_whose_book_is_lost_come_back_from_what_libvirt_shows() {
        for with_volumes in [true, false] {
            let (rig, one, two) = rig().await;
            let before = [one, two].map(|id| rig.node.books.guest(id).unwrap().config);
            let group = rig.node.books.lock().storage.groups[&one].clone();
            let path = |name: &str| rig.directory.path().join(name);
            std::fs::write(path("instance.data"), "gone").unwrap();
            std::fs::remove_file(path("instance.data.bak")).unwrap();
            if !with_volumes {
                let mut storage: serde_json::Value = serde_json::from_slice(&std::fs::read(path("storage.data")).unwrap()).unwrap();
                storage["groups"] = serde_json::json!({});
                std::fs::write(path("storage.data"), storage.to_string()).unwrap();
            }
            let mut rig = reboot(rig).await;
            assert_eq!(rig.node.guest_counts().0, 2, "the foreign domain is none of ours");
            for config in before {
                let now = rig.node.books.guest(config.id).unwrap();
                let facts = |config: &GuestConfig| {
                    let GuestConfig { name, cores, memory, disks, monitor_port, hardware_address, storage_volumes, .. } = config.clone();
                    (name, cores, memory, disks, monitor_port, hardware_address, storage_volumes)
                };
                assert_eq!(facts(&now.config), facts(&config));
                assert_eq!(now.config.storage_pool, LOCAL_POOL);
                let domain = rig.sim.state().domains[&config.id].config.clone();
                assert!(now.config.monitor_secret == domain.monitor_secret && !domain.monitor_secret.is_empty());
                assert!(rig.files()["network.data"].contains(&config.hardware_address));
                assert!(rig.ask(start_request(config.id)).await.success);
            }
            let now = rig.node.books.lock().storage.groups[&one].clone();
            assert_eq!(now.snapshots == group.snapshots, with_volumes, "they are in storage.data alone");
            assert_eq!(now.system.path, group.system.path);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_entered_while_no_file_was_lost() {
        let (mut rig, one, _) = rig().await;
        let deleted = Message::new(MessageId::DELETE_GUEST_REQUEST).string(Key::Instance, one.to_string());
        assert!(rig.ask(deleted).await.success);
        let rig = reboot(rig).await;
        assert_eq!(rig.node.guest_counts().0, 1);
    }
}
