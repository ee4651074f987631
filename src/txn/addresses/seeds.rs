//! Seed images that are right: made with the guest, renewed when this node's address or the guest's network changed (contract §14 D22).

use std::path::Path;
use std::sync::Arc;

use super::pool_network;
use crate::host::cloudinit::seed;
use crate::host::Change;
use crate::model::{GuestConfig, GuestId};
use crate::txn::{Failure, Node};

/// Path of a guest's image in its pool.
pub(in crate::txn) fn path(node: &Node, pool: &str, id: GuestId) -> Result<String, Failure> {
    let books = node.books.lock();
    let target = books.storage.pools.get(pool).map(|pool| pool.target.as_str()).filter(|target| !target.is_empty());
    let target = target.ok_or_else(|| Failure::refused(format!("storage pool '{pool}' has no directory for the cloud-init image")))?;
    Ok(Path::new(target).join(seed::file_name(id)).to_string_lossy().into_owned())
}

/// Writes the image of a guest to its `boot_image`; unchanged when it is right already.
pub(in crate::txn) async fn write(node: &Node, config: &GuestConfig) -> Result<Change, Failure> {
    let address = node.bridge_address().ok_or_else(|| {
        Failure::refused(format!("{} has no IPv4 address, so the guest could not reach its cloud-init documents", node.settings.bridge))
    })?;
    let pool = pool_network(&node.books.lock().network);
    let image = seed::image(config, &pool, address);
    Ok(node.host.storage.write_file(&config.boot_image, Arc::from(image)).await?)
}

/// Renews the image of one guest where it has one. What fails is logged: the guest can start with what is there.
pub(in crate::txn) async fn renew(node: &Node, id: GuestId) {
    let Ok(guest) = node.books.guest(id) else { return };
    if !guest.config.cloud_init_available || guest.config.boot_image.is_empty() {
        return;
    }
    match write(node, &guest.config).await {
        Ok(Change::Changed) => tracing::info!(guest = %id, "its cloud-init image was renewed"),
        Ok(Change::Unchanged) => {}
        Err(failure) => tracing::warn!(guest = %id, "its cloud-init image can't be renewed, it stays as it is: {failure}"),
    }
}

/// Renews the images of all guests: the ones that libvirt starts by itself as well.
pub(super) async fn renew_all(node: &Node) {
    let guests: Vec<GuestId> = node.books.lock().guests.keys().copied().collect();
    for id in guests {
        renew(node, id).await;
    }
}
