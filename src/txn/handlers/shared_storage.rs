//! Attaching and detaching the shared storage of a compute pool (contract §6.1, §11.1).
//!
//! Contract: everything is validated, and the export mounted, before new guests are sent there (§14 B17); a pool that is known by its name is compared with
//! what the Core says now (§14 B18), and its mount is looked at each time. Going back to local storage changes both books (§14 B19). A pool with guests in it stays
//! attached for them. A known pool whose server does not answer right now is no reason to leave the Core without the list of guests: the guard
//! brings it back, and GetComputePoolCell tells what is wrong with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout, Instant};

use super::start_instance::{announce_started, power_on_until};
use super::welcome;
use crate::host::{ErrorKind, HostError, NfsSource};
use crate::model::{GuestId, Pool, PoolMode, PowerState};
use crate::proto::message::Key;
use crate::store::DataFile;
use crate::txn::node::jobs::Job;
use crate::txn::params::Params;
use crate::txn::undo::{settle_common, supersede_removals, Common, Step, Undo};
use crate::txn::{Context, Failure, Node};

const FILES: &[DataFile] = &[DataFile::Storage, DataFile::Instance];

/// How long a mount may take: the answer has to be out before the Core gives up.
const PATIENCE: Duration = Duration::from_secs(6);

/// How long a start after a boot may wait for others.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What the Core wants attached.
pub(super) struct Wanted {
    name: String,
    source: NfsSource,
}

impl Wanted {
    fn is(&self, pool: &Pool) -> bool {
        let same_path = pool.source_target.trim_end_matches('/') == self.source.path.trim_end_matches('/');
        pool.mode == PoolMode::Nfs && pool.source_host == self.source.host && same_path
    }
}

/// Reads the request; none for local storage.
pub(super) fn read(params: Params<'_>) -> Result<Option<Wanted>, Failure> {
    let name = params.string(Key::Storage)?;
    if name.is_empty() {
        return Ok(None);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.len() > 100 || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        return Err(params.bad(Key::Storage, format!("is {name:?}: up to 100 letters, digits, '_', '-' and '.' are expected")));
    }
    let kind = params.string(Key::Type)?;
    if kind != "nfs" {
        return Err(params.bad(Key::Type, format!("is {kind:?}: only \"nfs\" is supported")));
    }
    let (host, path) = (params.string(Key::Host)?, params.string(Key::Target)?);
    if host.is_empty() || host.starts_with('-') || host.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') {
        return Err(params.bad(Key::Host, format!("is {host:?}: the name or address of an NFS server is expected")));
    }
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(params.bad(Key::Target, format!("is {path:?}: an exported path such as /export/nano is expected")));
    }
    Ok(Some(Wanted { name: name.into(), source: NfsSource { host: host.into(), path: path.into() } }))
}

/// Attaches the pool and sends new guests there.
pub(super) async fn attach(context: &Arc<Context>, wanted: &Wanted) -> Result<(), Failure> {
    let node = &context.node;
    let (known, is_current) = {
        let books = node.books.lock();
        (books.storage.pools.get(&wanted.name).cloned(), books.storage.current_pool == wanted.name)
    };
    if let Some(pool) = known.as_ref().filter(|pool| wanted.is(pool) && is_current) {
        // Nothing is switched, so this waits for nobody who makes volumes, perhaps on a silent server.
        if let Err(failure) = mount(context, wanted, &pool.target).await {
            tracing::error!(pool = %wanted.name, "the shared storage pool can't be used, the guard will try again: {failure}");
        }
        return Ok(());
    }
    // Creates that are under way end first; new ones wait.
    let _layout = context.write_layout().await?;
    context.check()?;
    settle_common(node, Common::Pools).await?;
    let mut undo = Undo::new(context, &[]);
    match switch(context, wanted, known, &mut undo).await {
        Ok(()) => {}
        Err(cause) => {
            // A mount that hangs may take longer to be taken back than the Core waits.
            context.fail(&cause.to_string());
            return Err(undo.run(cause).await);
        }
    }
    drop_unused(context, undo).await;
    Ok(())
}

async fn switch(context: &Arc<Context>, wanted: &Wanted, known: Option<Pool>, undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let storage = &node.host.storage;
    let former = known.as_ref().filter(|pool| !wanted.is(pool));
    if let Some(pool) = former {
        check_room(context, wanted, pool)?;
    }
    let target = match &known {
        Some(pool) if former.is_none() => pool.target.clone(),
        _ => own_target(context, wanted),
    };
    let missing = matches!(storage.pool(&wanted.name).await, Err(error) if error.kind == ErrorKind::NotFound);
    let (layout, instance) = node.books.lock().layout();
    let mut steps: Vec<Step> = former.map(put_back).into_iter().collect();
    if former.is_some() || missing {
        steps.push(Step::Pool { name: wanted.name.clone() });
    }
    steps.push(Step::Layout { storage: Box::new(layout), instance: Box::new(instance) });
    undo.plan(steps).await?;
    if let Some(pool) = former {
        // Another export under this name, without guests.
        storage.remove_pool(&pool.name).await?;
    }
    let pool = mount(context, wanted, &target).await?;
    context.check()?;
    node.books.lock().use_shared(Pool { volumes: Default::default(), ..pool });
    node.save(FILES).await?;
    unused(node).into_iter().for_each(|name| undo.afterwards(Step::DropPool { name }));
    undo.commit().await?;
    tracing::info!(pool = %wanted.name, "new guests go to the shared storage {}:{}", wanted.source.host, wanted.source.path);
    Ok(())
}

/// The way back to a pool with another source.
fn put_back(pool: &Pool) -> Step {
    let source = NfsSource { host: pool.source_host.clone(), path: pool.source_target.clone() };
    Step::SharedPool { name: pool.name.clone(), source, target: pool.target.clone() }
}

/// A pool of this name with another source goes, unless guests need it.
fn check_room(context: &Context, wanted: &Wanted, pool: &Pool) -> Result<(), Failure> {
    if pool.mode != PoolMode::Nfs {
        return Err(Failure::refused(format!(
            "storage pool '{}' is a local pool of this cell; name the shared one differently",
            pool.name
        )));
    }
    let guests = context.node.books.lock().guests_in(&pool.name);
    if guests > 0 {
        let (name, old, new) = (&pool.name, (&pool.source_host, &pool.source_target), &wanted.source);
        return Err(Failure::refused(format!(
            "storage pool '{name}' is {}:{} here, with {guests} guests in it, and can't become {}:{}",
            old.0, old.1, new.host, new.path
        )));
    }
    Ok(())
}

fn own_target(context: &Context, wanted: &Wanted) -> String {
    format!("{}/{}", context.node.settings.pools_dir, wanted.name)
}

async fn mount(context: &Context, wanted: &Wanted, target: &str) -> Result<Pool, Failure> {
    let mounting = context.node.host.storage.ensure_nfs_pool(&wanted.name, &wanted.source, target);
    match timeout(PATIENCE, mounting).await {
        Ok(pool) => Ok(pool?),
        Err(_) => {
            let NfsSource { host, path } = &wanted.source;
            Err(Failure::Host(HostError::new(ErrorKind::Unknown, format!("the NFS server of {host}:{path} does not answer"))))
        }
    }
}

/// Sends new guests to local storage, and detaches shared pools without guests.
pub(super) async fn detach(context: &Arc<Context>) -> Result<(), Failure> {
    let node = &context.node;
    let mut undo = Undo::new(context, &[]);
    let is_shared = node.books.lock().current_shared().is_some();
    if is_shared {
        let _layout = context.write_layout().await?;
        context.check()?;
        settle_common(node, Common::Pools).await?;
        let (storage, instance) = node.books.lock().layout();
        undo.plan(vec![Step::Layout { storage: Box::new(storage), instance: Box::new(instance) }]).await?;
        let done = async {
            if !node.books.lock().use_local() {
                return Err(Failure::refused("this cell has no local storage pool to go back to"));
            }
            node.save(FILES).await?;
            unused(node).into_iter().for_each(|name| undo.afterwards(Step::DropPool { name }));
            undo.commit().await
        };
        if let Err(failure) = done.await {
            return Err(undo.run(failure).await);
        }
        tracing::info!("new guests go to local storage");
        drop_unused(context, undo).await;
    } else if let Ok(_layout) = node.layout.try_write() {
        // Nothing is switched, so this waits for nobody. A pool that stays goes the next time.
        let unused = unused(node);
        if !unused.is_empty() {
            undo.plan_forward(unused.into_iter().map(|name| Step::DropPool { name }).collect()).await?;
        }
        drop_unused(context, undo).await;
    }
    Ok(())
}

/// Shared pools that hold no guest and take no new ones.
fn unused(node: &Node) -> Vec<String> {
    let books = node.books.lock();
    books.shared_pools().into_iter().map(|pool| pool.name).filter(|name| books.is_unused(name)).collect()
}

/// Detaches shared pools that hold no guest and take no new ones, which `undo` has announced. One that can't be detached now stays on record, so that it is
/// tried again: by a later request, when libvirt is back, and at the next start.
async fn drop_unused(context: &Arc<Context>, undo: Undo) {
    let node = &context.node;
    supersede_removals(node);
    let unused = unused(node);
    let count = unused.len();
    let mut gone = 0;
    for name in unused {
        match timeout(PATIENCE, node.host.storage.remove_pool(&name)).await {
            Ok(Ok(_)) => {
                tracing::info!(pool = %name, "the shared storage pool is detached");
                node.books.lock().storage.pools.remove(&name);
                gone += 1;
            }
            Ok(Err(error)) => tracing::error!(pool = %name, "the shared storage pool can't be detached: {}", Failure::Host(error)),
            Err(_) => tracing::error!(pool = %name, "the shared storage pool can't be detached: its server does not answer"),
        }
    }
    let saved = if gone > 0 { node.save(FILES).await } else { Ok(()) };
    if let Err(failure) = &saved {
        tracing::error!("the detached pool is still on record: {failure}");
    }
    if gone == count && saved.is_ok() {
        undo.end();
    } else {
        undo.leave();
    }
}

/// The Core has spoken, and these guests are still ours: those that are started with the host are started, once after each boot of it, and those that
/// have come here without the Core's knowledge.
pub(super) async fn start_after_boot(context: &Arc<Context>) {
    let node = &context.node;
    let come = welcome::unknown(node);
    let candidates: Vec<GuestId> = {
        let books = node.books.lock();
        let ours = books.guests.values().filter(|guest| guest.config.auto_start && guest.created && guest.power == PowerState::Stopped);
        let ids = ours.filter(|guest| books.shared_pool(&guest.config).is_some()).map(|guest| guest.config.id);
        ids.filter(|id| !come.contains(id)).collect()
    };
    let boot = node.host.shared.boot();
    for id in candidates {
        match node.hold(id).await {
            Ok(Some(held)) if held.is_of_former_boot(&boot) => start(context, id).await,
            Ok(_) => {}
            Err(failure) => tracing::error!(guest = %id, "not started with the host: {failure}"),
        }
    }
    welcome::start(node, &come, context.session.0).await;
}

/// Starts a guest on behalf of the host, and tells the Core.
async fn start(context: &Context, id: GuestId) {
    let deadline = Instant::now() + START_PATIENCE;
    let started = async {
        let job = context.node.jobs.acquire(id, Job::Start, deadline).await?;
        power_on_until(&context.node, id, deadline).await?;
        Ok::<_, Failure>(job)
    };
    match started.await {
        Ok(_job) => announce_started(context, id),
        Err(failure) => tracing::error!(guest = %id, "it can't be started: {failure}"),
    }
}

#[cfg(test)]
mod tests;
