//! Removing what a guest has on the host.

use std::collections::BTreeSet;

use crate::host::ErrorKind;
use crate::model::{GuestConfig, GuestId, PowerState, Volume, VolumeGroup};
use crate::store::DataFile;
use crate::txn::volumes::file_prefix;
use crate::txn::{Failure, Node};

/// The volumes that have to go with a guest: as the books list them, or, where that list was lost, as its own entry names them.
///
/// # Errors
/// It names volumes in a pool that the books do not know: told as deleted, they would stay for ever.
pub(in crate::txn) fn volumes(node: &Node, config: &GuestConfig) -> Result<VolumeGroup, Failure> {
    let (storage, pool) = (&node.books.lock().storage, &config.storage_pool);
    if let Some(group) = storage.groups.get(&config.id) {
        return Ok(group.clone());
    }
    let mut names = config.storage_volumes.iter();
    let Some(system) = names.next() else { return Ok(VolumeGroup::default()) };
    let Some(target) = storage.pools.get(pool).map(|pool| pool.target.trim_end_matches('/')) else {
        let name = &config.name;
        return Err(Failure::refused(format!("the disks of guest '{name}' are in pool {pool}, which data/storage.data does not know")));
    };
    let volume = |name: &String| Volume::in_pool(pool, target, name, 0);
    let boot_image = config.boot_image.clone();
    Ok(VolumeGroup { system: volume(system), data: names.map(volume).collect(), boot_image, ..VolumeGroup::default() })
}

/// Removes a guest whose domain does not run: domain and filter, then what it has on disks, then its entries. Asking again goes on where it failed.
pub(in crate::txn) async fn delete(node: &Node, id: GuestId, group: &VolumeGroup) -> Result<(), Failure> {
    node.host.hypervisor.undefine(id).await?;
    node.set_power(id, PowerState::Lost);
    // What a crash left beside its disk has no other owner.
    if !group.system.file().is_empty() {
        node.host.images.discard(group.system.file()).await?;
    }
    delete_volumes(node, id, group).await?;
    node.books.lock().remove(id);
    node.usage.forget(id);
    node.save(&[DataFile::Instance, DataFile::Storage, DataFile::Network]).await
}

/// Takes a guest that another host has now from libvirt and from the books; its files stay. The books are still to be written.
pub(in crate::txn) async fn purge(node: &Node, id: GuestId, directory: Option<&str>, running: bool) -> Result<(), Failure> {
    // Gone from libvirt already is as good.
    match node.host.hypervisor.destroy(id).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    node.host.hypervisor.undefine(id).await?;
    if let Some(directory) = directory {
        // Nobody can be kept waiting for a server that is silent: the new owner takes the claim on the Core's word.
        if let Err(failure) = node.let_go(directory, id, running).await {
            tracing::warn!(guest = %id, "its claim could not be given back: {failure}");
        }
    }
    forget(node, id);
    Ok(())
}

/// Out of the books, with the files on the shared storage left as they are.
pub(in crate::txn) fn forget(node: &Node, id: GuestId) {
    node.leave_copy(id);
    node.books.lock().remove(id);
    node.usage.forget(id);
}

/// Deletes all volumes, the cloud-init image, images of snapshots and what else belongs to them (contract §7.3), also after one that could not
/// be; the first failure is told.
pub(in crate::txn) async fn delete_volumes(node: &Node, id: GuestId, group: &VolumeGroup) -> Result<(), Failure> {
    let mut first = Ok(());
    for volume in group.volumes().filter(|volume| !volume.name.is_empty()) {
        if let Err(error) = node.host.storage.delete_volume(&volume.pool, &volume.name).await {
            tracing::error!(guest = %id, volume = %volume.name, "a volume of the guest is left: {error}");
            first = first.and(Err(Failure::from(error)));
        }
    }
    if !group.boot_image.is_empty() {
        if let Err(error) = node.host.storage.remove_file(&group.boot_image).await {
            tracing::error!(guest = %id, "the guest's cloud-init image is left: {error}");
            first = first.and(Err(Failure::from(error)));
        }
    }
    let directories: BTreeSet<&str> = group.volumes().map(Volume::directory).filter(|directory| directory.starts_with('/')).collect();
    for directory in directories {
        first = first.and(delete_files(node, id, directory).await);
    }
    first
}

/// Deletes the files that bear the guest's id: images of snapshots, seed image, what an interrupted change left.
async fn delete_files(node: &Node, id: GuestId, directory: &str) -> Result<(), Failure> {
    let mut first = Ok(());
    for name in node.host.disks.files(directory, &file_prefix(id)).await? {
        let path = format!("{directory}/{name}");
        if let Err(error) = node.host.disks.remove(&path).await {
            tracing::error!(guest = %id, "{path} of the guest is left: {error}");
            first = first.and(Err(Failure::from(error)));
        }
    }
    first
}
