//! Removing what a guest has on the host.

use std::collections::BTreeSet;

use crate::model::{GuestId, Volume, VolumeGroup};
use crate::txn::volumes::file_prefix;
use crate::txn::{Failure, Node};

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
