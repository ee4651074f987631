//! Guests that QEMU holds because a disk is full: told, and let go on when there is space again.
//!
//! Contract: a held guest counts as running (contract §6.2: the Core knows stopped and running only), and nothing is lost: QEMU tries the write again
//! when it goes on. While no guest is held nothing is asked. While one is, its file system is looked at every ten seconds; one that is held again at
//! once is tried less and less often. Only what QEMU holds because of a full disk is let go on: not a guest that somebody has paused, nor one
//! whose disk reports an error of its device, which is told only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{timeout, Instant};

use super::{Failure, Node};
use crate::host::{Change, FailedDisk, HeldGuest};
use crate::model::{GuestConfig, GuestId};

/// Between two looks while a guest is held.
const PACE: Duration = Duration::from_secs(10);

/// Longest wait for a guest that is held again each time.
const LONGEST: Duration = Duration::from_secs(300);

/// A guest that has gone on for so long is well.
const STEADY: Duration = Duration::from_secs(60);

/// Bytes that are space enough; of a small file system one in [`PART`].
const ENOUGH: u64 = 64 << 20;
const PART: u64 = 20;

/// Those that are held, or were until a moment ago.
#[derive(Default)]
pub struct Held {
    episodes: Mutex<BTreeMap<GuestId, Episode>>,
    news: Notify,
}

/// One guest's trouble.
struct Episode {
    /// For people.
    text: String,
    /// It is held; else it was let go on at `since`.
    held: bool,
    since: Instant,
    /// Since the last try, before the next one.
    wait: Duration,
}

impl Held {
    /// A guest may be held now.
    pub fn wake(&self) {
        self.news.notify_one();
    }

    /// Guests that are held, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.episodes.lock().values().filter(|episode| episode.held).map(|episode| episode.text.clone()).collect()
    }
}

/// Looks after held guests for ever.
pub async fn keep(node: Arc<Node>) -> Result<(), String> {
    loop {
        let watching = look(&node).await;
        let news = node.held.news.notified();
        match watching {
            true => drop(timeout(PACE, news).await),
            false => news.await,
        }
    }
}

/// One look; false when there is nothing to look at again.
async fn look(node: &Node) -> bool {
    let found = match node.host.hypervisor.held().await {
        Ok(found) => found,
        // libvirt is away; once it is back everything is looked at anew.
        Err(_) => return !node.held.episodes.lock().is_empty(),
    };
    let ours: Vec<(HeldGuest, Arc<GuestConfig>)> = {
        let books = node.books.lock();
        found
            .into_iter()
            .filter_map(|held| Some((books.guests.get(&held.id)?.config.clone(), held)))
            .map(|(config, held)| (held, config))
            .collect()
    };
    for (held, config) in &ours {
        enter(node, held, config);
    }
    close(node, &ours.iter().map(|(held, _)| held.id).collect());
    for (held, config) in &ours {
        if is_due(node, held.id) && is_about_space(held) && has_space(node, held, config).await {
            let_go(node, held.id, config).await;
        }
    }
    !node.held.episodes.lock().is_empty()
}

/// Writes down that a guest is held, and tells it when that is news.
fn enter(node: &Node, held: &HeldGuest, config: &GuestConfig) {
    let (id, name, reason) = (held.id, &config.name, reason(held));
    let text = format!("{name}: {reason}");
    let mut episodes = node.held.episodes.lock();
    match episodes.get_mut(&id) {
        None => {
            tracing::error!(guest = %id, %name, "QEMU holds the guest: {reason}; it goes on by itself once there is space");
            // The first try does not have to wait.
            let since = Instant::now().checked_sub(PACE).unwrap_or_else(Instant::now);
            episodes.insert(id, Episode { text, held: true, since, wait: PACE });
        }
        Some(episode) if !episode.held => {
            (episode.held, episode.text) = (true, text);
            episode.wait = (episode.wait * 2).min(LONGEST);
            tracing::warn!(guest = %id, %name, "QEMU holds the guest again: {reason}; the next try is in {} s", episode.wait.as_secs());
        }
        Some(episode) => episode.text = text,
    }
}

fn reason(held: &HeldGuest) -> String {
    let tell = |disk: &FailedDisk| {
        let why = if disk.full { "there is no space left for it" } else { "its device reports an error: see the kernel's log" };
        format!("{} can't be written, {why}", disk.path)
    };
    match held.disks.first() {
        Some(disk) => tell(disk),
        None => "a disk can't be written".to_owned(),
    }
}

/// Forgets guests that go on, or that have ended.
fn close(node: &Node, held: &BTreeSet<GuestId>) {
    node.held.episodes.lock().retain(|id, episode| {
        if held.contains(id) {
            return true;
        }
        if episode.held {
            tracing::info!(guest = %id, "the guest is not held any more");
        }
        !episode.held && episode.since.elapsed() < STEADY
    });
}

fn is_due(node: &Node, id: GuestId) -> bool {
    let due = node.held.episodes.lock().get(&id).is_some_and(|episode| episode.held && episode.since.elapsed() >= episode.wait);
    // What a transaction does with the guest comes first.
    due && node.jobs.current(id).is_none()
}

/// Where libvirt does not tell the disk, a full one is the likely reason.
fn is_about_space(held: &HeldGuest) -> bool {
    held.disks.is_empty() || held.disks.iter().any(|disk| disk.full)
}

/// Whether there is space on each of the file systems that were full.
async fn has_space(node: &Node, held: &HeldGuest, config: &GuestConfig) -> bool {
    for directory in directories(node, held, config) {
        let space = node.host.storage.space(&[directory]).await;
        if !space.unreadable.is_empty() || space.free < ENOUGH.min(space.total / PART) || space.free == 0 {
            return false;
        }
    }
    true
}

/// Directories of the full disks; of all disks where it is not known which are full.
fn directories(node: &Node, held: &HeldGuest, config: &GuestConfig) -> BTreeSet<String> {
    let books = node.books.lock();
    let group = books.storage.groups.get(&held.id);
    let full = |name: &str| held.disks.is_empty() || held.disks.iter().any(|disk| disk.full && disk.path.ends_with(name));
    let volumes = group.into_iter().flat_map(|group| group.volumes()).filter(|volume| full(&volume.name));
    let mut directories: BTreeSet<String> = volumes.map(|volume| volume.directory().to_owned()).filter(|path| !path.is_empty()).collect();
    let named = held.disks.iter().filter(|disk| disk.full && disk.path.starts_with('/'));
    directories.extend(named.filter_map(|disk| Some(disk.path.rsplit_once('/')?.0.to_owned())));
    if directories.is_empty() {
        directories.extend(books.storage.pools.get(&config.storage_pool).map(|pool| pool.target.clone()));
    }
    directories
}

async fn let_go(node: &Node, id: GuestId, config: &GuestConfig) {
    let result = node.host.hypervisor.resume(id).await;
    if let Some(episode) = node.held.episodes.lock().get_mut(&id) {
        episode.since = Instant::now();
        episode.held = result.is_err();
    }
    match result {
        Ok(Change::Changed) => tracing::info!(guest = %id, name = %config.name, "there is space again; the guest goes on"),
        Ok(Change::Unchanged) => {}
        Err(error) => tracing::error!(guest = %id, name = %config.name, "the guest can't be let go on: {}", Failure::Host(error)),
    }
}

#[cfg(test)]
mod tests;
