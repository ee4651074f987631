//! Block jobs of simulated guests: they take their time, and a guest that stops or a job that fails leaves them half done.

use std::time::Duration;

use tokio::time::Instant;

use super::super::{Change, ErrorKind, HostError, LiveMerge, Progress, Result};
use super::disks::SimLayer;
use super::world::{not_found, World};
use super::SimHost;
use crate::model::{GuestId, PowerState};

/// How far a job is told to be, bytes.
const SIZE: u64 = 1 << 20;

/// A job under way.
pub(super) struct Merge {
    guest: GuestId,
    merge: LiveMerge,
    begun: Instant,
    ends: Instant,
    fails: bool,
}

/// How jobs go.
#[derive(Clone, Copy)]
pub(super) struct MergePlan {
    pub(super) time: Duration,
    pub(super) failures: u32,
}

impl Default for MergePlan {
    fn default() -> Self {
        Self { time: Duration::from_secs(1), failures: 0 }
    }
}

impl SimHost {
    /// How long a job takes that merges images of a running guest (default 1 s).
    pub fn set_merge_time(&self, time: Duration) {
        self.inner.world.lock().merge_plan.time = time;
    }

    /// So many of the next jobs that merge images of a running guest break off half-way.
    pub fn fail_merges(&self, count: u32) {
        self.inner.world.lock().merge_plan.failures = count;
    }

    /// Jobs under way that merge images of running guests.
    pub fn merges(&self) -> usize {
        self.inner.world.lock().merges.len()
    }
}

impl World {
    pub(super) fn begin_merge(&mut self, id: GuestId, merge: &LiveMerge) -> Result<Change> {
        self.running(id)?;
        self.end_merges();
        if self.is_merged(merge)? {
            return Ok(Change::Unchanged);
        }
        if self.merge_at(id, merge.disk()).is_none() {
            // The image that is written to is neither what it was nor what it is to be until the job ends.
            if let LiveMerge::Down { top, base, .. } = merge {
                let above = self.layer(top).blocks;
                let mut below = self.layer(base);
                below.blocks.extend(above.into_iter().take(1));
                self.set_layer(base, below);
            }
            let begun = Instant::now();
            let fails = self.merge_plan.failures > 0;
            self.merge_plan.failures = self.merge_plan.failures.saturating_sub(1);
            self.merges.push(Merge { guest: id, merge: merge.clone(), begun, ends: begun + self.merge_plan.time, fails });
        }
        Ok(Change::Changed)
    }

    pub(super) fn merge_progress(&mut self, id: GuestId, path: &str) -> Result<Option<Progress>> {
        self.running(id)?;
        self.end_merges();
        Ok(self.merge_at(id, path).map(|job| {
            let (elapsed, whole) = (job.begun.elapsed().as_millis(), (job.ends - job.begun).as_millis().max(1));
            let done = u64::try_from(elapsed.saturating_mul(u128::from(SIZE)) / whole).unwrap_or(SIZE);
            Progress { done: done.min(SIZE), total: SIZE }
        }))
    }

    fn merge_at(&self, id: GuestId, path: &str) -> Option<&Merge> {
        self.merges.iter().find(|job| job.guest == id && job.merge.disk() == path)
    }

    /// Completes the jobs whose time has come; those of stopped guests are gone.
    pub(super) fn end_merges(&mut self) {
        let now = Instant::now();
        let (ended, going): (Vec<Merge>, Vec<Merge>) = self.merges.drain(..).partition(|job| job.ends <= now);
        self.merges = going;
        for job in ended.into_iter().filter(|job| !job.fails) {
            self.complete(&job.merge);
        }
        let domains = &self.state.domains;
        self.merges.retain(|job| domains.get(&job.guest).is_some_and(|domain| domain.power == PowerState::Running));
    }

    fn complete(&mut self, merge: &LiveMerge) {
        match merge {
            LiveMerge::Up { disk, base } => {
                let between: Vec<String> = self.below(disk).into_iter().take_while(|path| Some(path) != base.as_ref()).collect();
                let mut layer = self.layer(disk);
                for path in between {
                    for (block, value) in self.layer(&path).blocks {
                        layer.blocks.entry(block).or_insert(value);
                    }
                }
                layer.backing.clone_from(base);
                let written = self.layer(disk).blocks;
                self.write_layer(disk, layer);
                self.held_back.entry(disk.clone()).or_insert(written);
            }
            LiveMerge::Down { disk, top, base } => {
                let mut below = self.layer(base);
                below.blocks.extend(self.layer(top).blocks);
                self.write_layer(base, below);
                self.grow(base, top);
                let chain = [vec![disk.clone()], self.below(disk)].concat();
                for path in chain.into_iter().filter(|path| path != top) {
                    let mut layer = self.layer(&path);
                    if layer.backing.as_deref() == Some(top) {
                        layer.backing = Some(base.clone());
                        self.write_layer(&path, layer);
                    }
                }
            }
        }
    }

    /// QEMU writes, and the kernel keeps it in memory.
    fn write_layer(&mut self, path: &str, layer: SimLayer) {
        let before = self.layer(path);
        self.unsynced.entry(path.to_owned()).or_insert(before);
        self.set_layer(path, layer);
    }

    pub(super) fn flush_disk(&mut self, id: GuestId, path: &str) -> Result<()> {
        self.running(id)?;
        self.end_merges();
        self.image(path)?;
        self.held_back.remove(path);
        Ok(())
    }

    /// The QEMU of a guest ends as it should, and keeps nothing back.
    pub(super) fn flush_all(&mut self, id: GuestId) {
        let name = id.to_string();
        self.held_back.retain(|path, _| !path.contains(&name));
    }

    /// The QEMU of a guest dies: the headers of its images are as it left them, and what it held back is not there.
    pub(super) fn forget_held_back(&mut self, id: GuestId) {
        self.end_merges();
        let name = id.to_string();
        let (lost, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held_back).into_iter().partition(|(path, _)| path.contains(&name));
        self.held_back.extend(kept);
        for (path, blocks) in lost {
            let layer = self.layer(&path);
            self.set_layer(&path, SimLayer { blocks, ..layer });
        }
    }

    /// The host has lost its power, and its memory with it.
    pub(super) fn lose_memory(&mut self) {
        for (path, layer) in std::mem::take(&mut self.unsynced) {
            if self.image(&path).is_ok() {
                self.set_layer(&path, layer);
            }
        }
    }

    fn is_merged(&self, merge: &LiveMerge) -> Result<bool> {
        let (disk, below) = (merge.disk(), self.below(merge.disk()));
        self.image(disk).map_err(|_| not_found("disk", &disk))?;
        let done = merge.is_done(below.len(), |path| below.iter().position(|file| file == path));
        done.ok_or_else(|| HostError::new(ErrorKind::Invalid, format!("{disk} is based on {below:?}, which does not fit {merge:?}")))
    }

    /// Images below one, the upper ones first.
    fn below(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut next = self.layer(path).backing;
        while let Some(path) = next {
            next = self.layer(&path).backing;
            found.push(path);
        }
        found
    }
}
