//! [`Storage`] on libvirt: pools and volumes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::host::storage::files;
use crate::host::{Change, DiskSpace, Result, Storage, VolumeInfo};
use crate::model::Pool;

use super::lanes::{Effect, Lane};
use super::volume::Made;
use super::{pool, volume, Libvirt};

#[async_trait]
impl Storage for Libvirt {
    async fn ensure_local_pool(&self, name: &str, target: &str) -> Result<Pool> {
        let (name, target) = (name.to_owned(), target.to_owned());
        let what = format!("set up the storage pool {name}");
        self.lanes.run(Lane::Files, Effect::Changes, what, move |connection| pool::ensure_local(connection, &name, &target)).await
    }

    async fn pool(&self, name: &str) -> Result<Pool> {
        let name = name.to_owned();
        let what = format!("read the storage pool {name}");
        self.lanes.run(Lane::Files, Effect::Reads, what, move |connection| pool::read(&pool::find(connection, &name)?, &name)).await
    }

    async fn remove_pool(&self, name: &str) -> Result<Change> {
        let name = name.to_owned();
        let what = format!("remove the storage pool {name}");
        // An open file would keep its file system mounted.
        self.blanks.forget();
        self.lanes.run(Lane::Files, Effect::Changes, what, move |connection| pool::remove(connection, &name)).await
    }

    async fn create_volume(&self, pool_name: &str, name: &str, capacity: u64) -> Result<VolumeInfo> {
        let (pool_name, name, blanks) = (pool_name.to_owned(), name.to_owned(), self.blanks.clone());
        let what = format!("create the volume {name}");
        let made = {
            let pool_name = pool_name.clone();
            self.lanes.run(Lane::Files, Effect::Changes, what, move |connection| {
                volume::create(&pool::find(connection, &pool_name)?, &pool_name, &name, capacity, &blanks)
            })
        };
        match made.await? {
            Made::ByLibvirt(info) => Ok(info),
            Made::Copied(info) => {
                self.refresher.mark(&pool_name);
                Ok(info)
            }
        }
    }

    async fn delete_volume(&self, pool_name: &str, name: &str) -> Result<Change> {
        let (pool_name, name) = (pool_name.to_owned(), name.to_owned());
        let what = format!("delete the volume {name}");
        let work = move |connection: &super::Connection| volume::delete(&pool::find(connection, &pool_name)?, &pool_name, &name);
        self.lanes.run(Lane::Files, Effect::Changes, what, work).await
    }

    async fn write_file(&self, path: &str, content: Arc<[u8]>) -> Result<Change> {
        files::write(path, content).await
    }

    async fn remove_file(&self, path: &str) -> Result<Change> {
        files::remove(path).await
    }

    async fn space(&self, paths: &[String]) -> DiskSpace {
        self.space.of(paths).await
    }
}
