//! What the books have lost, from what libvirt and the pools show.
//!
//! Contract: only for a start that found a data file damaged or gone, and for those after it until everything is entered: what can't be had now (libvirt, a
//! pool) is tried again by the next start. A domain is taken for a guest of ours when all its disks are volumes that bear its
//! id in a local pool of the books; a guest of a shared pool is the Core's to place. What libvirt and the pool show is entered; the console gets a new
//! password, for the books need it and libvirt does not tell it. What nobody shows any more (owner, passwords in the guest, limits, rules, an
//! address) is said in the log. A guest whose volumes are lost gets them from its own entry, and the snapshots below its disks from the images.

mod volumes;

use std::sync::Arc;

use crate::host::{DefinedDomain, DiskSource, DomainEdit};
use crate::model::{Guest, GuestConfig, PoolMode, PowerState, Resource};
use crate::store::DataFile;
use crate::txn::volumes::file_prefix;
use crate::txn::{secrets, Failure, Node};

/// Enters all that is missing.
pub async fn rebuild(node: &Arc<Node>) {
    let whole = [enter_guests(node).await, enter_volumes(node).await] == [true; 2];
    if let Err(failure) = node.save(&DataFile::ALL).await {
        return tracing::error!("what was entered again can't be written down yet: {failure}");
    }
    if !whole {
        return tracing::error!("not all that was lost from data/ could be entered again; the next start of the service tries again");
    }
    if let Err(error) = node.store.made_good().await {
        tracing::warn!("the next start looks once more for what was lost: {}", Failure::Store(error));
    }
}

/// Guests that libvirt knows and the books have lost; false when there may be more of them.
async fn enter_guests(node: &Arc<Node>) -> bool {
    let defined = match node.host.hypervisor.definitions().await {
        Ok(defined) => defined,
        Err(error) => {
            tracing::error!("whether libvirt knows guests that were lost can't be seen: {}", Failure::Host(error));
            return false;
        }
    };
    let mut whole = true;
    for domain in defined.into_iter().filter(|domain| node.books.guest(domain.id).is_err()) {
        let Some((pool, volumes)) = own_volumes(node, &domain) else { continue };
        let (id, name) = (domain.id, domain.name.clone());
        match enter(node, domain, pool, volumes).await {
            Ok(()) => tracing::warn!(
                guest = %id, %name,
                "it was lost from data/ and is entered again from what libvirt and its pool show; its console has a new password; its owner, limits, \
                 rules, addresses and the passwords in it are not known any more"
            ),
            Err(failure) => {
                whole = false;
                tracing::error!(guest = %id, %name, "it was lost from data/, and can't be entered again: {failure}");
            }
        }
    }
    whole
}

/// Volumes of guests that the books know; false when some could not be had.
async fn enter_volumes(node: &Arc<Node>) -> bool {
    let without: Vec<Arc<GuestConfig>> = {
        let books = node.books.lock();
        let is_local = |pool: &str| books.storage.pools.get(pool).is_some_and(|pool| pool.mode == PoolMode::Local);
        let configs = books.guests.values().map(|guest| guest.config.clone());
        let lacks = |config: &GuestConfig| !config.storage_volumes.is_empty() && !books.storage.groups.contains_key(&config.id);
        configs.filter(|config| lacks(config) && is_local(&config.storage_pool)).collect()
    };
    let mut whole = true;
    for config in without {
        let (id, name) = (config.id, &config.name);
        match volumes::find(node, id, &config.storage_pool, &config.storage_volumes).await {
            Ok(mut group) => {
                group.boot_image.clone_from(&config.boot_image);
                tracing::warn!(
                    guest = %id, %name,
                    "its volumes were lost from data/ and are entered again, with {} snapshots that its disks are based on", group.snapshots.len()
                );
                node.books.lock().replace_volumes(id, group);
            }
            Err(failure) => {
                whole = false;
                tracing::error!(guest = %id, %name, "its volumes were lost from data/, and can't be entered again: {failure}");
            }
        }
    }
    whole
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
    let (group, disks) = volumes::known_or_found(node, domain.id, &pool, &names).await?;
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
    let mut books = node.books.lock();
    books.restore_guest(guest, &group, Some(resource));
    books.replace_volumes(domain.id, group);
    Ok(())
}

#[cfg(test)]
mod tests;
