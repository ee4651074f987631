//! Seed images that are right: made with the guest, renewed when this node's address or the guest's network changed (contract §14 D22).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;

use super::pool_network;
use crate::host::cloudinit::seed;
use crate::host::{Change, ErrorKind};
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
    if has_image(&guest.config) {
        try_renewal(node, &guest.config).await;
    }
}

/// Renews the images of all guests: the ones that libvirt starts by itself as well. A pool that does not answer is asked once, and the others do not
/// wait for it.
pub(super) async fn renew_all(node: &Node) {
    let mut pools: BTreeMap<String, Vec<Arc<GuestConfig>>> = BTreeMap::new();
    for guest in node.books.lock().guests.values().filter(|guest| has_image(&guest.config)) {
        pools.entry(guest.config.storage_pool.clone()).or_default().push(guest.config.clone());
    }
    join_all(pools.into_iter().map(|(pool, guests)| async move {
        for (renewed, guest) in guests.iter().enumerate() {
            if !try_renewal(node, guest).await {
                let left = guests.len() - renewed - 1;
                tracing::error!(pool = %pool, "the pool does not answer: the cloud-init images of {left} more guests stay as they are");
                return;
            }
        }
    }))
    .await;
}

fn has_image(config: &GuestConfig) -> bool {
    config.cloud_init_available && !config.boot_image.is_empty()
}

/// False when the pool does not answer.
async fn try_renewal(node: &Node, config: &GuestConfig) -> bool {
    match write(node, config).await {
        Ok(Change::Changed) => tracing::info!(guest = %config.id, "its cloud-init image was renewed"),
        Ok(Change::Unchanged) => {}
        Err(failure) => {
            tracing::warn!(guest = %config.id, "its cloud-init image can't be renewed, it stays as it is: {failure}");
            return !matches!(failure, Failure::Host(error) if matches!(error.kind, ErrorKind::Unknown | ErrorKind::Unavailable));
        }
    }
    true
}
