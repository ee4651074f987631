//! Records that nobody works on: carried out or taken back, as their course says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::act::{carry_out, take_back};
use super::in_use;
use super::step::{Place, Step};
use crate::host::{ErrorKind, HostError};
use crate::model::{GuestId, PoolMode};
use crate::store::journal::{self, Course, Intent};
use crate::txn::{Failure, Node};

/// How long whoever serves a shared pool may take to answer while the service waits for nothing else.
const SHARED_PATIENCE: Duration = Duration::from_secs(5);
/// How long this host may take: some steps work on images.
const LOCAL_PATIENCE: Duration = Duration::from_secs(120);

/// Pools that did not answer: they are not asked again.
#[derive(Default)]
pub(in crate::txn) struct Silent(BTreeSet<String>);

/// What became of a record.
pub(in crate::txn) enum Resolved {
    /// It has ended.
    Done(Course),
    /// It stays open, because of this.
    Left(Failure),
    /// There is no such record, or somebody else is at it.
    Nothing,
}

/// Ends a record on which nobody works. `silent`: nobody has to be waited for.
pub(in crate::txn) async fn resolve(node: &Arc<Node>, number: u64, silent: Option<&mut Silent>) -> Resolved {
    let journal = node.store.journal();
    let Some(record) = journal.take(number) else { return Resolved::Nothing };
    // Left again when this is dropped before its end.
    let taken = Taken { node, number: Some(number) };
    let course = record.intent.course;
    let steps = match record.intent.steps.iter().map(Step::read).collect::<Result<Vec<_>, _>>() {
        Ok(steps) => steps,
        Err(failure) => return Resolved::Left(failure),
    };
    if let Err(failure) = in_use::check(node, &record.intent.guests, &steps).await {
        return Resolved::Left(failure);
    }
    let failed = each(node, course, steps, silent).await;
    let reasons: Vec<String> = failed.iter().map(|(step, failure)| format!("{step}: {failure}")).collect();
    let is_undecided = failed.iter().all(|(_, failure)| matches!(failure, Failure::Undecided(_)));
    taken.forget();
    keep(node, number, course, failed).await;
    match reasons.as_slice() {
        [] => Resolved::Done(course),
        reasons if is_undecided => Resolved::Left(Failure::Undecided(reasons.join("; "))),
        reasons => Resolved::Left(Failure::refused(reasons.join("; "))),
    }
}

struct Taken<'a> {
    node: &'a Node,
    number: Option<u64>,
}

impl Taken<'_> {
    fn forget(mut self) {
        self.number = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.node.store.journal().leave(number);
        }
    }
}

/// What a record is about that is about no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Common {
    /// Storage pools, and where new guests go. Whoever works on them holds [`Node::layout`] for writing.
    Pools,
    /// The address pool. Whoever works on it holds [`Node::addressing`].
    Addresses,
}

/// See [`Common`]; none for a record about guests.
pub(in crate::txn) fn common(intent: &Intent) -> Option<Common> {
    let is_address = |step: &journal::Step| matches!(Step::read(step), Ok(Step::Addresses { .. }));
    match intent.guests.is_empty() {
        false => None,
        true if intent.steps.iter().any(is_address) => Some(Common::Addresses),
        true => Some(Common::Pools),
    }
}

/// Ends what earlier changes of these guests have left, before something new begins.
pub(in crate::txn) async fn settle(node: &Arc<Node>, guests: &[GuestId]) -> Result<(), Failure> {
    settle_those(node, |intent| intent.guests.iter().any(|guest| guests.contains(guest))).await
}

/// A guest is deleted, and what earlier changes of it had left is gone with it. What they left of other guests stays.
pub(in crate::txn) async fn forget_guest(node: &Arc<Node>, id: GuestId) {
    let journal = node.store.journal();
    for number in journal.left(|intent| intent.guests.contains(&id)) {
        let Some(record) = journal.take(number) else { continue };
        let Intent { guests, course, steps, .. } = record.intent;
        let is_alone = guests.iter().all(|guest| *guest == id);
        let is_of_others = |step: &journal::Step| !is_alone && Step::read(step).map_or(true, |step| step.guest() != Some(id));
        let kept: Vec<journal::Step> = steps.into_iter().filter(is_of_others).collect();
        if kept.is_empty() {
            journal.end(number);
            continue;
        }
        if let Err(error) = journal.turn(number, course, kept).await {
            tracing::error!("{}", Failure::Store(error));
        }
        journal.leave(number);
    }
}

/// [`settle`] for earlier changes of the node itself. The caller works on that alone. Pools that have yet to go are in nobody's way.
pub(in crate::txn) async fn settle_common(node: &Arc<Node>, what: Common) -> Result<(), Failure> {
    settle_those(node, |intent| common(intent) == Some(what) && !is_removal(intent)).await
}

/// The caller, who works on the pools alone, removes all pools that have yet to go.
pub(in crate::txn) fn supersede_removals(node: &Node) {
    for number in node.store.journal().left(is_removal) {
        node.store.journal().end(number);
    }
}

/// Nothing is left of a change of pools but pools that have yet to go.
fn is_removal(intent: &Intent) -> bool {
    common(intent) == Some(Common::Pools) && intent.course == Course::Forward
}

/// Ends what an earlier change of this pool has left; the caller has the pools alone.
pub(in crate::txn) async fn settle_pool(node: &Arc<Node>, pool: &str) -> Result<(), Failure> {
    settle_those(node, |intent| concerns_pool(intent, pool)).await
}

/// True when an earlier change of this pool has left something, and the pool may not be where it is said to be.
pub(in crate::txn) fn is_unsettled(node: &Node, pool: &str) -> bool {
    !node.store.journal().left(|intent| concerns_pool(intent, pool)).is_empty()
}

fn concerns_pool(intent: &Intent, pool: &str) -> bool {
    let steps = || intent.steps.iter().filter_map(|step| Step::read(step).ok());
    common(intent) == Some(Common::Pools)
        && !is_removal(intent)
        && steps().any(|step| matches!(step.place(), Some(Place::Pool(name)) if name == pool))
}

async fn settle_those(node: &Arc<Node>, which: impl Fn(&Intent) -> bool) -> Result<(), Failure> {
    for number in node.store.journal().left(which) {
        if let Resolved::Left(failure) = resolve(node, number, None).await {
            return Err(Failure::refused(format!("an earlier change has to be cleaned up first, and can't be yet: {failure}")));
        }
    }
    Ok(())
}

/// Goes through steps; those that failed, in their order, with the reason.
pub(super) async fn each(node: &Arc<Node>, course: Course, steps: Vec<Step>, mut silent: Option<&mut Silent>) -> Vec<(Step, Failure)> {
    let mut failed = Vec::new();
    let back = course == Course::Back;
    let ordered: Vec<Step> = if back { steps.into_iter().rev().collect() } else { steps };
    for step in ordered {
        // What a disk is comes back step by step: a content under another image's name would be taken for the right one.
        if step.is_of_disks() && failed.iter().any(|(other, failure): &(Step, Failure)| other.is_of_disks() && !is_final(failure)) {
            failed.push((step, Failure::refused("another step of the same disks has to be done before")));
            continue;
        }
        let done = async {
            match course {
                Course::Back => take_back(node, &step).await,
                Course::Forward => carry_out(node, &step).await,
            }
        };
        let done = match silent.as_deref_mut() {
            None => done.await,
            Some(silent) => patiently(node, &step, silent, done).await,
        };
        if let Err(failure) = done {
            failed.push((step, failure));
        }
    }
    if back {
        failed.reverse();
    }
    failed
}

/// Waits for a step so long as it makes sense at the start of the service.
async fn patiently(
    node: &Node,
    step: &Step,
    silent: &mut Silent,
    done: impl std::future::Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let unknown = |pool: &str| Failure::Host(HostError::new(ErrorKind::Unknown, format!("pool {pool} does not answer")));
    let Some(pool) = shared_pool(node, step) else {
        let late = || Failure::Host(HostError::new(ErrorKind::Unknown, "it takes too long"));
        return timeout(LOCAL_PATIENCE, done).await.unwrap_or_else(|_| Err(late()));
    };
    if silent.0.contains(&pool) {
        return Err(unknown(&pool));
    }
    match timeout(SHARED_PATIENCE, done).await {
        Ok(done) => done,
        Err(_) => {
            let failure = unknown(&pool);
            silent.0.insert(pool);
            Err(failure)
        }
    }
}

/// The shared pool that a step works on.
fn shared_pool(node: &Node, step: &Step) -> Option<String> {
    let place = step.place()?;
    let books = node.books.lock();
    let mut pools = books.storage.pools.values().filter(|pool| pool.mode == PoolMode::Nfs);
    let found = pools.find(|pool| match place {
        Place::Pool(name) => pool.name == name,
        Place::File(path) => path.strip_prefix(pool.target.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    });
    found.map(|pool| pool.name.clone())
}

/// Writes down what is left of a record: nothing, or steps that can be tried again.
pub(super) async fn keep(node: &Node, number: u64, course: Course, failed: Vec<(Step, Failure)>) {
    let journal = node.store.journal();
    let again: Vec<journal::Step> =
        failed.iter().filter(|(_, failure)| !is_final(failure)).filter_map(|(step, _)| step.written().ok()).collect();
    if again.is_empty() {
        return journal.end(number);
    }
    if let Err(error) = journal.turn(number, course, again).await {
        tracing::error!("{}", Failure::Store(error));
    }
    journal.leave(number);
}

/// Trying it again would be of no use.
fn is_final(failure: &Failure) -> bool {
    matches!(failure, Failure::Host(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Invalid))
}
