//! [`Storage`] on libvirt: pools and volumes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::host::storage::files;
use crate::host::{Change, DiskSpace, NfsSource, PoolStatus, Result, Storage, VolumeInfo};
use crate::model::Pool;

use super::lanes::{Effect, Lane};
use super::volume::Made;
use super::{nfs, pool, survey, volume, Libvirt};

#[async_trait]
impl Storage for Libvirt {
    async fn ensure_local_pool(&self, name: &str, target: &str) -> Result<Pool> {
        let (name, target) = (name.to_owned(), target.to_owned());
        let what = format!("set up the storage pool {name}");
        let pool =
            self.lanes.run(Lane::Files, Effect::Changes, what, move |connection| pool::ensure_local(connection, &name, &target)).await?;
        // The last run may have ended before it told libvirt of its newest volumes.
        self.refresher.mark(&pool.name);
        Ok(pool)
    }

    async fn ensure_nfs_pool(&self, name: &str, source: &NfsSource, target: &str) -> Result<Pool> {
        self.lanes.set_apart(name);
        let what = format!("attach the storage pool {name} of {}:{}", source.host, source.path);
        let (pool, source, target) = (name.to_owned(), source.clone(), target.to_owned());
        self.lanes.run_in_pool(name, Effect::Changes, what, move |connection| nfs::ensure(connection, &pool, &source, &target)).await
    }

    async fn check_pool(&self, name: &str) -> Result<()> {
        let (pool, what) = (name.to_owned(), format!("check the storage pool {name}"));
        self.lanes.run_in_pool(name, Effect::Reads, what, move |connection| nfs::check(connection, &pool)).await
    }

    async fn refresh_pool(&self, name: &str) -> Result<()> {
        let (pool, what) = (name.to_owned(), format!("read the storage pool {name} again"));
        self.lanes.run_in_pool(name, Effect::Reads, what, move |connection| pool::refresh(connection, &pool)).await
    }

    async fn pool(&self, name: &str) -> Result<Pool> {
        let (pool, what) = (name.to_owned(), format!("read the storage pool {name}"));
        self.lanes.run_in_pool(name, Effect::Reads, what, move |connection| pool::read(&pool::find(connection, &pool)?, &pool)).await
    }

    async fn remove_pool(&self, name: &str) -> Result<Change> {
        let (pool, what) = (name.to_owned(), format!("remove the storage pool {name}"));
        // An open file would keep its file system mounted.
        self.blanks.forget();
        self.lanes.run_in_pool(name, Effect::Changes, what, move |connection| pool::remove(connection, &pool)).await
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>> {
        self.lanes.run(Lane::Files, Effect::Reads, "list the storage pools".into(), survey::pools).await
    }

    async fn create_volume(&self, pool_name: &str, name: &str, capacity: u64) -> Result<VolumeInfo> {
        let (pool, name, blanks) = (pool_name.to_owned(), name.to_owned(), self.blanks.clone());
        let what = format!("create the volume {name}");
        let made = self.lanes.run_in_pool(pool_name, Effect::Changes, what, move |connection| {
            volume::create(&pool::find(connection, &pool)?, &pool, &name, capacity, &blanks)
        });
        match made.await? {
            Made::ByLibvirt(info) => Ok(info),
            Made::Copied(info) => {
                self.refresher.mark(pool_name);
                Ok(info)
            }
        }
    }

    async fn delete_volume(&self, pool_name: &str, name: &str) -> Result<Change> {
        let (pool, name) = (pool_name.to_owned(), name.to_owned());
        let what = format!("delete the volume {name}");
        let work = move |connection: &super::Connection| volume::delete(&pool::find(connection, &pool)?, &pool, &name);
        self.lanes.run_in_pool(pool_name, Effect::Changes, what, work).await
    }

    async fn write_file(&self, path: &str, content: Arc<[u8]>) -> Result<Change> {
        files::write(path, content).await
    }

    async fn remove_file(&self, path: &str) -> Result<Change> {
        files::remove(path).await
    }

    async fn settle(&self) {
        self.refresher.settle().await;
    }

    async fn space(&self, paths: &[String]) -> DiskSpace {
        self.space.of(paths).await
    }
}
