//! Getting the host's storage ready before the domain is joined.

use std::path::Path;

use crate::host::{Host, HostError};
use crate::model::{Pool, PoolMode, StorageBook, LOCAL_POOL};

/// Parent of the local pool on a first start (contract §8).
const DEFAULT_ROOT: &str = "/var/lib/libvirt/images";

/// Makes sure that every local pool of the books exists and runs. On a first start `local0` is made, and failing that is an error; a later
/// failure only takes the guests of that pool out of service, so it is logged.
pub(super) async fn prepare_pools(host: &Host, book: &mut StorageBook) -> Result<(), HostError> {
    if book.pools.is_empty() {
        let found = host.storage.ensure_local_pool(LOCAL_POOL, &format!("{DEFAULT_ROOT}/{LOCAL_POOL}")).await?;
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
    use crate::host::ErrorKind;

    #[tokio::test]
    async fn a_first_start_makes_the_local_pool_or_fails() {
        let sim = SimHost::new();
        let mut book = StorageBook::default();
        sim.fail_next(Operation::EnsureLocalPool, ErrorKind::NoSpace);
        assert_eq!(prepare_pools(&sim.host(), &mut book).await.unwrap_err().kind, ErrorKind::NoSpace);
        prepare_pools(&sim.host(), &mut book).await.unwrap();
        assert_eq!(book.pools[LOCAL_POOL].target, "/var/lib/libvirt/images/local0");
        assert_eq!((book.mode.as_str(), book.current_pool.as_str()), ("local", LOCAL_POOL));
        assert_eq!(book.system_paths, [DEFAULT_ROOT]);
    }

    #[tokio::test]
    async fn a_later_start_goes_on_without_a_pool() {
        let sim = SimHost::new();
        let mut book = StorageBook::default();
        prepare_pools(&sim.host(), &mut book).await.unwrap();
        let before = book.clone();
        sim.fail_next(Operation::EnsureLocalPool, ErrorKind::Failed);
        prepare_pools(&sim.host(), &mut book).await.unwrap();
        assert_eq!(book, before);
    }
}
