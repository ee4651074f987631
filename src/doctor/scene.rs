//! Everything that is compared, gathered beforehand, so that the checks are plain functions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::timeout;

use super::finding::Books;
use crate::host::{
    DefinedDomain, DiskImage, Disks, ErrorKind, FilterState, GuestFilter, HeldGuest, HostError, Hypervisor, Images, PoolStatus, Shared,
    SharedGuest, Storage,
};
use crate::model::{Claim, GuestConfig, GuestId, Pool, PoolMode, PowerState, Volume, VolumeGroup};
use crate::store::journal::{self, OpenRecord};
use crate::store::{Identity, Loaded, Notice, RunMarker, Store};

/// How long a file system may take for one answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Images that are looked at at the same time.
const AT_ONCE: usize = 4;

/// Domains and pools.
pub type Libvirt = (Arc<dyn Hypervisor>, Arc<dyn Storage>);

/// Where the doctor looks.
#[derive(Clone)]
pub struct Sources<'a> {
    /// `data/`.
    pub data: &'a Path,
    /// Bridge of the settings.
    pub bridge: &'a str,
    /// The service runs: what it does right now may look like a drift.
    pub running: bool,
    /// libvirt, or why it can't be reached.
    pub libvirt: Result<Libvirt, String>,
    /// Images of disks.
    pub disks: Arc<dyn Disks>,
    /// What a fetch leaves.
    pub images: Arc<dyn Images>,
    /// Files on shared pools.
    pub shared: Arc<dyn Shared>,
}

/// All that was gathered.
pub(super) struct Scene {
    pub(super) running: bool,
    pub(super) data: Result<DataFiles, String>,
    pub(super) books: Books,
    pub(super) notices: Vec<Notice>,
    /// Guests are still to be entered again, or will be once the notices have been seen to.
    pub(super) lost: bool,
    /// What has begun and not ended.
    pub(super) journal: Result<Vec<OpenRecord>, String>,
    /// Name of this node; none before the first start.
    pub(super) name: Result<Option<String>, String>,
    pub(super) domains: Result<Vec<DefinedDomain>, String>,
    pub(super) held: Result<Vec<HeldGuest>, String>,
    pub(super) filters: Result<Vec<GuestFilter>, String>,
    pub(super) filter_states: BTreeMap<GuestId, Result<FilterState, String>>,
    pub(super) pools: Result<Vec<PoolStatus>, String>,
    /// Shared pools that can't be used, and why.
    pub(super) unusable: BTreeMap<String, String>,
    /// Names of the files in the directories of the pools.
    pub(super) files: BTreeMap<String, Result<BTreeSet<String>, String>>,
    /// Images that the books name and that are there.
    pub(super) images: BTreeMap<String, Result<DiskImage, HostError>>,
    /// Claims by the pool's directory and the guest.
    pub(super) claims: BTreeMap<(String, GuestId), Result<Claim, String>>,
    /// What shared pools say about our guests.
    pub(super) copies: BTreeMap<GuestId, SharedGuest>,
}

/// What lies in `data/`.
#[derive(Debug, Default)]
pub(super) struct DataFiles {
    /// The directory is there.
    pub(super) present: bool,
    /// What an interrupted write has left.
    pub(super) leftovers: Vec<String>,
    /// Files that others than their owner can read: they hold passwords.
    pub(super) open: Vec<String>,
    /// The last run did not end in order.
    pub(super) unclean: bool,
}

impl Scene {
    /// Gathers everything. What can't be had is noted.
    pub(super) async fn gather(sources: &Sources<'_>) -> Self {
        let (data, loaded) = read_data(sources);
        let name = Identity::look(sources.data).map(|identity| identity.map(|identity| identity.name));
        let mut scene = Self {
            running: sources.running,
            data,
            books: Books { instance: loaded.instance, storage: loaded.storage, network: loaded.network },
            notices: loaded.notices,
            lost: loaded.lost,
            journal: journal::read(sources.data).map_err(|error| error.to_string()),
            name,
            domains: Ok(Vec::new()),
            held: Ok(Vec::new()),
            filters: Ok(Vec::new()),
            filter_states: BTreeMap::new(),
            pools: Ok(Vec::new()),
            unusable: BTreeMap::new(),
            files: BTreeMap::new(),
            images: BTreeMap::new(),
            claims: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        match &sources.libvirt {
            Ok((hypervisor, storage)) => scene.ask_libvirt(&**hypervisor, &**storage).await,
            Err(_) => {
                // Why stands with the host.
                let away = || "libvirt can't be reached".to_owned();
                (scene.domains, scene.filters, scene.pools) = (Err(away()), Err(away()), Err(away()));
            }
        }
        scene.list_files(&*sources.disks).await;
        scene.look_at_images(&*sources.disks).await;
        scene.read_claims(&*sources.shared).await;
        scene
    }

    async fn ask_libvirt(&mut self, hypervisor: &dyn Hypervisor, storage: &dyn Storage) {
        self.domains = hypervisor.definitions().await.map_err(told);
        self.held = hypervisor.held().await.map_err(told);
        self.filters = hypervisor.filters().await.map_err(told);
        for guest in &self.books.instance.instances {
            self.filter_states.insert(guest.id, hypervisor.filter_state(guest).await.map_err(told));
        }
        self.pools = storage.pools().await.map_err(told);
        let shared = self.books.storage.pools.values().filter(|pool| pool.mode == PoolMode::Nfs);
        for pool in shared {
            let usable = timeout(PATIENCE, storage.check_pool(&pool.name)).await;
            if let Some(reason) = usable.map_or_else(|_| Some("its server does not answer".into()), |usable| usable.err().map(told)) {
                self.unusable.insert(pool.name.clone(), reason);
            }
        }
    }

    async fn list_files(&mut self, disks: &dyn Disks) {
        let pools = self.books.storage.pools.values().filter(|pool| !self.unusable.contains_key(&pool.name));
        let mut directories: BTreeSet<String> = pools.map(|pool| pool.target.trim_end_matches('/').to_owned()).collect();
        let volumes = self.books.storage.groups.values().flat_map(VolumeGroup::volumes);
        directories.extend(volumes.filter(|volume| !self.unusable.contains_key(&volume.pool)).map(|volume| volume.directory().to_owned()));
        for directory in directories.into_iter().filter(|directory| directory.starts_with('/')) {
            let listed = timeout(PATIENCE, disks.files(&directory, "")).await;
            let listed = listed.map_or_else(|_| Err("it does not answer".to_owned()), |listed| listed.map_err(told));
            self.files.insert(directory, listed.map(|names| names.into_iter().collect()));
        }
    }

    async fn look_at_images(&mut self, disks: &dyn Disks) {
        let named = self.books.storage.groups.values().flat_map(|group| {
            let frozen = group.snapshots.values().flat_map(|snapshot| snapshot.files.values().cloned());
            group.volumes().filter_map(|volume| self.path_of(volume)).chain(frozen).collect::<Vec<_>>()
        });
        let present: BTreeSet<String> = named.filter(|path| self.has_file(path) == Some(true)).collect();
        let look = |path: String| async move {
            let found = timeout(PATIENCE, disks.inspect(&path)).await;
            let silent = || HostError::new(ErrorKind::Unknown, "it could not be read in time");
            (path, found.unwrap_or_else(|_| Err(silent())))
        };
        self.images = stream::iter(present).map(look).buffer_unordered(AT_ONCE).collect().await;
    }

    async fn read_claims(&mut self, shared: &dyn Shared) {
        let pools: Vec<Pool> = self.shared_pools().cloned().collect();
        for pool in pools {
            let Some(Ok(names)) = self.files.get(&pool.target) else { continue };
            let claimed: Vec<GuestId> = names.iter().filter_map(|name| name.strip_suffix(".claim")?.parse().ok()).collect();
            for id in claimed {
                match shared.claim(&pool.target, id).await {
                    Ok(Some(claim)) => drop(self.claims.insert((pool.target.clone(), id), Ok(claim))),
                    Ok(None) => {}
                    Err(error) => drop(self.claims.insert((pool.target.clone(), id), Err(told(error)))),
                }
            }
            let guests: Vec<GuestId> = self.guests().filter(|guest| guest.storage_pool == pool.name).map(|guest| guest.id).collect();
            for id in guests {
                if let Ok(copy) = shared.load(&pool.target, id).await {
                    self.copies.insert(id, copy);
                }
            }
        }
    }

    /// Shared pools of the books that can be used.
    pub(super) fn shared_pools(&self) -> impl Iterator<Item = &Pool> {
        let shared = self.books.storage.pools.values().filter(|pool| pool.mode == PoolMode::Nfs);
        shared.filter(|pool| !self.unusable.contains_key(&pool.name))
    }

    /// All guests of the books.
    pub(super) fn guests(&self) -> impl Iterator<Item = &Arc<GuestConfig>> {
        self.books.instance.instances.iter()
    }

    /// A guest of the books.
    pub(super) fn guest(&self, id: GuestId) -> Option<&Arc<GuestConfig>> {
        self.guests().find(|guest| guest.id == id)
    }

    /// A guest, or its id where the books do not know it, in words.
    pub(super) fn label(&self, id: GuestId) -> String {
        self.guest(id).map_or_else(|| format!("guest {id}"), |guest| label(guest))
    }

    /// A domain of libvirt.
    pub(super) fn domain(&self, id: GuestId) -> Option<&DefinedDomain> {
        self.domains.iter().flatten().find(|domain| domain.id == id)
    }

    /// True when the guest runs.
    pub(super) fn runs(&self, id: GuestId) -> bool {
        self.domain(id).is_some_and(|domain| domain.power == PowerState::Running)
    }

    /// The directory of a guest's shared pool, where that can be used.
    pub(super) fn shared_directory(&self, guest: &GuestConfig) -> Option<&str> {
        self.shared_pools().find(|pool| pool.name == guest.storage_pool).map(|pool| pool.target.as_str())
    }

    /// Another node that has claimed a guest of the books.
    pub(super) fn other_owner(&self, guest: &GuestConfig) -> Option<&str> {
        let directory = self.shared_directory(guest)?;
        let claim = self.claims.get(&(directory.to_owned(), guest.id))?.as_ref().ok()?;
        let ours = self.name.as_ref().ok()?.as_deref() == Some(claim.owner.as_str());
        Some(claim.owner.as_str()).filter(|owner| !owner.is_empty() && !ours)
    }

    /// The file of a volume; the reference may have left its path out.
    pub(super) fn path_of(&self, volume: &Volume) -> Option<String> {
        match volume.file() {
            "" if volume.name.is_empty() => None,
            "" => Some(format!("{}/{}", self.books.storage.pools.get(&volume.pool)?.target.trim_end_matches('/'), volume.name)),
            path => Some(path.to_owned()),
        }
    }

    /// Whether a file is there; none where its directory could not be listed.
    pub(super) fn has_file(&self, path: &str) -> Option<bool> {
        let (directory, name) = path.rsplit_once('/')?;
        self.files.get(directory)?.as_ref().ok().map(|names| names.contains(name))
    }

    /// True when a domain names this file or its QEMU has it open.
    pub(super) fn is_used(&self, path: &str) -> bool {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        self.domains.iter().flatten().any(|domain| domain.definition.files.iter().any(|file| file == path || file == name))
    }
}

/// A guest in words.
pub(super) fn label(guest: &GuestConfig) -> String {
    format!("guest {} ({})", guest.name, guest.id)
}

/// An error with its causes in one line.
pub(super) fn told(error: HostError) -> String {
    told_ref(&error)
}

/// See [`told`].
pub(super) fn told_ref(error: &HostError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The books and the directory that they lie in; defaults where they can't be read.
fn read_data(sources: &Sources<'_>) -> (Result<DataFiles, String>, Loaded) {
    let nothing = || Loaded {
        instance: Default::default(),
        storage: Default::default(),
        network: Default::default(),
        notices: Vec::new(),
        lost: false,
    };
    let files = match list_data(sources.data) {
        Ok(files) => files,
        Err(error) => return (Err(format!("{}: {error}", sources.data.display())), nothing()),
    };
    match Store::look(sources.data, sources.bridge) {
        Ok(loaded) => (Ok(files), loaded),
        Err(error) => (Err(error.to_string()), nothing()),
    }
}

fn list_data(directory: &Path) -> std::io::Result<DataFiles> {
    use std::os::unix::fs::PermissionsExt;
    let mut files = DataFiles { unclean: RunMarker::is_set(directory), ..DataFiles::default() };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    files.present = true;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            files.leftovers.push(name);
        } else if name.contains(".data") && entry.metadata().is_ok_and(|data| data.permissions().mode() & 0o077 != 0) {
            files.open.push(name);
        }
    }
    files.open.sort();
    files.leftovers.sort();
    Ok(files)
}
