//! AttachInstanceRequest and the MigrateInstanceRequest that follows it (contract §6.7, flows 7.7 and 7.8): guests of the shared pool come here.
//!
//! A planned move is all or nothing until the Core orders the migration: a step that fails, an order that does not come, or our own end takes everything back
//! (§14 D24). From the order on the former host has let go of the guests and there is no way back: what fails then is tried again and logged, and
//! the guests stay here (§14 A8). At a failover each guest is on its own: one that can't be taken does not keep the others. The
//! guests enter the books, and their claims are taken, only when they are ours; until then they can't be started here.

mod arrival;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, Instant};

use self::arrival::Arrival;
use super::start_instance::{announce_started, power_on_until};
use crate::model::{GuestId, Pool, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::node::jobs::Job;
use crate::txn::params::Params;
use crate::txn::undo::Undo;
use crate::txn::{Context, Failure};

/// How long the Core may take to detach the guests from their former host and to order the migration: several times its own timeout (§14 A8).
const ORDER_PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts to take a guest at a failover, and how many there are.
const RETRY: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 5;

/// How long a guest that ran before is tried to be started: QEMU's locks keep it from its disks while another copy runs.
const START_PATIENCE: Duration = Duration::from_secs(90);

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let immediate = params.bool(Key::Immediate)?;
    let ids = read_guests(params)?;
    if ids.is_empty() {
        return Err(params.bad(Key::Instance, "is empty: the ids of the guests are expected"));
    }
    if immediate {
        let source = params.string(Key::Cell)?.to_owned();
        failover(&context, &ids, &source).await
    } else {
        planned(&context, &ids).await
    }
}

/// The guests that a request names, each once.
pub(super) fn read_guests(params: Params<'_>) -> Result<Vec<GuestId>, Failure> {
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for text in params.strings(Key::Instance)? {
        let id: GuestId = text.parse().map_err(|error| params.bad(Key::Instance, format!("is wrong: {error}")))?;
        if seen.insert(id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

async fn planned(context: &Arc<Context>, ids: &[GuestId]) -> Result<(), Failure> {
    // The Core has given up on an earlier attempt with these guests.
    context.node.mailboxes.supersede(ids);
    let mailbox = context.mailbox(MessageId::MIGRATE_INSTANCE_REQUEST, ids);
    let mut undo = Undo::new(context, ids);
    let arrivals = match prepare_all(context, ids, &mut undo).await {
        Ok(arrivals) => arrivals,
        Err(cause) => return Err(undo.run(cause).await),
    };
    let Some(order) = mailbox.receive(Instant::now() + ORDER_PATIENCE).await else {
        let cause = Failure::refused("the Core has not ordered the migration after all; the guests are where they were");
        return Err(undo.run(cause).await);
    };
    if let Err(failure) = ours(&arrivals, &mut undo, context).await {
        return Err(undo.run(failure).await);
    }
    let migration = order.string_params.get(&Key::Migration).cloned().unwrap_or_default();
    let mut moved = Vec::new();
    let mut all_saved = true;
    for arrival in arrivals {
        let (guest, saved) = arrival.enter(context).await;
        moved.push(guest);
        all_saved &= saved;
    }
    if all_saved {
        undo.end();
    }
    context.event(migrated(&moved).bool(Key::Immediate, false).string(Key::Migration, migration));
    start_all(context, moved).await;
    Ok(())
}

/// From here on the guests are ours, and a crash changes nothing about that.
async fn ours(arrivals: &[Arrival], undo: &mut Undo, context: &Context) -> Result<(), Failure> {
    for arrival in arrivals {
        undo.afterwards(arrival.rest(context).await);
    }
    undo.commit().await
}

/// The steps up to the answer.
async fn prepare_all(context: &Arc<Context>, ids: &[GuestId], undo: &mut Undo) -> Result<Vec<Arrival>, Failure> {
    let pool = shared_pool(context).await?;
    let mut arrivals = Vec::new();
    for id in ids {
        context.check()?;
        arrivals.push(Arrival::prepare(context, *id, &pool, context.deadline(), undo).await?);
    }
    context.respond(context.success())?;
    Ok(arrivals)
}

/// The pool that guests come from, read anew.
async fn shared_pool(context: &Context) -> Result<Pool, Failure> {
    let current = context.node.books.lock().current_shared().cloned();
    let pool = current.ok_or_else(|| Failure::refused("this cell has no shared storage attached, so no guest can come here"))?;
    let storage = &context.node.host.storage;
    storage.refresh_pool(&pool.name).await?;
    Ok(storage.pool(&pool.name).await?)
}

/// Takes what can be taken of the guests of a lost host, and tells the Core which. Nobody waits for an answer.
async fn failover(context: &Arc<Context>, ids: &[GuestId], source: &str) -> Result<(), Failure> {
    context.respond(context.success())?;
    let mut left: Vec<GuestId> = ids.to_vec();
    let mut moved = Vec::new();
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(RETRY).await;
        }
        let (taken, failed, why) = take_all(context, &left).await;
        if !taken.is_empty() {
            context.event(migrated(&taken).bool(Key::Immediate, true).string(Key::Cell, source));
        }
        moved.extend(taken);
        (left, last) = (failed, why);
        if left.is_empty() {
            break;
        }
    }
    for id in &left {
        tracing::error!(guest = %id, "it could not be taken from {source}; the Core keeps it as migrating");
    }
    start_all(context, moved).await;
    last.filter(|_| !left.is_empty()).map_or(Ok(()), Err)
}

/// Those that were taken, those that were not, and why the last of them was not.
async fn take_all(context: &Arc<Context>, ids: &[GuestId]) -> (Vec<Moved>, Vec<GuestId>, Option<Failure>) {
    let pool = match shared_pool(context).await {
        Ok(pool) => pool,
        Err(failure) => return (Vec::new(), ids.to_vec(), Some(failure)),
    };
    let (mut taken, mut failed, mut why) = (Vec::new(), Vec::new(), None);
    for id in ids {
        let mut undo = Undo::new(context, &[*id]);
        let prepared = async {
            let arrival = Arrival::prepare(context, *id, &pool, Instant::now() + RETRY, &mut undo).await?;
            ours(std::slice::from_ref(&arrival), &mut undo, context).await?;
            Ok(arrival)
        };
        match prepared.await {
            Ok(arrival) => {
                let (guest, saved) = arrival.enter(context).await;
                taken.push(guest);
                if saved {
                    undo.end();
                }
            }
            Err(cause) => {
                let failure = undo.run(cause).await;
                tracing::error!(guest = %id, "it can't be taken: {failure}");
                failed.push(*id);
                why = Some(failure);
            }
        }
    }
    (taken, failed, why)
}

/// A guest that is ours now.
pub(super) struct Moved {
    id: GuestId,
    monitor_port: u16,
    /// It is to run: it did before, or is always started.
    starts: bool,
}

fn migrated(moved: &[Moved]) -> Message {
    Message::new(MessageId::INSTANCE_MIGRATED_EVENT)
        .succeeded()
        .strings(Key::Instance, moved.iter().map(|guest| guest.id.to_string()).collect::<Vec<_>>())
        .uints(Key::Monitor, moved.iter().map(|guest| u64::from(guest.monitor_port)).collect::<Vec<_>>())
}

async fn start_all(context: &Arc<Context>, moved: Vec<Moved>) {
    join_all(moved.iter().filter(|guest| guest.starts).map(|guest| start(context, guest.id))).await;
}

/// Starts a guest as soon as nothing stands against it, and tells the Core how that ended.
async fn start(context: &Context, id: GuestId) {
    let give_up = Instant::now() + START_PATIENCE;
    loop {
        let started = async {
            let job = context.node.jobs.acquire(id, Job::Start, give_up).await?;
            power_on_until(context, id, give_up).await?;
            Ok::<_, Failure>(job)
        };
        match started.await {
            Ok(_job) => return announce_started(context, id),
            Err(Failure::NoSuchGuest(_)) => return,
            Err(failure) if Instant::now() + RETRY < give_up => tracing::warn!(guest = %id, "it can't be started yet: {failure}"),
            Err(failure) => {
                tracing::error!(guest = %id, "it is here now, but it can't be started: {failure}");
                return context.node.announce_power(id, PowerState::Stopped, context.session.0);
            }
        }
        sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests;
