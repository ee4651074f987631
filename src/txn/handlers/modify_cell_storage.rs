//! ModifyCellStorageRequest (contract §6.1): another root directory for the disks of new guests. Possible only while no
//! disk exists; everything is checked before a pool is touched, and a pool that can't be made anew comes back where it was (§14 D21).

use std::path::{Component, Path};
use std::sync::Arc;

use crate::model::{Pool, PoolMode};
use crate::proto::message::Key;
use crate::store::DataFile;
use crate::txn::params::Params;
use crate::txn::undo::{settle_common, Common, Step, Undo};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let root = read_root(context.params())?;
    // Creates that are under way end first; new ones wait.
    let _layout = context.write_layout().await?;
    settle_common(&context.node, Common::Pools).await?;
    let pools = check(&context, &root).await?;
    let mut undo = Undo::new(&context, &[]);
    match switch(&context, &root, &pools, &mut undo).await {
        Ok(()) => Ok(()),
        Err(cause) => Err(undo.run(cause).await),
    }
}

/// An absolute path without `.` and `..`; not `/` itself.
fn read_root(params: Params<'_>) -> Result<String, Failure> {
    let text = params.string(Key::Path)?;
    let path = Path::new(text);
    let clean = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !clean || path.parent().is_none() || text.chars().any(char::is_control) {
        return Err(params.bad(Key::Path, format!("is {text:?}: an absolute directory such as /var/lib/libvirt/images is expected")));
    }
    Ok(path.components().as_path().to_string_lossy().into_owned())
}

async fn check(context: &Context, root: &str) -> Result<Vec<Pool>, Failure> {
    let pools: Vec<Pool> = {
        let books = context.node.books.lock();
        let storage = &books.storage;
        if storage.mode == "nfs" {
            return Err(Failure::refused("the storage path can't be changed: this cell's storage is shared, not local"));
        }
        if storage.system_paths.len() == 1 && storage.system_paths.first().is_some_and(|path| path == root) {
            return Err(Failure::refused(format!("the storage path is '{root}' already")));
        }
        if !storage.groups.is_empty() {
            let count = storage.groups.len();
            return Err(Failure::refused(format!("the storage path can't be changed while {count} guests have disks in it")));
        }
        storage.pools.values().filter(|pool| pool.mode == PoolMode::Local).cloned().collect()
    };
    for pool in &pools {
        let present = context.node.host.storage.pool(&pool.name).await?;
        if let Some(volume) = present.volumes.keys().next() {
            let (name, target) = (&pool.name, &present.target);
            return Err(Failure::refused(format!(
                "pool '{name}' still holds files, such as '{volume}' in '{target}'; move them away first"
            )));
        }
    }
    Ok(pools)
}

async fn switch(context: &Context, root: &str, pools: &[Pool], undo: &mut Undo) -> Result<(), Failure> {
    let node = &context.node;
    let (storage, instance) = node.books.lock().layout();
    let mut steps: Vec<Step> = pools.iter().map(|pool| Step::LocalPool { name: pool.name.clone(), target: pool.target.clone() }).collect();
    steps.push(Step::Layout { storage: Box::new(storage), instance: Box::new(instance) });
    undo.plan(steps).await?;
    let mut moved = Vec::new();
    for pool in pools {
        node.host.storage.remove_pool(&pool.name).await?;
        moved.push(node.host.storage.ensure_local_pool(&pool.name, &format!("{root}/{}", pool.name)).await?);
    }
    context.check()?;
    {
        let mut books = node.books.lock();
        let storage = &mut books.storage;
        storage.pools.extend(moved.into_iter().map(|pool| (pool.name.clone(), pool)));
        storage.system_paths = vec![root.to_owned()];
        storage.data_paths = vec![root.to_owned()];
    }
    node.save(&[DataFile::Storage]).await?;
    undo.complete(context.success()).await
}
