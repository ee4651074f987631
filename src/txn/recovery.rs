//! What a run that did not end in order left half done: finished or taken back before the domain is joined.
//!
//! Contract: every open record of the journal is gone through, in its order: carried out when its transaction had succeeded, else taken back. A
//! server that does not answer is not waited for; what it would be needed for stays in the journal, and is tried again before the next change of
//! the same guest, pools or addresses, when libvirt is back after it was away (`rounds`), and at the next start. The log says what became of each.
//!
//! An earlier version kept no journal: a guest whose system disk was being filled is marked in the books, and is removed with all that it had
//! (contract §14 B13); where that fails it stays, is reported as not created and can be deleted. An image that was to replace the
//! disk of a finished guest is removed; the guest keeps the disk that it had.

mod rebuild;
mod rounds;
mod turn;

use std::collections::BTreeSet;
use std::future::{pending, Future};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout, Instant};

pub use rebuild::rebuild;
pub(super) use rounds::Rounds;

use super::handlers::{remains, welcome};
use super::node::jobs::Job;
use super::undo::{is_move, resolve, Resolved, Silent};
use super::volumes::live;
use super::{audit, missed, Failure, Node};
use crate::model::{GuestId, Pool};
use crate::store::journal::{Course, Intent, OpenRecord};
use crate::store::DataFile;
use turn::Turn;

/// How long a pool may take to remove a file.
const PATIENCE: Duration = Duration::from_secs(2);

/// Cleans up after the last run. To be called before the host's events are listened to.
pub async fn clean_up(node: &Arc<Node>) {
    go_through_journal(node).await;
    remove_unfinished(node).await;
    suspect_merges(node);
}

async fn go_through_journal(node: &Arc<Node>) {
    let mut silent = Silent::default();
    for record in node.store.journal().open_records() {
        end(node, &record, &mut silent).await;
    }
}

/// Ends a record on which nobody works, and says what became of it.
async fn end(node: &Arc<Node>, record: &OpenRecord, silent: &mut Silent) {
    let OpenRecord { intent: Intent { what, guests, .. }, since, .. } = record;
    let guests: Vec<String> = guests.iter().map(ToString::to_string).collect();
    let about = if guests.is_empty() { String::new() } else { format!(" of guest {}", guests.join(", ")) };
    let resolved = resolve(node, record.number, Some(silent)).await;
    if let Resolved::Done(course) = &resolved {
        audit::cleaned_up(node, record, *course);
    }
    match resolved {
        Resolved::Done(Course::Back) => tracing::warn!("{what}{about}, begun at {since}, had not ended: it is taken back"),
        Resolved::Done(Course::Forward) => tracing::warn!("{what}{about}, begun at {since}, had not ended: it is completed"),
        Resolved::Left(failure @ Failure::Undecided(_)) => tracing::info!("{what}{about}, begun at {since}, may go on: {failure}"),
        Resolved::Left(failure) => {
            tracing::error!("{what}{about}, begun at {since}, had not ended, and can't be cleaned up yet: {failure}");
        }
        Resolved::Nothing => {}
    }
}

/// Takes back, or completes, what a transaction left that ended in a panic.
pub(super) async fn after_panic(node: &Arc<Node>, records: &[u64]) {
    for number in records {
        take_up(node, *number, pending()).await;
    }
}

/// Ends a record as soon as nobody else works on what it is about; waits for that until `given_up`.
async fn take_up(node: &Arc<Node>, number: u64, given_up: impl Future<Output = ()>) {
    let Some(record) = node.store.journal().record(number) else { return };
    let turn = tokio::select! {
        biased;
        turn = Turn::of(node, &record) => turn,
        () = given_up => return,
    };
    match turn {
        Ok(_turn) => end(node, &record, &mut Silent::default()).await,
        // Whoever is at it ends it, or is waited for the next time.
        Err(_) if node.store.journal().record(number).is_none_or(|record| record.running) => {}
        Err(failure) => {
            let OpenRecord { intent, since, .. } = record;
            tracing::warn!("{}, begun at {since}, had not ended, and can't be cleaned up yet: {failure}", intent.what);
        }
    }
}

/// Moves to and from a pool whose end could not be seen before: because the former host has the guest still and may let go of it, or because the server did
/// not answer. What comes of it is told when the Core has spoken.
pub(super) async fn decide_moves(node: &Arc<Node>, pool: &Pool) {
    for record in node.store.journal().open_records().into_iter().filter(|record| !record.running && is_move(record, &pool.target)) {
        let mut jobs = Vec::new();
        for guest in &record.intent.guests {
            jobs.extend(node.jobs.acquire(*guest, Job::Attach, Instant::now()).await);
        }
        if jobs.len() < record.intent.guests.len() {
            // Somebody is at it.
            continue;
        }
        match resolve(node, record.number, Some(&mut Silent::default())).await {
            Resolved::Done(_) => tracing::warn!("what {} had begun is decided", record.intent.what),
            Resolved::Left(failure) => {
                tracing::debug!("{failure}");
                continue;
            }
            Resolved::Nothing => continue,
        }
        drop(jobs);
        let come: Vec<GuestId> = welcome::unknown(node).into_iter().filter(|id| record.intent.guests.contains(id)).collect();
        if !come.is_empty() && node.core_has_spoken.load(Ordering::Relaxed) {
            welcome::tell(node, &come, 0);
            let node = node.clone();
            tokio::spawn(async move { welcome::start(&node, &come, 0).await });
        }
    }
}

/// An earlier version's way to mark what is half done.
async fn remove_unfinished(node: &Arc<Node>) {
    let guests: Vec<(GuestId, String, bool)> = {
        let books = node.books.lock();
        books.guests.values().map(|guest| (guest.config.id, guest.config.name.clone(), guest.config.unfinished)).collect()
    };
    let mut silent = BTreeSet::new();
    for (id, name, unfinished) in guests {
        discard(node, id, &mut silent).await;
        if unfinished {
            match remove(node, id).await {
                Ok(()) => {
                    tracing::warn!(guest = %id, %name, "its system disk had not been filled when the last run ended; the guest is removed")
                }
                Err(failure) => tracing::error!(guest = %id, %name, "the unfinished guest can't be removed, delete it: {failure}"),
            }
        }
    }
}

/// Removes what a fetch left beside the guest's system disk. A pool that does not answer is asked once: the service must not wait for a dead file
/// server.
async fn discard(node: &Arc<Node>, id: GuestId, silent: &mut BTreeSet<String>) {
    let disk = node.books.lock().system_disk(id);
    let Some(disk) = disk.filter(|disk| !silent.contains(&disk.pool)) else { return };
    match timeout(PATIENCE, node.host.images.discard(&disk.path)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let failure = Failure::Host(error);
            tracing::error!(guest = %id, "an image that was being fetched may be left beside {}: {failure}", disk.path);
        }
        Err(_) => {
            tracing::error!("pool {} does not answer: what the last run left in it stays", disk.pool);
            silent.insert(disk.pool);
        }
    }
}

/// Guests in which the last run may have left the deletion of a snapshot half done.
fn suspect_merges(node: &Node) {
    let books = node.books.lock();
    let with_snapshots = books.storage.groups.iter().filter(|(_, group)| !group.snapshots.is_empty());
    node.broken_merges.lock().extend(with_snapshots.map(|(id, _)| *id));
}

/// Lets the snapshots go whose deletion has broken off in running guests. Takes as long as QEMU does, which may have much to copy.
pub(super) async fn complete_merges(node: &Arc<Node>) {
    let suspects: Vec<GuestId> = node.broken_merges.lock().iter().copied().collect();
    for id in suspects {
        match live::resume(node, id).await {
            Ok(()) | Err(Failure::NoSuchGuest(_)) => drop(node.broken_merges.lock().remove(&id)),
            Err(failure) => tracing::warn!(guest = %id, "whether a snapshot's deletion broke off can't be seen now: {failure}"),
        }
    }
}

async fn remove(node: &Arc<Node>, id: GuestId) -> Result<(), Failure> {
    // With a job, so that the vanished domain surprises nobody.
    let _job = node.jobs.acquire(id, Job::Delete, Instant::now() + PATIENCE).await?;
    node.host.hypervisor.undefine(id).await?;
    let config = node.books.guest(id)?.config;
    let group = remains::volumes(node, &config)?;
    remains::delete_volumes(node, id, &group).await?;
    node.books.lock().remove(id);
    node.missed.keep(missed::broken_off(id));
    node.save(&[DataFile::Instance, DataFile::Storage, DataFile::Network]).await
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;
