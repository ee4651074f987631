//! [`Hypervisor`] on libvirt: domains and their filters.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};
use virt::nwfilter::NWFilter;
use virt::storage_pool::StoragePool;
use virt::sys;

use crate::host::storage::selinux;
use crate::host::{
    Applied, Change, DefinedDomain, DomainEdit, DomainSample, DomainStatus, ErrorKind, FilterState, GuestFilter, HeldGuest, HostError,
    HostEvent, Hypervisor, LiveMerge, Progress, Result,
};
use crate::model::{GuestConfig, GuestId, PowerState};

use super::connection::Connection;
use super::error::{failed, failed_without, is_missing};
use super::lanes::{Effect, Lane};
use super::xml::Node;
use super::{block, domain, edit, filter, flush, held, media, merge, qemu, sample, survey, watcher, Libvirt, Shared};

/// Everything that may hang on a definition goes with it. Flags that an old libvirt lacks are not among them.
const UNDEFINE: u32 = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_NVRAM;

#[async_trait]
impl Hypervisor for Libvirt {
    async fn domains(&self) -> Result<Vec<DomainStatus>> {
        self.lanes.run(Lane::Quick, Effect::Reads, "list the domains".into(), watcher::list).await
    }

    async fn domain(&self, id: GuestId) -> Result<DomainStatus> {
        let what = format!("read the state of guest {id}");
        self.lanes.run(Lane::Quick, Effect::Reads, what.clone(), move |connection| status(connection, id, &what)).await
    }

    async fn define(&self, guest: &GuestConfig) -> Result<()> {
        let (guest, shared) = (Arc::new(guest.clone()), self.shared.clone());
        let what = format!("define guest {} ({})", guest.name, guest.id);
        self.lanes
            .run(Lane::Definition(guest.id), Effect::Changes, what.clone(), move |connection| define(connection, &shared, &guest, &what))
            .await
    }

    async fn undefine(&self, id: GuestId) -> Result<Change> {
        let (what, shared) = (format!("undefine guest {id}"), self.shared.clone());
        let work = move |connection: &Connection| {
            let change = undefine(connection, id, &what)?;
            remove_logs(&shared, id);
            Ok(change)
        };
        self.lanes.run(Lane::Definition(id), Effect::Changes, format!("undefine guest {id}"), work).await
    }

    async fn start(&self, id: GuestId) -> Result<Change> {
        let (what, shared) = (format!("start guest {id}"), self.shared.clone());
        let work = move |connection: &Connection| {
            let what = format!("cannot start guest {id}");
            start(connection, &shared, id, &what, |domain| domain.create().map(drop).map_err(|error| failed(&what, &error)))
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn start_with_media(&self, id: GuestId, file: &str) -> Result<Change> {
        let (what, shared, file) = (format!("start guest {id} with media"), self.shared.clone(), file.to_owned());
        let work = move |connection: &Connection| {
            let what = format!("cannot start guest {id} with media");
            start(connection, &shared, id, &what, |domain| media::create(connection, domain, &file, &what))
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn set_media(&self, id: GuestId, file: Option<&str>) -> Result<Change> {
        let (verb, file) = (if file.is_some() { "put media into" } else { "take media out of" }, file.map(str::to_owned));
        let work = move |connection: &Connection| {
            let what = format!("cannot {verb} the drive of guest {id}");
            media::change(&find_running(connection, id, &what)?, file.as_deref(), &what)
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, format!("{verb} the drive of guest {id}"), work).await
    }

    async fn media(&self, id: GuestId) -> Result<Option<String>> {
        let work = move |connection: &Connection| {
            let what = format!("cannot look into the drive of guest {id}");
            media::present(&find_running(connection, id, &what)?, &what)
        };
        self.lanes.run(Lane::Sample(id), Effect::Reads, format!("look into the drive of guest {id}"), work).await
    }

    async fn shutdown(&self, id: GuestId) -> Result<()> {
        self.press(id, "shut down", |domain| domain.shutdown().map(drop)).await
    }

    async fn reboot(&self, id: GuestId) -> Result<()> {
        self.press(id, "reboot", |domain| domain.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT)).await
    }

    async fn reset(&self, id: GuestId) -> Result<()> {
        self.press(id, "reset", |domain| domain.reset().map(drop)).await
    }

    async fn destroy(&self, id: GuestId) -> Result<Change> {
        let what = format!("force guest {id} to stop");
        let (begin, begun) = oneshot::channel();
        let work = move |connection: &Connection| {
            let _ = begin.send(());
            destroy(connection, id, &what)
        };
        let mut ending = pin!(self.lanes.run(Lane::Kill, Effect::Changes, format!("force guest {id} to stop"), work));
        let grace_is_over = async {
            match begun.await {
                Ok(()) => tokio::time::sleep(qemu::GRACE).await,
                // The call ended before libvirt was asked; it says why itself.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = ending.as_mut() => return ended,
            () = grace_is_over => {}
        }
        // It does not matter whether this ends before the call does: what counts is what libvirt says.
        let _ = tokio::task::spawn_blocking(move || qemu::kill_process(id)).await;
        ending.await
    }

    async fn set_autostart(&self, id: GuestId, enable: bool) -> Result<Change> {
        let what = format!("set the autostart of guest {id}");
        let work = move |connection: &Connection| {
            let what = format!("cannot set the autostart of guest {id}");
            let domain = find(connection, id, &what)?;
            if domain.get_autostart().map_err(|error| failed(&what, &error))? == enable {
                return Ok(Change::Unchanged);
            }
            domain.set_autostart(enable).map_err(|error| failed(&what, &error))?;
            Ok(Change::Changed)
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn reconfigure(&self, id: GuestId, edit: &DomainEdit) -> Result<Applied> {
        let (shared, edit) = (self.shared.clone(), edit.clone());
        let what = format!("change the {} of guest {id}", edit::subject(&edit));
        let work = move |connection: &Connection| {
            let what = format!("cannot change the {} of guest {id}", edit::subject(&edit));
            let domain = find(connection, id, &what)?;
            edit::change(connection, &shared, &domain, &edit, &what)
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn sample(&self, id: GuestId) -> Result<DomainSample> {
        let what = format!("read the figures of guest {id}");
        let work = move |connection: &Connection| {
            let what = format!("cannot read the figures of guest {id}");
            let domain = find_running(connection, id, &what)?;
            sample::take(&domain, &what)
        };
        self.lanes.run(Lane::Sample(id), Effect::Reads, what, work).await
    }

    async fn update_filter(&self, guest: &GuestConfig) -> Result<Change> {
        let (id, guest) = (guest.id, Arc::new(guest.clone()));
        let what = format!("change the security rules of guest {id}");
        self.lanes.run(Lane::Definition(id), Effect::Changes, what, move |connection| update_filter(connection, &guest)).await
    }

    async fn agent(&self, id: GuestId, command: &str, deadline: Duration) -> Result<String> {
        let command = command.to_owned();
        // libvirt counts whole seconds, at least one.
        let seconds = i32::try_from(deadline.as_secs().max(1)).unwrap_or(i32::MAX);
        let work = move |connection: &Connection| {
            let what = format!("cannot ask the agent of guest {id}");
            let domain = find_running(connection, id, &what)?;
            domain.qemu_agent_command(&command, seconds, 0).map_err(|error| agent_failed(&what, &error))
        };
        self.lanes.run(Lane::Sample(id), Effect::Reads, format!("ask the agent of guest {id}"), work).await
    }

    async fn resize_disk(&self, id: GuestId, path: &str, capacity: u64) -> Result<Change> {
        let (path, what) = (path.to_owned(), format!("resize a disk of guest {id}"));
        let work = move |connection: &Connection| block::resize(connection, id, &path, capacity);
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn change_volumes(&self, id: GuestId, volumes: &[(String, String)]) -> Result<Change> {
        let (volumes, what) = (volumes.to_vec(), format!("change the volumes of guest {id}"));
        let work = move |connection: &Connection| block::change_volumes(connection, id, &volumes);
        let pools = self.lanes.run(Lane::Definition(id), Effect::Changes, what, work).await?;
        pools.iter().for_each(|pool| self.refresher.mark(pool));
        Ok(if pools.is_empty() { Change::Unchanged } else { Change::Changed })
    }

    async fn switch_disks(&self, id: GuestId, images: &[(String, String)], freeze: bool) -> Result<Change> {
        let (images, what) = (images.to_vec(), format!("take a snapshot of guest {id}"));
        let work = move |connection: &Connection| block::switch(connection, id, &images, freeze);
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn held(&self) -> Result<Vec<HeldGuest>> {
        let ids = self.lanes.run(Lane::Quick, Effect::Reads, "list the paused guests".into(), held::list).await?;
        let look = |id: GuestId| async move {
            let what = format!("look at the disks of guest {id}");
            let disks = self.lanes.run(Lane::Sample(id), Effect::Reads, what, move |connection| held::disks(connection, id)).await;
            HeldGuest { id, disks: disks.unwrap_or_default() }
        };
        Ok(join_all(ids.into_iter().map(look)).await)
    }

    async fn resume(&self, id: GuestId) -> Result<Change> {
        let what = format!("let guest {id} go on");
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, move |connection| held::resume(connection, id)).await
    }

    async fn definitions(&self) -> Result<Vec<DefinedDomain>> {
        self.lanes.run(Lane::Quick, Effect::Reads, "read the definitions of the domains".into(), survey::domains).await
    }

    async fn filters(&self) -> Result<Vec<GuestFilter>> {
        self.lanes.run(Lane::Quick, Effect::Reads, "list the filters".into(), survey::filters).await
    }

    async fn filter_state(&self, guest: &GuestConfig) -> Result<FilterState> {
        let (guest, what) = (Arc::new(guest.clone()), format!("read the filter of guest {}", guest.id));
        self.lanes.run(Lane::Quick, Effect::Reads, what, move |connection| filter_state(connection, &guest)).await
    }

    async fn begin_merge(&self, id: GuestId, merge: &LiveMerge) -> Result<Change> {
        let (merge, what) = (merge.clone(), format!("begin to merge images of guest {id}"));
        let work = move |connection: &Connection| merge::begin(connection, id, &merge);
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    async fn merge_progress(&self, id: GuestId, path: &str) -> Result<Option<Progress>> {
        let (path, what) = (path.to_owned(), format!("see how far a merge of guest {id} is"));
        let work = move |connection: &Connection| merge::progress(connection, id, &path);
        self.lanes.run(Lane::Sample(id), Effect::Reads, what, work).await
    }

    async fn flush_disk(&self, id: GuestId, path: &str) -> Result<()> {
        let (path, what) = (path.to_owned(), format!("flush a disk of guest {id}"));
        let work = move |connection: &Connection| flush::disk(connection, id, &path);
        self.lanes.run(Lane::Guest(id), Effect::Changes, what, work).await
    }

    fn take_events(&self) -> Option<mpsc::Receiver<HostEvent>> {
        self.events.lock().take()
    }
}

impl Libvirt {
    /// An operation on a running guest that goes through its monitor.
    async fn press(&self, id: GuestId, verb: &'static str, button: fn(&Domain) -> std::result::Result<(), VirtError>) -> Result<()> {
        let work = move |connection: &Connection| {
            let what = format!("cannot {verb} guest {id}");
            let domain = find_running(connection, id, &what)?;
            button(&domain).map_err(|error| failed(&what, &error))
        };
        self.lanes.run(Lane::Guest(id), Effect::Changes, format!("{verb} guest {id}"), work).await
    }
}

/// An agent that is not there is no trouble of libvirt's.
fn agent_failed(what: &str, error: &VirtError) -> HostError {
    let mut failed = failed(what, error);
    match error.code() {
        ErrorNumber::AgentUnresponsive => failed.kind = ErrorKind::Unsupported,
        ErrorNumber::AgentCommandTimeout => failed.kind = ErrorKind::Unknown,
        _ => {}
    }
    failed
}

fn lookup(connection: &Connection, id: GuestId) -> std::result::Result<Option<Domain>, VirtError> {
    absent(Domain::lookup_by_uuid_string(connection, &id.to_string()))
}

/// Turns "there is none" into `None`.
fn absent<T>(found: std::result::Result<T, VirtError>) -> std::result::Result<Option<T>, VirtError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn find(connection: &Connection, id: GuestId, what: &str) -> Result<Domain> {
    lookup(connection, id)
        .map_err(|error| failed(what, &error))?
        .ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("{what}: libvirt has no domain with this id")))
}

pub(super) fn find_running(connection: &Connection, id: GuestId, what: &str) -> Result<Domain> {
    let domain = find(connection, id, what)?;
    if watcher::power(&domain) != PowerState::Running {
        return Err(HostError::new(ErrorKind::Busy, format!("{what}: it is not running")));
    }
    Ok(domain)
}

fn status(connection: &Connection, id: GuestId, what: &str) -> Result<DomainStatus> {
    let domain = find(connection, id, what)?;
    let name = domain.get_name().map_err(|error| failed(what, &error))?;
    let autostart = domain.get_autostart().map_err(|error| failed(what, &error))?;
    Ok(DomainStatus { id, name, power: watcher::power(&domain), autostart })
}

fn filter_xml(connection: &Connection, id: GuestId) -> std::result::Result<Option<String>, VirtError> {
    let found = absent(NWFilter::lookup_by_uuid_string(connection, &id.to_string()))?;
    found.map(|filter| filter.get_xml_desc(0)).transpose()
}

/// The filter that the guest is to have on this host.
fn filter_of(guest: &GuestConfig) -> Result<String> {
    let tracking = filter::kernel::tracking();
    if tracking == filter::Tracking::None && filter::guards(guest.security.as_ref()) {
        tracing::warn!(
            guest = %guest.id,
            "this kernel does not show bridged packets to iptables, so the security rules of the guest stop the answers to its own connections \
             too; to change that, set net.bridge.bridge-nf-call-iptables and net.bridge.bridge-nf-call-ip6tables to 1 and start the guest anew"
        );
    }
    filter::build(guest, tracking)
}

fn filter_state(connection: &Connection, guest: &GuestConfig) -> Result<FilterState> {
    let what = format!("cannot read the filter of guest {}", guest.id);
    let Some(present) = filter_xml(connection, guest.id).map_err(|error| failed(what, &error))? else { return Ok(FilterState::Missing) };
    let same = filter::same(&present, &filter::build(guest, filter::kernel::tracking())?)?;
    Ok(if same { FilterState::Right } else { FilterState::Different })
}

/// libvirt puts a new definition in force for a running guest at once, or keeps the former one.
fn update_filter(connection: &Connection, guest: &GuestConfig) -> Result<Change> {
    let what = format!("cannot change the security rules of guest {}", guest.id);
    let rules = filter_of(guest)?;
    if let Some(present) = filter_xml(connection, guest.id).map_err(|error| failed(&what, &error))? {
        if filter::same(&present, &rules)? {
            return Ok(Change::Unchanged);
        }
    }
    NWFilter::define_xml(connection, &rules).map_err(|error| failed(&what, &error))?;
    Ok(Change::Changed)
}

/// Filter first, because a domain that starts needs it; when the domain is refused, the filter is put back as it was.
fn define(connection: &Connection, shared: &Shared, guest: &GuestConfig, what: &str) -> Result<()> {
    // Made here already: libvirt refuses to start a domain without it, also when others start it or the host does.
    if let Some(directory) = &shared.guest_log_dir {
        make_log_dir(directory)?;
    }
    let log = shared.console_log(guest.id);
    let document = domain::build(guest, &shared.machine(connection)?, log.as_deref())?;
    let rules = filter_of(guest)?;
    let before = filter_xml(connection, guest.id).map_err(|error| failed(what, &error))?;
    let filter = NWFilter::define_xml(connection, &rules).map_err(|error| failed(format!("{what}: its filter"), &error))?;
    let Err(error) = Domain::define_xml(connection, &document) else { return Ok(()) };
    let undone = match before {
        Some(before) => NWFilter::define_xml(connection, &before).map(drop),
        None => filter.undefine(),
    };
    let mut refused = failed_without(guest.monitor_secret.reveal(), what, &error);
    if error.code() == ErrorNumber::OperationFailed && taken(connection, guest) {
        refused.kind = ErrorKind::Exists;
    }
    if let Err(second) = undone {
        refused.context =
            format!("{what}: and its filter {} stays, since removing it failed too ({})", filter::name(guest.id), second.message());
    }
    Err(refused)
}

/// True when another domain has the guest's name, which libvirt reports without a code of its own.
fn taken(connection: &Connection, guest: &GuestConfig) -> bool {
    let other = Domain::lookup_by_name(connection, &guest.name).and_then(|other| other.get_uuid_string());
    other.is_ok_and(|other| other != guest.id.to_string())
}

fn undefine(connection: &Connection, id: GuestId, what: &str) -> Result<Change> {
    let mut change = Change::Unchanged;
    if let Some(domain) = lookup(connection, id).map_err(|error| failed(what, &error))? {
        if watcher::power(&domain) == PowerState::Running {
            return Err(HostError::new(ErrorKind::Busy, format!("{what}: it is running; stop it first")));
        }
        if absent(domain.undefine_flags(UNDEFINE)).map_err(|error| failed(what, &error))?.is_some() {
            change = Change::Changed;
        }
    }
    if let Some(filter) = absent(NWFilter::lookup_by_uuid_string(connection, &id.to_string())).map_err(|error| failed(what, &error))? {
        if absent(filter.undefine()).map_err(|error| failed(format!("{what}: its filter"), &error))?.is_some() {
            change = Change::Changed;
        }
    }
    Ok(change)
}

/// The serial output goes with the guest: its file and the older ones that virtlogd keeps beside it.
fn remove_logs(shared: &Shared, id: GuestId) {
    let Some(directory) = &shared.guest_log_dir else { return };
    let prefix = format!("{id}.log");
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!("cannot remove {}: {error}", entry.path().display());
            }
        }
    }
}

/// Starts a domain that does not run by pressing `button`.
fn start(connection: &Connection, shared: &Shared, id: GuestId, what: &str, button: impl Fn(&Domain) -> Result<()>) -> Result<Change> {
    let domain = find(connection, id, what)?;
    if watcher::power(&domain) == PowerState::Running {
        return Ok(Change::Unchanged);
    }
    if let Some(directory) = &shared.guest_log_dir {
        make_log_dir(directory)?;
    }
    let Err(first) = button(&domain) else { return Ok(Change::Changed) };
    if domain.is_active().unwrap_or(false) {
        return Ok(Change::Unchanged);
    }
    // A pool that is not active or has not seen a file yet is no reason to fail: bring it up to date and try once more.
    if connection.works() && refresh_pools(connection, &domain) {
        return button(&domain).map(|()| Change::Changed);
    }
    Err(first)
}

/// Creates the directory of the consoles. libvirt's log daemon, which writes there, runs as root.
fn make_log_dir(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(|error| {
        HostError::with_source(
            ErrorKind::Failed,
            format!("cannot create {}, the directory of the guests' consoles", directory.display()),
            error,
        )
    })?;
    selinux::label(directory, selinux::LOGS);
    Ok(())
}

/// Activates and re-reads the pools whose volumes the domain uses and libvirt does not know; true when that may have helped.
fn refresh_pools(connection: &Connection, domain: &Domain) -> bool {
    let Ok(document) = domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) else { return false };
    let Ok(document) = Node::parse(&document) else { return false };
    let Some(devices) = document.find(&["devices"]) else { return false };
    let sources = devices.children.iter().filter_map(|device| device.find(&["source"]));
    let volumes = sources.filter_map(|source| Some((source.attribute("pool")?, source.attribute("volume")?)));
    let mut helped = false;
    for (pool, volume) in volumes {
        let Ok(pool) = StoragePool::lookup_by_name(connection, pool) else { continue };
        if !pool.is_active().unwrap_or(true) {
            helped |= pool.create(sys::VIR_STORAGE_POOL_CREATE_NORMAL).is_ok();
        } else if virt::storage_vol::StorageVol::lookup_by_name(&pool, volume).is_err() {
            helped |= pool.refresh(0).is_ok();
        }
    }
    helped
}

fn destroy(connection: &Connection, id: GuestId, what: &str) -> Result<Change> {
    let Some(domain) = lookup(connection, id).map_err(|error| failed(what, &error))? else { return Ok(Change::Unchanged) };
    if watcher::power(&domain) != PowerState::Running {
        return Ok(Change::Unchanged);
    }
    match domain.destroy() {
        Ok(()) => Ok(Change::Changed),
        // It ended while libvirt was at it: by itself, or killed after the grace.
        Err(_) if connection.works() && !domain.is_active().unwrap_or(true) => Ok(Change::Changed),
        Err(error) => Err(failed(what, &error)),
    }
}
