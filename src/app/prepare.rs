//! Getting the host's storage ready before the domain is joined.

use std::path::Path;

use crate::host::{ErrorKind, Host, HostError};
use crate::model::{Pool, PoolMode, StorageBook, LOCAL_POOL};

/// Parent of the local pool on a first start (contract §8).
const DEFAULT_ROOT: &str = "/var/lib/libvirt/images";

/// Makes sure that every local pool of the books exists and runs. On a first start `local0` is made, and failing that is an error; a later
/// failure only takes the guests of that pool out of service, so it is logged. `lost`: where the books name no pool, this is no first start, and `local0`
/// is taken as libvirt has it.
pub(super) async fn prepare_pools(host: &Host, book: &mut StorageBook, lost: bool) -> Result<(), HostError> {
    if book.pools.is_empty() {
        let found = host.storage.ensure_local_pool(LOCAL_POOL, &local_target(host, lost).await?).await?;
        tracing::info!("storage pool {LOCAL_POOL} is ready in {}", found.target);
        adopt(book, Pool { volumes: Default::default(), ..found });
        return Ok(());
    }
    for pool in book.pools.values_mut().filter(|pool| pool.mode == PoolMode::Local) {
        match host.storage.ensure_local_pool(&pool.name, &pool.target).await {
            Ok(found) => pool.id = found.id,
            Err(error) => {
                let reason = crate::txn::Failure::Host(error);
                tracing::error!("storage pool {} is not usable, its guests can't be started: {reason}", pool.name);
            }
        }
    }
    Ok(())
}

/// Where `local0` is, or is to be.
async fn local_target(host: &Host, lost: bool) -> Result<String, HostError> {
    let default = format!("{DEFAULT_ROOT}/{LOCAL_POOL}");
    if !lost {
        return Ok(default);
    }
    match host.storage.pool(LOCAL_POOL).await {
        Ok(found) if found.mode == PoolMode::Local => Ok(found.target),
        Ok(_) => Ok(default),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(default),
        Err(error) => Err(error),
    }
}

/// Enters the first pool; its parent directory is the storage root (contract §8.4).
fn adopt(book: &mut StorageBook, pool: Pool) {
    let root = Path::new(&pool.target).parent().map_or(DEFAULT_ROOT.into(), |parent| parent.to_string_lossy().into_owned());
    book.mode = "local".into();
    for paths in [&mut book.system_paths, &mut book.data_paths] {
        if paths.is_empty() {
            paths.push(root.clone());
        }
    }
    book.current_pool.clone_from(&pool.name);
    book.pools.insert(pool.name.clone(), pool);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sim::{Operation, SimHost};

    #[tokio::test]
    async fn a_first_start_makes_the_local_pool_or_fails() {
        let sim = SimHost::new();
        let mut book = StorageBook::default();
        sim.fail_next(Operation::EnsureLocalPool, ErrorKind::NoSpace);
        assert_eq!(prepare_pools(&sim.host(), &mut book, false).await.unwrap_err().kind, ErrorKind::NoSpace);
        prepare_pools(&sim.host(), &mut book, false).await.unwrap();
        assert_eq!(book.pools[LOCAL_POOL].target, "/var/lib/libvirt/images/local0");
        assert_eq!((book.mode.as_str(), book.current_pool.as_str()), ("local", LOCAL_POOL));
        assert_eq!(book.system_paths, [DEFAULT_ROOT]);
    }

    #[tokio::test]
    async fn a_later_start_goes_on_without_a_pool() {
        let sim = SimHost::new();
        let mut book = StorageBook::default();
        prepare_pools(&sim.host(), &mut book, false).await.unwrap();
        let before = book.clone();
        sim.fail_next(Operation::EnsureLocalPool, ErrorKind::Failed);
        prepare_pools(&sim.host(), &mut book, false).await.unwrap();
        assert_eq!(book, before);
    }

    #[tokio::test]
    async fn a_lost_book_is_begun_with_the_pool_that_libvirt_has() {
        let sim = SimHost::new();
        sim.host().storage.ensure_local_pool(LOCAL_POOL, "/srv/disks/local0").await.unwrap();
        let mut book = StorageBook::default();
        assert_eq!(prepare_pools(&sim.host(), &mut book, false).await.unwrap_err().kind, ErrorKind::Exists, "somebody else's, perhaps");
        sim.fail_next(Operation::Pool, ErrorKind::Failed);
        assert_eq!(prepare_pools(&sim.host(), &mut book, true).await.unwrap_err().kind, ErrorKind::Failed);
        prepare_pools(&sim.host(), &mut book, true).await.unwrap();
        assert_eq!(book.pools[LOCAL_POOL].target, "/srv/disks/local0");
        assert_eq!(book.system_paths, ["/srv/disks"]);
        let mut book = StorageBook::default();
        prepare_pools(&SimHost::new().host(), &mut book, true).await.unwrap();
        assert_eq!(book.pools[LOCAL_POOL].target, "/var/lib/libvirt/images/local0");
    }
}
