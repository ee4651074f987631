//! Removing what a guest has on the host.

use crate::model::{GuestId, VolumeGroup};
use crate::txn::{Failure, Node};

/// Deletes all volumes, also after one that could not be; the first failure is told.
pub(in crate::txn) async fn delete_volumes(node: &Node, id: GuestId, group: &VolumeGroup) -> Result<(), Failure> {
    let mut first = Ok(());
    for volume in group.volumes().filter(|volume| !volume.name.is_empty()) {
        if let Err(error) = node.host.storage.delete_volume(&volume.pool, &volume.name).await {
            tracing::error!(guest = %id, volume = %volume.name, "a volume of the guest is left: {error}");
            first = first.and(Err(Failure::from(error)));
        }
    }
    first
}
