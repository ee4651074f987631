//! Image servers and transfers of the simulated host. A transfer takes the latency of its operation and advances by tenths of it; faults strike at
//! its end, so that a test sees progress before.

use async_trait::async_trait;
use tokio::time::sleep;

use super::super::{Change, ErrorKind, HostError, ImageLocation, Images, Result, Transfer};
use super::faults::{Effect, Fault, Operation};
use super::traits::planned;
use super::world::World;
use super::SimHost;

/// A disk image on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimImage {
    /// Bytes of the file.
    pub size: u64,
    /// Virtual size in bytes.
    pub capacity: u64,
}

/// A fetched image that has not replaced its disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimPart {
    /// Image id.
    pub image: String,
    /// Virtual size in bytes.
    pub capacity: u64,
}

/// Steps of a transfer.
const STEPS: u32 = 10;

impl SimHost {
    /// Lets a transfer go on to its end, unless it is stopped.
    async fn transfer(&self, operation: Operation, amount: u64, transfer: &Transfer) -> Result<Option<Fault>> {
        self.process().point().await;
        let (fault, latency) = {
            let mut plan = self.inner.plan.lock();
            (plan.begin(operation), plan.latency.get(&operation).copied().unwrap_or_default())
        };
        transfer.begin(amount);
        let share = |steps: u64| (amount * steps).div_ceil(u64::from(STEPS));
        for step in 0..u64::from(STEPS) {
            tokio::select! {
                biased;
                () = transfer.stop().cancelled() => return Err(HostError::new(ErrorKind::Failed, format!("{operation:?} was stopped"))),
                () = sleep(latency / STEPS) => transfer.advance(share(step + 1) - share(step)),
            }
        }
        match fault {
            Some(Fault { kind, effect: Effect::None }) => Err(planned(operation, kind)),
            fault => Ok(fault),
        }
    }

    fn place_beside(&self, image: &ImageLocation, disk: &str, capacity: u64) -> Result<()> {
        let mut world = self.inner.world.lock();
        let invalid = |text: String| HostError::new(ErrorKind::Invalid, text);
        let found = world.servers.get(&image.id).copied();
        let found =
            found.ok_or_else(|| invalid(format!("the image server {}:{} refuses: no image {}", image.host, image.port, image.id)))?;
        if found.size != image.size {
            return Err(invalid(format!("image {} has {} bytes, but {} were announced", image.id, found.size, image.size)));
        }
        if found.capacity > capacity {
            return Err(invalid(format!("image {} needs a disk of {} bytes, the disk has {capacity}", image.id, found.capacity)));
        }
        if !world.has_disk(disk) {
            return Err(HostError::new(ErrorKind::NotFound, format!("there is no disk {disk}")));
        }
        world.state.parts.insert(disk.into(), SimPart { image: image.id.clone(), capacity });
        Ok(())
    }

    /// A step that touches files only.
    async fn step<T: Send>(&self, operation: Operation, act: impl FnOnce(&mut World) -> Result<T> + Send) -> Result<T> {
        let process = self.process();
        process.point().await;
        let fault = self.inner.plan.lock().begin(operation);
        if let Some(Fault { kind, effect: Effect::None }) = fault {
            return Err(planned(operation, kind));
        }
        let result = self.inner.world.lock().act(act);
        process.point().await;
        fault.map_or(result, |fault| Err(planned(operation, fault.kind)))
    }
}

#[async_trait]
impl Images for SimHost {
    async fn fetch(&self, image: &ImageLocation, disk: &str, capacity: u64, transfer: &Transfer) -> Result<()> {
        let fault = self.transfer(Operation::Fetch, image.size, transfer).await?;
        self.place_beside(image, disk, capacity)?;
        self.process().point().await;
        fault.map_or(Ok(()), |fault| Err(planned(Operation::Fetch, fault.kind)))
    }

    async fn install(&self, disk: &str) -> Result<()> {
        self.step(Operation::Install, |world| {
            let missing = || HostError::new(ErrorKind::NotFound, format!("there is no image beside {disk}"));
            let part = world.state.parts.remove(disk).ok_or_else(missing)?;
            world.set_disk(disk, part.capacity);
            world.state.contents.insert(disk.into(), part.image);
            Ok(())
        })
        .await
    }

    async fn discard(&self, disk: &str) -> Result<Change> {
        self.step(Operation::Discard, |world| {
            let removed = world.state.parts.remove(disk).is_some();
            Ok(if removed { Change::Changed } else { Change::Unchanged })
        })
        .await
    }

    async fn fetch_media(&self, media: &ImageLocation, directory: &str, transfer: &Transfer) -> Result<String> {
        let size = self.inner.world.lock().media.get(&media.id).copied();
        let missing = || HostError::new(ErrorKind::Invalid, format!("the image server {}:{} refuses: no media", media.host, media.port));
        let fault = self.transfer(Operation::FetchMedia, size.ok_or_else(missing)?, transfer).await?;
        let file = format!("{directory}/{}.iso", media.id);
        self.inner.world.lock().state.files.insert(file.clone(), media.id.clone().into_bytes());
        fault.map_or(Ok(file), |fault| Err(planned(Operation::FetchMedia, fault.kind)))
    }

    async fn discard_media(&self, directory: &str, keep: &[String]) -> Result<Change> {
        self.step(Operation::DiscardMedia, |world| {
            let before = world.state.files.len();
            world.state.files.retain(|file, _| !file.starts_with(directory) || keep.contains(file));
            Ok(if world.state.files.len() < before { Change::Changed } else { Change::Unchanged })
        })
        .await
    }

    async fn upload(&self, disk: &str, image: &ImageLocation, transfer: &Transfer) -> Result<u64> {
        let size = self.inner.world.lock().disk(disk);
        let size = size.ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("there is no disk {disk}")))?;
        let fault = self.transfer(Operation::Upload, size, transfer).await?;
        self.inner.world.lock().uploads.insert(image.id.clone(), disk.into());
        fault.map_or(Ok(size), |fault| Err(planned(Operation::Upload, fault.kind)))
    }
}

impl World {
    /// Virtual size of a disk.
    fn disk(&self, path: &str) -> Option<u64> {
        let (directory, name) = path.rsplit_once('/')?;
        self.state.directories.get(directory)?.get(name).copied()
    }

    fn has_disk(&self, path: &str) -> bool {
        self.disk(path).is_some()
    }

    fn set_disk(&mut self, path: &str, capacity: u64) {
        if let Some((directory, name)) = path.rsplit_once('/') {
            if let Some(size) = self.state.directories.get_mut(directory).and_then(|volumes| volumes.get_mut(name)) {
                *size = capacity;
            }
        }
    }
}
