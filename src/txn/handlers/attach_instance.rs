//! AttachInstanceRequest and the MigrateInstanceRequest that follows it (contract §6.7, flows 7.7 and 7.8): guests of the shared pool come here.
//!
//! A planned move is all or nothing until the Core has its answer: a step that fails takes everything back (§14 D24). From the Core's order on the former host
//! has let go of the guests and there is no way back: what fails then is tried again and logged, and the guests stay here (§14 A8). In between the
//! former host may let go of them at any moment: when no order comes, and when we or the other host die, their claims say whose they are
//! (`undo::moves`). At a failover each guest is on its own: one that can't be taken does not keep the others. The
//! guests enter the books, and their claims are taken, only when they are ours; until then they can't be started here.

mod arrival;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, Instant};

pub(in crate::txn) use self::arrival::adapt;
use self::arrival::Arrival;
use super::welcome;
use crate::model::{GuestId, Origin, Pool};
use crate::proto::message::{Key, MessageId};
use crate::txn::params::Params;
use crate::txn::undo::{Step, Undo};
use crate::txn::{Context, Failure};

/// Between two looks at the claims of guests that are waited for.
const LOOK: Duration = Duration::from_secs(1);

/// From the moment when the former host has let go of the guests to the Core's order: longer than both need to tell each other, and over
/// before the Core has waited in vain for the former host and calls the move off.
const ORDER_DELAY: Duration = Duration::from_secs(4);

/// Between two attempts to take a guest at a failover, and how many there are.
const RETRY: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 5;

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
    supersede(context, ids);
    let mailbox = context.mailbox(MessageId::MIGRATE_INSTANCE_REQUEST, ids);
    let mut undo = Undo::new(context, ids);
    let arrivals = match prepare_all(context, ids, &mut undo).await {
        Ok(arrivals) => arrivals,
        Err(cause) => return Err(undo.run(cause).await),
    };
    let until = context.node.awaited.begin(ids);
    let order = tokio::select! {
        biased;
        order = mailbox.receive(until) => order,
        () = let_go(context, &arrivals) => None,
    };
    match order {
        Some(order) => {
            let migration = order.string_params.get(&Key::Migration).cloned().unwrap_or_default();
            ordered(context, arrivals, undo, migration).await
        }
        None => unordered(context, ids, arrivals, undo).await,
    }
}

/// The Core has given up on earlier attempts with these guests.
fn supersede(context: &Context, ids: &[GuestId]) {
    context.node.mailboxes.supersede(ids);
    context.node.awaited.give_up(ids);
}

/// The steps up to the answer.
async fn prepare_all(context: &Arc<Context>, ids: &[GuestId], undo: &mut Undo) -> Result<Vec<Arrival>, Failure> {
    let pool = shared_pool(context).await?;
    let mut arrivals = Vec::new();
    for id in ids {
        context.check()?;
        arrivals.push(Arrival::prepare(context, *id, &pool, None, context.deadline(), undo).await?);
    }
    let answered = |step: &mut Step| {
        if let Step::Arrive(guest) = step {
            guest.answered = true;
        }
    };
    undo.replan(answered).await?;
    context.respond(context.success())?;
    Ok(arrivals)
}

/// Returns when the former host has let go of all of the guests some time ago, and no order has come: it has died before it could tell the Core, or the order
/// is lost.
async fn let_go(context: &Context, arrivals: &[Arrival]) {
    let mut since = None;
    loop {
        sleep(LOOK).await;
        let mut all = true;
        for arrival in arrivals {
            all = all && arrival.is_let_go(context).await;
        }
        match since {
            _ if !all => since = None,
            None => since = Some(Instant::now()),
            Some(since) if Instant::now() >= since + ORDER_DELAY => return,
            Some(_) => {}
        }
    }
}

/// The guests are ours, whatever happens: the Core says so.
async fn ordered(context: &Arc<Context>, mut arrivals: Vec<Arrival>, mut undo: Undo, migration: String) -> Result<(), Failure> {
    arrivals.iter_mut().for_each(|arrival| arrival.ordered(&migration));
    if let Err(failure) = ours(&arrivals, &mut undo).await {
        return Err(undo.run(failure).await);
    }
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
    welcome::tell(&context.node, &moved, context.session.0);
    welcome::start(&context.node, &moved, context.session.0).await;
    Ok(())
}

/// Nobody can say whose the guests are but their claims.
async fn unordered(context: &Arc<Context>, ids: &[GuestId], arrivals: Vec<Arrival>, undo: Undo) -> Result<(), Failure> {
    let cause = Failure::refused("the Core has not ordered the migration after all; the guests are where they were");
    let failure = undo.run(cause).await;
    drop(arrivals);
    let (node, session) = (&context.node, context.session.0);
    let came: Vec<GuestId> = welcome::unknown(node).into_iter().filter(|id| ids.contains(id)).collect();
    welcome::tell(node, &came, session);
    welcome::start(node, &came, session).await;
    if came.len() == ids.len() {
        return Ok(());
    }
    Err(failure)
}

/// From here on the guests are ours, and a crash changes nothing about that.
async fn ours(arrivals: &[Arrival], undo: &mut Undo) -> Result<(), Failure> {
    for arrival in arrivals {
        undo.afterwards(arrival.step());
    }
    undo.commit().await
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
    supersede(context, ids);
    context.respond(context.success())?;
    let mut left: Vec<GuestId> = ids.to_vec();
    let mut moved = Vec::new();
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(RETRY).await;
        }
        let (taken, failed, why) = take_all(context, &left, source).await;
        welcome::tell(&context.node, &taken, context.session.0);
        moved.extend(taken);
        (left, last) = (failed, why);
        if left.is_empty() {
            break;
        }
    }
    for id in &left {
        tracing::error!(guest = %id, "it could not be taken from {source}; the Core keeps it as migrating");
    }
    welcome::start(&context.node, &moved, context.session.0).await;
    last.filter(|_| !left.is_empty()).map_or(Ok(()), Err)
}

/// Those that were taken, those that were not, and why the last of them was not.
async fn take_all(context: &Arc<Context>, ids: &[GuestId], source: &str) -> (Vec<GuestId>, Vec<GuestId>, Option<Failure>) {
    let pool = match shared_pool(context).await {
        Ok(pool) => pool,
        Err(failure) => return (Vec::new(), ids.to_vec(), Some(failure)),
    };
    let (mut taken, mut failed, mut why) = (Vec::new(), Vec::new(), None);
    for id in ids {
        match take(context, *id, &pool, source).await {
            Ok(()) => taken.push(*id),
            Err(failure) => {
                tracing::error!(guest = %id, "it can't be taken: {failure}");
                failed.push(*id);
                why = Some(failure);
            }
        }
    }
    (taken, failed, why)
}

async fn take(context: &Arc<Context>, id: GuestId, pool: &Pool, source: &str) -> Result<(), Failure> {
    if keep(context, id, source).await? {
        return Ok(());
    }
    let mut undo = Undo::new(context, &[id]);
    let prepared = async {
        let arrival = Arrival::prepare(context, id, pool, Some(source), Instant::now() + RETRY, &mut undo).await?;
        ours(std::slice::from_ref(&arrival), &mut undo).await?;
        Ok(arrival)
    };
    match prepared.await {
        Ok(arrival) => {
            if arrival.enter(context).await.1 {
                undo.end();
            }
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

/// A guest that came here before the Core knew, by a move that its former host did not survive: it is what the Core wants. False when it is not here.
async fn keep(context: &Context, id: GuestId, source: &str) -> Result<bool, Failure> {
    let node = &context.node;
    if node.books.guest(id).is_err() {
        return Ok(false);
    }
    node.hold(id).await?;
    let mut books = node.books.lock();
    let ran = books.arrivals.get(&id).is_some_and(|origin| origin.ran);
    books.arrivals.insert(id, Origin { source: source.to_owned(), migration: String::new(), ran });
    Ok(true)
}

#[cfg(test)]
mod tests;
