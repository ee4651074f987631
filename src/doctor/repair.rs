//! Carrying out repairs.
//!
//! Contract: only while no service uses the home, whose lock the caller holds. What is repaired is repaired whole or told as failed; the rest goes on.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::finding::{BookChange, Books, Finding, Remedy, Repair};
use super::scene::{told, Sources};
use crate::host::{HostError, Hypervisor, NfsSource, Storage};
use crate::model::{Claim, Pool, PoolMode};
use crate::store::{encode, DataFile, Source, Store, StoreError};

/// What became of the repair of a finding.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The finding.
    pub finding: Finding,
    /// Why it failed; none when it is done.
    pub failure: Option<String>,
}

/// Repairs what can be.
pub(super) async fn repair(sources: &Sources<'_>, findings: &[Finding]) -> Vec<Deed> {
    let mut deeds = Vec::new();
    let mut changes = Vec::new();
    let mut reopen = false;
    for finding in findings {
        let Remedy::Automatic { repair, .. } = &finding.remedy else { continue };
        match repair {
            Repair::Reopen => {
                reopen = true;
                changes.push((finding, None));
            }
            Repair::Books(change) => changes.push((finding, Some(change.clone()))),
            other => deeds.push(Deed { finding: finding.clone(), failure: carry_out(sources, other).await.err() }),
        }
    }
    if reopen || !changes.is_empty() {
        let books = changes.iter().filter_map(|(_, change)| change.clone()).collect();
        let failure = change_books(sources, books).await.err().map(|error| error.to_string());
        deeds.extend(changes.into_iter().map(|(finding, _)| Deed { finding: finding.clone(), failure: failure.clone() }));
    }
    deeds
}

async fn carry_out(sources: &Sources<'_>, repair: &Repair) -> Result<(), String> {
    let on_host = |result: Result<(), HostError>| result.map_err(told);
    match repair {
        Repair::Reopen | Repair::Books(_) => Ok(()),
        Repair::Restrict(path) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|error| error.to_string()),
        Repair::RemoveLeftover(path) => std::fs::remove_file(path).map_err(|error| error.to_string()),
        Repair::RemoveImage(path) => on_host(sources.disks.remove(path).await.map(drop)),
        Repair::DiscardPart(disk) => on_host(sources.images.discard(disk).await.map(drop)),
        Repair::PutBack { path, aside } => on_host(sources.disks.put_back(path, None, aside).await.map(drop)),
        Repair::Unmerge(path) => on_host(sources.disks.unmerge(path).await.map(drop)),
        Repair::SaveShared { directory, guest } => on_host(sources.shared.save(directory, guest).await),
        Repair::LetGo { directory, id } => {
            let present = sources.shared.claim(directory, *id).await.map_err(told)?.unwrap_or_default();
            let claim = Claim { generation: present.generation.saturating_add(1), ..Claim::default() };
            on_host(sources.shared.set_claim(directory, *id, &claim).await)
        }
        other => {
            let (hypervisor, storage) = sources.libvirt.as_ref().map_err(Clone::clone)?;
            on_host(with_libvirt(&**hypervisor, &**storage, other).await)
        }
    }
}

async fn with_libvirt(hypervisor: &dyn Hypervisor, storage: &dyn Storage, repair: &Repair) -> Result<(), HostError> {
    match repair {
        Repair::EnsurePool(pool) => ensure_pool(storage, pool).await,
        Repair::Define(guest) => {
            hypervisor.define(guest).await?;
            Ok(())
        }
        Repair::SetAutostart(id, enable) => hypervisor.set_autostart(*id, *enable).await.map(drop),
        Repair::Reconfigure(id, edit) => hypervisor.reconfigure(*id, edit).await.map(drop),
        Repair::UpdateFilter(guest) => hypervisor.update_filter(guest).await.map(drop),
        Repair::RemoveFilter(id) => hypervisor.undefine(*id).await.map(drop),
        _ => Ok(()),
    }
}

async fn ensure_pool(storage: &dyn Storage, pool: &Pool) -> Result<(), HostError> {
    match pool.mode {
        PoolMode::Local => storage.ensure_local_pool(&pool.name, &pool.target).await.map(drop),
        PoolMode::Nfs => {
            let source = NfsSource { host: pool.source_host.clone(), path: pool.source_target.clone() };
            storage.ensure_nfs_pool(&pool.name, &source, &pool.target).await.map(drop)
        }
    }
}

/// Opens the books as a start does, changes them and writes them.
async fn change_books(sources: &Sources<'_>, changes: Vec<BookChange>) -> Result<(), StoreError> {
    let opened = Store::open(sources.data, sources.bridge)?;
    let mut books = Books { instance: opened.loaded.instance, storage: opened.loaded.storage, network: opened.loaded.network };
    for BookChange(change) in changes {
        change(&mut books);
    }
    let stop = CancellationToken::new();
    let (store, end) = (opened.store, stop.clone());
    let writing = opened.writer.run(Arc::new(Fixed(books)), stop);
    let flushing = async move {
        let flushed = store.flush(&DataFile::ALL).await;
        end.cancel();
        flushed
    };
    let (written, flushed) = tokio::join!(writing, flushing);
    flushed.and(written)
}

/// Books that do not change any more.
struct Fixed(Books);

impl Source for Fixed {
    fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError> {
        match file {
            DataFile::Instance => encode(file, &self.0.instance),
            DataFile::Storage => encode(file, &self.0.storage),
            DataFile::Network => encode(file, &self.0.network),
        }
    }
}
