//! DetachInstanceRequest (contract §6.7): guests of the shared pool leave for another host; their files stay.
//!
//! With a list, a planned move, all or nothing: a step that fails gives every guest back what it had, its run included. With an empty list the
//! purge of a host that was lost and is back: the Core has moved its guests. Each is on its own then, so that one that makes trouble does not
//! keep the others here at every reconnect (§14 D27). A guest with local disks can't have been moved, and stays.

use std::sync::Arc;

use futures_util::future::join_all;

use super::attach_instance::read_guests;
use crate::host::{ErrorKind, HostError};
use crate::model::{Guest, GuestId, PowerState};
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::undo::Undo;
use crate::txn::{Context, Failure, Node};

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let ids = read_guests(context.params())?;
    if ids.is_empty() {
        return purge(&context).await;
    }
    let leaving = check(&context, &ids).await?;
    let mut undo = Undo::default();
    match detach(&context, &leaving, &mut undo).await {
        Ok(()) => {
            undo.disarm();
            Ok(())
        }
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
    for one in leaving {
        context.check()?;
        take_down(node, one, undo).await?;
    }
    for one in leaving {
        context.check()?;
        let (back, id) = (node.clone(), one.id);
        undo.push(format!("claim of guest {id}"), async move { back.hold(id).await.map(drop).map_err(as_host_error) });
        node.let_go(&one.directory, id, one.runs()).await?;
    }
    strike(node, leaving, undo);
    node.save(FILES).await?;
    context.respond(context.success())
}

/// Ends the guest and takes it from libvirt.
async fn take_down(node: &Arc<Node>, one: &Leaving, undo: &mut Undo) -> Result<(), Failure> {
    let (id, hypervisor) = (one.id, &node.host.hypervisor);
    if one.runs() {
        let back = node.clone();
        undo.push(format!("guest {id}, which ran and is stopped now"), async move {
            back.host.hypervisor.start(id).await?;
            back.set_power(id, PowerState::Running);
            back.usage.started(id);
            Ok(())
        });
        hypervisor.destroy(id).await?;
    }
    let (back, config) = (node.clone(), one.guest.config.clone());
    undo.push(format!("domain of guest {id}"), async move {
        back.host.hypervisor.define(&config).await?;
        back.set_power(id, PowerState::Stopped);
        Ok(())
    });
    hypervisor.undefine(id).await?;
    Ok(())
}

fn strike(node: &Arc<Node>, leaving: &[Leaving], undo: &mut Undo) {
    let mut books = node.books.lock();
    let mut struck = Vec::new();
    for one in leaving {
        let (group, resource) = (books.storage.groups.get(&one.id).cloned(), books.network.resources.get(&one.id).cloned());
        struck.push((one.guest.clone(), group.unwrap_or_default(), resource));
        forget(node, &mut books, one.id);
    }
    let back = node.clone();
    undo.push("the guests in data/", async move {
        {
            let mut books = back.books.lock();
            for (guest, group, resource) in struck {
                if let Some(resource) = resource {
                    books.network.resources.insert(guest.config.id, resource);
                }
                books.insert(guest, group);
            }
        }
        back.save(FILES).await.map_err(as_host_error)
    });
}

/// Out of the books, with the files on the shared storage left as they are.
fn forget(node: &Node, books: &mut crate::txn::node::books::Inner, id: GuestId) {
    node.leave_copy(id);
    books.remove(id);
    node.usage.forget(id);
}

fn as_host_error(failure: Failure) -> HostError {
    HostError::new(ErrorKind::Failed, failure.to_string())
}

/// Everything that the Core has moved goes.
async fn purge(context: &Arc<Context>) -> Result<(), Failure> {
    let node = &context.node;
    let (shared, local): (Vec<GuestId>, Vec<GuestId>) = {
        let books = node.books.lock();
        let (shared, local): (Vec<&Guest>, _) = books.guests.values().partition(|guest| books.shared_pool(&guest.config).is_some());
        let ids = |guests: Vec<&Guest>| guests.into_iter().map(|guest| guest.config.id).collect();
        (ids(shared), ids(local))
    };
    if !local.is_empty() {
        tracing::warn!("{} guests with local disks can't have been moved and stay", local.len());
    }
    let outcomes = join_all(shared.iter().map(|id| purge_one(context, *id))).await;
    node.save(FILES).await?;
    let failures: Vec<Failure> = outcomes.into_iter().filter_map(Result::err).collect();
    match failures.first() {
        None => context.respond(context.success()),
        Some(first) => {
            Err(Failure::refused(format!("{} of {} guests could not be purged; the first: {first}", failures.len(), shared.len())))
        }
    }
}

async fn purge_one(context: &Context, id: GuestId) -> Result<(), Failure> {
    let node = &context.node;
    node.transfers.stop(id, "the guest has been moved to another cell");
    let _job = node.jobs.outlast(id, Job::Detach, context.deadline()).await?;
    let Ok(guest) = node.books.guest(id) else { return Ok(()) };
    // Gone from libvirt already is as good.
    match node.host.hypervisor.destroy(id).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    node.host.hypervisor.undefine(id).await?;
    if let Some(directory) = node.shared_directory(id) {
        // Nobody can be kept waiting for a server that is silent: the new owner takes the claim on the Core's word.
        if let Err(failure) = node.let_go(&directory, id, guest.power == PowerState::Running).await {
            tracing::warn!(guest = %id, "its claim could not be given back: {failure}");
        }
    }
    forget(node, &mut node.books.lock(), id);
    tracing::info!(guest = %id, name = %guest.config.name, "purged: the Core has moved it");
    Ok(())
}

#[cfg(test)]
mod tests;
