//! A guest's volumes, and the snapshots below them, from the images in its pool.

use std::collections::BTreeMap;

use crate::model::{GuestId, Volume, VolumeGroup};
use crate::txn::volumes::file_prefix;
use crate::txn::{Failure, Node};

/// Images below one another that are followed; a guest of more snapshots in a row gets none.
const DEEPEST: usize = 256;

/// What the books know, where that are these volumes, else what the images show; and the sizes that the images have, bytes.
pub(super) async fn known_or_found(node: &Node, id: GuestId, pool: &str, names: &[String]) -> Result<(VolumeGroup, Vec<u64>), Failure> {
    let found = find(node, id, pool, names).await?;
    let known = node.books.lock().storage.groups.get(&id).cloned();
    let sizes = found.volumes().map(|volume| volume.capacity).collect();
    Ok((known.filter(|group| group.volumes().map(|volume| &volume.name).eq(names)).unwrap_or(found), sizes))
}

/// What the images of these volumes show.
pub(super) async fn find(node: &Node, id: GuestId, pool: &str, names: &[String]) -> Result<VolumeGroup, Failure> {
    let target = node.books.lock().storage.pools.get(pool).map(|pool| pool.target.trim_end_matches('/').to_owned());
    let target = target.ok_or_else(|| Failure::refused(format!("data/storage.data has no pool {pool}")))?;
    let mut volumes = Vec::new();
    let mut below = Vec::new();
    for name in names {
        let image = node.host.disks.inspect(&format!("{target}/{name}")).await?;
        below.push(chain(node, &format!("{target}/{}", file_prefix(id)), image.backing).await?);
        volumes.push(Volume::in_pool(pool, &target, name, image.capacity));
    }
    let mut volumes = volumes.into_iter();
    let mut group = VolumeGroup { system: volumes.next().unwrap_or_default(), data: volumes.collect(), ..VolumeGroup::default() };
    take_snapshots(&mut group, id, names, &below);
    Ok(group)
}

/// The images of this guest below one of its disks, nearest first.
async fn chain(node: &Node, own: &str, mut backing: Option<String>) -> Result<Vec<String>, Failure> {
    let mut chain: Vec<String> = Vec::new();
    while let Some(path) = backing.filter(|path| path.starts_with(own) && !chain.contains(path) && chain.len() < DEEPEST) {
        backing = node.host.disks.inspect(&path).await?.backing;
        chain.push(path);
    }
    Ok(chain)
}

/// One snapshot for each row of images that the disks have in common. Branches that the present disks are not based on show nowhere.
fn take_snapshots(group: &mut VolumeGroup, id: GuestId, names: &[String], below: &[Vec<String>]) {
    let depth = below.first().map_or(0, Vec::len);
    if below.iter().any(|chain| chain.len() != depth) {
        return tracing::error!(guest = %id, "its disks are based on different numbers of images: its snapshots can't be told from them");
    }
    let time = chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string();
    for level in (0..depth).rev() {
        let row = || below.iter().filter_map(|chain| chain.get(level));
        let files: BTreeMap<String, String> = names.iter().cloned().zip(row().cloned()).collect();
        let told = row().next().and_then(|path| snapshot_name(path, id)).filter(|name| !group.snapshots.contains_key(name));
        let name = told.unwrap_or_else(|| format!("recovered-{}", depth - level));
        group.take_snapshot(&name, "entered again after data/storage.data was lost", time.clone(), files);
    }
}

/// The snapshot that the image of a system disk got its name from, where it was taken while the guest did not run (contract §11.1).
fn snapshot_name(path: &str, id: GuestId) -> Option<String> {
    let name = path.rsplit_once('/')?.1.strip_prefix(&file_prefix(id))?.strip_suffix(".qcow2")?;
    let name = name.strip_suffix("_sys").or_else(|| name.rsplit_once('.').and_then(|(name, _)| name.strip_suffix("_sys")))?;
    Some(name.to_owned()).filter(|name| !name.is_empty())
}
