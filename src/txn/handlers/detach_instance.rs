//! DetachInstanceRequest (contract §6.7): guests of the shared pool leave for another host; their files stay.
//!
//! With a list, a planned move, all or nothing: a step that fails gives every guest back what it had, its run included, unless the other host has it by
//! then. With an empty list the
//! purge of a host that was lost and is back: the Core has moved its guests. Each is on its own then, so that one that makes trouble does not
//! keep the others here at every reconnect (§14 D27). A guest with local disks can't have been moved, and stays.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::attach_instance::read_guests;
use super::remains::{self, forget};
use super::welcome;
use crate::model::{Guest, GuestId, PowerState};
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::node::transfers::StopReason;
use crate::txn::undo::{self, Step, Undo};
use crate::txn::{Context, Failure, Node};

/// From the answer to a purge to what the Core is told behind it: it works on both side by side.
const TELLING_DELAY: Duration = Duration::from_secs(1);

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let ids = read_guests(context.params())?;
    if ids.is_empty() {
        return purge(&context).await;
    }
    let leaving = check(&context, &ids).await?;
    let mut undo = Undo::new(&context, &ids);
    match detach(&context, &leaving, &mut undo).await {
        Ok(()) => Ok(()),
        Err(cause) => Err(undo.run(cause).await),
    }
}

/// A guest on its way out.
struct Leaving {
    id: GuestId,
    guest: Guest,
    directory: String,
    _job: JobGuard,
}

impl Leaving {
    fn runs(&self) -> bool {
        self.guest.power == PowerState::Running
    }
}

/// Takes the turn of every guest; nothing is touched before all of them can go.
async fn check(context: &Context, ids: &[GuestId]) -> Result<Vec<Leaving>, Failure> {
    let node = &context.node;
    let mut leaving = Vec::new();
    for id in ids {
        let job = context.job(*id, Job::Detach).await?;
        let guest = node.books.guest(*id)?;
        let name = &guest.config.name;
        let directory = node.shared_directory(*id);
        let directory = directory.ok_or_else(|| Failure::refused(format!("guest '{name}' can't be moved: its disks are local")))?;
        if !guest.created {
            return Err(Failure::refused(format!("guest '{name}' can't be moved: its system disk is still being written")));
        }
        leaving.push(Leaving { id: *id, guest, directory, _job: job });
    }
    context.check()?;
    Ok(leaving)
}

async fn detach(context: &Arc<Context>, leaving: &[Leaving], undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    undo.plan(steps(node, leaving).await?).await?;
    for one in leaving {
        context.check()?;
        if one.runs() {
            node.host.hypervisor.destroy(one.id).await?;
        }
        node.host.hypervisor.undefine(one.id).await?;
    }
    for one in leaving {
        context.check()?;
        node.let_go(&one.directory, one.id, one.runs()).await?;
    }
    for one in leaving {
        forget(node, one.id);
    }
    node.save(FILES).await?;
    undo.complete(context.success()).await
}

/// What is going to be done.
async fn steps(node: &Node, leaving: &[Leaving]) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for one in leaving {
        let tenure = node.host.shared.claim(&one.directory, one.id).await?.unwrap_or_default().tenure;
        let (group, resource) = {
            let books = node.books.lock();
            (books.storage.groups.get(&one.id).cloned().unwrap_or_default(), books.network.resources.get(&one.id).cloned())
        };
        steps.push(Step::Leave(Box::new(undo::Leaving {
            config: one.guest.config.as_ref().clone(),
            group,
            resource,
            directory: one.directory.clone(),
            tenure,
            ran: one.runs(),
            boot: node.host.shared.boot(),
        })));
    }
    Ok(steps)
}

/// Everything that the Core has moved goes.
async fn purge(context: &Arc<Context>) -> Result<(), Failure> {
    let node = &context.node;
    node.core_has_spoken.store(true, Ordering::Relaxed);
    let (shared, local): (Vec<GuestId>, Vec<GuestId>) = {
        let books = node.books.lock();
        let (shared, local): (Vec<&Guest>, _) = books.guests.values().partition(|guest| books.shared_pool(&guest.config).is_some());
        let ids = |guests: Vec<&Guest>| guests.into_iter().map(|guest| guest.config.id).collect();
        (ids(shared), ids(local))
    };
    let (kept, shared) = came_lately(context, shared).await;
    if !local.is_empty() {
        tracing::warn!("{} guests with local disks can't have been moved and stay", local.len());
    }
    let outcomes = join_all(shared.iter().map(|id| purge_one(context, *id))).await;
    node.save(FILES).await?;
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(undo) => drop(undo.map(Undo::end)),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.first() {
        None => {
            context.respond(context.success())?;
            tell_late(context, &kept).await;
            Ok(())
        }
        Some(first) => {
            Err(Failure::refused(format!("{} of {} guests could not be purged; the first: {first}", failures.len(), shared.len())))
        }
    }
}

/// Guests whose move here the Core does not know of yet, and the others. The former are on no list of the Core's that could have been moved elsewhere. One that
/// was nevertheless has another owner.
async fn came_lately(context: &Context, shared: Vec<GuestId>) -> (Vec<GuestId>, Vec<GuestId>) {
    let unknown = welcome::unknown(&context.node);
    let (mut kept, mut moved) = (Vec::new(), Vec::new());
    for id in shared {
        if unknown.contains(&id) && context.node.hold(id).await.is_ok() {
            kept.push(id);
        } else {
            moved.push(id);
        }
    }
    (kept, moved)
}

/// The Core empties its list of our guests when it has our answer; what came lately is for the list that it begins then.
async fn tell_late(context: &Context, kept: &[GuestId]) {
    if kept.is_empty() {
        return;
    }
    tracing::warn!("{} guests whose move here the Core does not know of stay", kept.len());
    sleep(TELLING_DELAY).await;
    welcome::tell(&context.node, kept, context.session.0);
    welcome::start(&context.node, kept, context.session.0).await;
}

/// The books are still to be written; then the record can end.
async fn purge_one(context: &Arc<Context>, id: GuestId) -> Result<Option<Undo>, Failure> {
    let node = &context.node;
    node.transfers.stop(id, StopReason::Moved);
    let _job = node.jobs.outlast(id, Job::Detach, context.deadline()).await?;
    let Ok(guest) = node.books.guest(id) else { return Ok(None) };
    let directory = node.shared_directory(id);
    let mut undo = Undo::new(context, &[id]);
    let running = guest.power == PowerState::Running;
    undo.plan_forward(vec![Step::Purge { guest: id, directory: directory.clone(), running }]).await?;
    remains::purge(node, id, directory.as_deref(), running).await?;
    tracing::info!(guest = %id, name = %guest.config.name, "purged: the Core has moved it");
    Ok(Some(undo))
}

#[cfg(test)]
mod tests;
