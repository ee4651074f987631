//! Images of disks on the simulated host: what a guest wrote is kept by block and read through the layers below, as qcow2 does.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::super::{Change, DiskImage, Disks, ErrorKind, HostError, LongJob, Result};
use super::faults::Operation;
use super::world::{changed, exists, not_found, World, VOLUME_OVERHEAD};
use super::SimHost;

/// What an image holds beside its capacity, which stands in [`super::SimState::directories`]. An image without an entry is blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimLayer {
    /// Path of the image below.
    pub backing: Option<String>,
    /// Block number -> what was written there.
    pub blocks: BTreeMap<u64, u64>,
    /// What can come back after a merge.
    pub before: Option<SimBefore>,
}

/// An image as it was before a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimBefore {
    /// Path that the image had.
    pub path: String,
    /// Its capacity.
    pub capacity: u64,
    /// Its blocks.
    pub blocks: BTreeMap<u64, u64>,
}

/// An image on its way to another name.
#[derive(Default)]
struct Image {
    capacity: u64,
    layer: SimLayer,
    content: Option<String>,
}

impl SimHost {
    /// A guest writes a block of a disk.
    pub fn write_block(&self, path: &str, block: u64, value: u64) {
        self.inner.world.lock().state.layers.entry(path.into()).or_default().blocks.insert(block, value);
    }

    /// What a guest would read from a block; 0 where nobody ever wrote, `None` when an image of the chain is missing.
    pub fn read_block(&self, path: &str, block: u64) -> Option<u64> {
        let world = self.inner.world.lock();
        let mut path = path.to_owned();
        loop {
            world.capacity(&path)?;
            let layer = world.state.layers.get(&path).cloned().unwrap_or_default();
            match (layer.blocks.get(&block), layer.backing) {
                (Some(value), _) => return Some(*value),
                (None, Some(below)) => path = below,
                (None, None) => return Some(0),
            }
        }
    }
}

/// Directory and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl World {
    fn capacity(&self, path: &str) -> Option<u64> {
        let (directory, name) = split(path);
        self.state.directories.get(directory)?.get(name).copied()
    }

    pub(super) fn image(&self, path: &str) -> Result<u64> {
        self.capacity(path).ok_or_else(|| not_found("image", &path))
    }

    /// An image appears or gets another capacity.
    fn put(&mut self, path: &str, capacity: u64) -> Result<()> {
        let (directory, name) = split(path);
        let files = self.state.directories.get_mut(directory).ok_or_else(|| not_found("directory", &directory))?;
        files.insert(name.into(), capacity);
        Ok(())
    }

    /// Takes an image with what it holds.
    fn take(&mut self, path: &str) -> Option<Image> {
        let (directory, name) = split(path);
        let capacity = self.state.directories.get_mut(directory)?.remove(name)?;
        self.unsynced.remove(path);
        self.held_back.remove(path);
        let layer = self.state.layers.remove(path).unwrap_or_default();
        Some(Image { capacity, layer, content: self.state.contents.remove(path) })
    }

    fn give(&mut self, path: &str, image: Image) -> Result<()> {
        self.put(path, image.capacity)?;
        self.set_layer(path, image.layer);
        self.state.contents.extend(image.content.map(|content| (path.to_owned(), content)));
        Ok(())
    }

    pub(super) fn set_layer(&mut self, path: &str, layer: SimLayer) {
        if layer == SimLayer::default() {
            self.state.layers.remove(path);
        } else {
            self.state.layers.insert(path.into(), layer);
        }
    }

    pub(super) fn layer(&self, path: &str) -> SimLayer {
        self.state.layers.get(path).cloned().unwrap_or_default()
    }

    /// Gives `path` the capacity of `like` where that is larger.
    pub(super) fn grow(&mut self, path: &str, like: &str) {
        let (Some(present), Some(wanted)) = (self.capacity(path), self.capacity(like)) else { return };
        // Both are there, so the directory is.
        let _ = self.put(path, present.max(wanted));
    }

    fn move_image(&mut self, from: &str, to: &str) -> Result<()> {
        if self.capacity(to).is_some() {
            return Err(exists("image", &to));
        }
        let image = self.take(from).ok_or_else(|| not_found("image", &from))?;
        self.give(to, image)
    }

    fn replace(&mut self, path: &str, new: &str, aside: &str) -> Result<()> {
        self.image(new)?;
        self.move_image(path, aside)?;
        self.move_image(new, path)
    }

    fn put_back(&mut self, path: &str, new: Option<&str>, aside: &str) -> Result<Change> {
        let Some(kept) = self.take(aside) else { return Ok(Change::Unchanged) };
        match new {
            Some(new) if self.capacity(path).is_some() => self.move_image(path, new)?,
            _ => {
                self.take(path);
            }
        }
        self.give(path, kept)?;
        Ok(Change::Changed)
    }

    fn merge(&mut self, top: &str, base: &str) -> Result<()> {
        let (capacity, above) = (self.image(top)?, self.layer(top));
        let before = self.image(base)?;
        if above.backing.as_deref() != Some(base) {
            return Err(HostError::new(
                ErrorKind::Invalid,
                format!("{top} can't be merged into {base}: it is based on {:?}", above.backing),
            ));
        }
        self.unsynced.remove(base);
        let mut below = self.layer(base);
        below.before = Some(SimBefore { path: base.into(), capacity: before, blocks: below.blocks.clone() });
        below.blocks.extend(above.blocks);
        self.put(base, capacity.max(before))?;
        self.set_layer(base, below);
        Ok(())
    }

    fn unmerge(&mut self, base: &str) -> Result<Change> {
        self.image(base)?;
        let layer = self.layer(base);
        match layer.before {
            Some(before) if before.path == base => {
                self.put(base, before.capacity)?;
                self.set_layer(base, SimLayer { blocks: before.blocks, before: None, ..layer });
                Ok(Change::Changed)
            }
            _ => Ok(Change::Unchanged),
        }
    }

    fn settle(&mut self, path: &str) -> Result<Change> {
        self.image(path)?;
        let layer = self.layer(path);
        let marked = layer.before.is_some();
        self.set_layer(path, SimLayer { before: None, ..layer });
        Ok(changed(marked))
    }
}

#[async_trait]
impl Disks for SimHost {
    async fn inspect(&self, path: &str) -> Result<DiskImage> {
        self.run(Operation::InspectDisk, None, |world| {
            let (capacity, layer) = (world.image(path)?, world.layer(path));
            let half_merged = layer.before.is_some_and(|before| before.path == path);
            Ok(DiskImage { capacity, allocated: VOLUME_OVERHEAD, backing: layer.backing, half_merged })
        })
        .await
    }

    async fn files(&self, directory: &str, prefix: &str) -> Result<Vec<String>> {
        self.wait_for_directory(directory).await?;
        self.run(Operation::ListFiles, None, |world| {
            let mut names = world.names_in(directory);
            names.retain(|name| name.starts_with(prefix));
            Ok(names)
        })
        .await
    }

    async fn overlay(&self, path: &str, backing: &str, capacity: u64) -> Result<()> {
        self.run(Operation::Overlay, None, |world| {
            world.take(path);
            let layer = SimLayer { backing: Some(backing.into()), ..SimLayer::default() };
            world.give(path, Image { capacity, layer, content: None })
        })
        .await
    }

    async fn compact(&self, path: &str, to: &str) -> Result<()> {
        self.run(Operation::Compact, None, |world| {
            let layer = SimLayer { before: None, ..world.layer(path) };
            let image = Image { capacity: world.image(path)?, layer, content: world.state.contents.get(path).cloned() };
            world.take(to);
            world.give(to, image)
        })
        .await
    }

    async fn replace(&self, path: &str, new: &str, aside: &str) -> Result<()> {
        self.run(Operation::Replace, None, |world| world.replace(path, new, aside)).await
    }

    async fn set_aside(&self, path: &str, aside: &str) -> Result<()> {
        self.run(Operation::SetAside, None, |world| world.move_image(path, aside)).await
    }

    async fn put_back(&self, path: &str, new: Option<&str>, aside: &str) -> Result<Change> {
        self.run(Operation::PutBack, None, |world| world.put_back(path, new, aside)).await
    }

    async fn remove(&self, path: &str) -> Result<Change> {
        self.run(Operation::RemoveFile, None, |world| Ok(changed(world.take(path).is_some()))).await
    }

    async fn resize(&self, path: &str, capacity: u64) -> Result<Change> {
        self.run(Operation::ResizeImage, None, |world| {
            let before = world.image(path)?;
            world.put(path, capacity)?;
            Ok(changed(before != capacity))
        })
        .await
    }

    async fn merge(&self, top: &str, base: &str) -> Result<()> {
        self.run(Operation::Merge, None, |world| world.merge(top, base)).await
    }

    async fn unmerge(&self, base: &str) -> Result<Change> {
        self.run(Operation::Unmerge, None, |world| world.unmerge(base)).await
    }

    async fn settle(&self, path: &str) -> Result<Change> {
        self.run(Operation::Settle, None, |world| world.settle(path)).await
    }

    async fn rebase(&self, path: &str, backing: &str) -> Result<Change> {
        self.run(Operation::Rebase, None, |world| {
            world.image(path)?;
            world.unsynced.remove(path);
            let mut layer = world.layer(path);
            let before = layer.backing.replace(backing.into());
            let change = changed(before != layer.backing);
            world.set_layer(path, layer);
            Ok(change)
        })
        .await
    }

    async fn persist(&self, path: &str) -> Result<()> {
        self.run(Operation::Persist, None, |world| {
            world.unsynced.remove(path);
            world.image(path).map(drop)
        })
        .await
    }

    async fn long_job(&self, _: &str) -> Result<LongJob> {
        Ok(LongJob::new(None))
    }
}
