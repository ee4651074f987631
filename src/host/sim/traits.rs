//! The host traits on the simulated world: each call goes through the fault plan first.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, Instant};

use super::super::{
    agent, Applied, Bridge, Change, DefinedDomain, DiskSpace, DomainEdit, DomainSample, DomainStatus, ErrorKind, FilterState, GuestFilter,
    HeldGuest, HostError, HostEvent, Hypervisor, LiveMerge, Neighbour, Network, NfsSource, PoolStatus, Progress, Result, Storage,
    VolumeInfo,
};
use super::faults::{Effect, Fault, Operation};
use super::share::SimShare;
use super::world::World;
use super::SimHost;
use crate::model::{GuestConfig, GuestId, Pool, PowerState};

/// How long an agent may take to freeze or thaw.
const AGENT_PATIENCE: Duration = Duration::from_secs(3);

impl SimHost {
    /// Waits out latency and hanging, then changes the world, or fails as planned.
    pub(super) async fn run<T>(
        &self,
        operation: Operation,
        guest: Option<GuestId>,
        act: impl FnOnce(&mut World) -> Result<T> + Send,
    ) -> Result<T> {
        let process = self.process();
        process.point().await;
        let (fault, leaves, latency, deadline) = {
            let mut plan = self.inner.plan.lock();
            (plan.begin(operation), plan.leaves(), plan.latency.get(&operation).copied(), plan.deadline)
        };
        if leaves {
            self.disconnect("libvirtd has died");
        }
        let needs_libvirt = operation.needs_libvirt();
        if needs_libvirt && !self.inner.world.lock().connected() {
            return Err(HostError::new(ErrorKind::Unavailable, format!("{operation:?}: not connected to the simulated host")));
        }
        let wait = async {
            if let Some(latency) = latency {
                sleep(latency).await;
            }
            if let Some(id) = guest {
                self.wait_while_hung(id).await;
            }
        };
        if timeout(deadline, wait).await.is_err() {
            return Err(HostError::new(ErrorKind::Unknown, format!("{operation:?} did not end in {deadline:?}")));
        }
        if let Some(Fault { kind, effect: Effect::None }) = fault {
            return Err(planned(operation, kind));
        }
        let result = {
            let mut world = self.inner.world.lock();
            if needs_libvirt && !world.connected() {
                return Err(HostError::new(ErrorKind::Unknown, format!("{operation:?}: the connection broke meanwhile")));
            }
            world.act(act)
        };
        process.point().await;
        match fault {
            Some(fault) => Err(planned(operation, fault.kind)),
            None => result,
        }
    }

    fn share_of(&self, pool: &str) -> Option<SimShare> {
        self.inner.world.lock().share_of_pool(pool)
    }

    /// The guest does as it was asked to, unless it was started anew meanwhile.
    fn stop_later(&self, id: GuestId, started: Instant) {
        let Some(time) = self.inner.plan.lock().shutdown_time else { return };
        let weak = Arc::downgrade(&self.inner);
        let mut shutdowns = self.inner.shutdowns.lock();
        while shutdowns.try_join_next().is_some() {}
        shutdowns.spawn(async move {
            sleep(time).await;
            let Some(inner) = weak.upgrade() else { return };
            let mut world = inner.world.lock();
            if world.running(id).is_ok_and(|since| since == started) {
                world.set_power(id, PowerState::Stopped);
            }
        });
    }

    async fn wait_while_hung(&self, id: GuestId) {
        loop {
            let released = self.inner.released.notified();
            if !self.inner.plan.lock().hung.contains(&id) {
                return;
            }
            released.await;
        }
    }
}

pub(super) fn planned(operation: Operation, kind: ErrorKind) -> HostError {
    HostError::new(kind, format!("{operation:?} failed on demand"))
}

#[async_trait]
impl Hypervisor for SimHost {
    async fn domains(&self) -> Result<Vec<DomainStatus>> {
        self.run(Operation::Domains, None, |world| Ok(world.domains())).await
    }

    async fn domain(&self, id: GuestId) -> Result<DomainStatus> {
        self.run(Operation::Domain, None, |world| world.domain(id)).await
    }

    async fn define(&self, guest: &GuestConfig) -> Result<()> {
        self.run(Operation::Define, Some(guest.id), |world| world.define(guest)).await
    }

    async fn undefine(&self, id: GuestId) -> Result<Change> {
        self.run(Operation::Undefine, Some(id), |world| world.undefine(id)).await
    }

    async fn start(&self, id: GuestId) -> Result<Change> {
        let share = self.inner.world.lock().share_of_guest(id);
        self.wait_for_server(share).await?;
        self.run(Operation::Start, Some(id), |world| world.start(id)).await
    }

    async fn start_with_media(&self, id: GuestId, file: &str) -> Result<Change> {
        self.run(Operation::StartWithMedia, Some(id), |world| world.start_with_media(id, file)).await
    }

    async fn set_media(&self, id: GuestId, file: Option<&str>) -> Result<Change> {
        self.run(Operation::SetMedia, Some(id), |world| world.set_media(id, file)).await
    }

    async fn media(&self, id: GuestId) -> Result<Option<String>> {
        self.run(Operation::Media, None, |world| {
            world.running(id)?;
            Ok(world.get_mut(id)?.media.clone())
        })
        .await
    }

    async fn shutdown(&self, id: GuestId) -> Result<()> {
        let ask = |world: &mut World| world.running(id).map(|started| self.stop_later(id, started));
        self.run(Operation::Shutdown, Some(id), ask).await
    }

    async fn reboot(&self, id: GuestId) -> Result<()> {
        self.run(Operation::Reboot, Some(id), |world| world.running(id).map(drop)).await
    }

    async fn reset(&self, id: GuestId) -> Result<()> {
        self.run(Operation::Reset, Some(id), |world| world.running(id).map(drop)).await
    }

    async fn destroy(&self, id: GuestId) -> Result<Change> {
        self.run(Operation::Destroy, Some(id), |world| world.destroy(id)).await
    }

    async fn set_autostart(&self, id: GuestId, enable: bool) -> Result<Change> {
        self.run(Operation::SetAutostart, Some(id), |world| world.set_autostart(id, enable)).await
    }

    async fn reconfigure(&self, id: GuestId, edit: &DomainEdit) -> Result<Applied> {
        self.run(Operation::Reconfigure, Some(id), |world| world.reconfigure(id, edit)).await
    }

    async fn sample(&self, id: GuestId) -> Result<DomainSample> {
        self.run(Operation::Sample, Some(id), |world| world.sample(id)).await
    }

    async fn update_filter(&self, guest: &GuestConfig) -> Result<Change> {
        self.run(Operation::UpdateFilter, Some(guest.id), |world| world.update_filter(guest.id, guest.security.as_ref())).await
    }

    async fn agent(&self, id: GuestId, command: &str, deadline: Duration) -> Result<String> {
        let answered = self.run(Operation::Agent, Some(id), |world| {
            world.agent_commands.push((id, command.to_owned()));
            world.agent(id, command)
        });
        timeout(deadline, answered)
            .await
            .unwrap_or_else(|_| Err(HostError::new(ErrorKind::Unknown, format!("the agent of guest {id} has not answered"))))
    }

    async fn resize_disk(&self, id: GuestId, path: &str, capacity: u64) -> Result<Change> {
        self.run(Operation::ResizeDisk, Some(id), |world| world.resize_disk(id, path, capacity)).await
    }

    async fn change_volumes(&self, id: GuestId, volumes: &[(String, String)]) -> Result<Change> {
        self.run(Operation::ChangeVolumes, Some(id), |world| world.change_volumes(id, volumes)).await
    }

    async fn switch_disks(&self, id: GuestId, images: &[(String, String)], freeze: bool) -> Result<Change> {
        if freeze {
            let _ = self.agent(id, agent::FREEZE, AGENT_PATIENCE).await;
        }
        let done = self.run(Operation::SwitchDisks, Some(id), |world| world.switch_disks(id, images)).await;
        if freeze {
            let _ = self.agent(id, agent::THAW, AGENT_PATIENCE).await;
        }
        done
    }

    async fn held(&self) -> Result<Vec<HeldGuest>> {
        self.run(Operation::Held, None, |world| Ok(world.held())).await
    }

    async fn resume(&self, id: GuestId) -> Result<Change> {
        self.run(Operation::Resume, Some(id), |world| world.resume(id)).await
    }

    async fn definitions(&self) -> Result<Vec<DefinedDomain>> {
        self.run(Operation::Definitions, None, |world| Ok(world.definitions())).await
    }

    async fn filters(&self) -> Result<Vec<GuestFilter>> {
        self.run(Operation::Filters, None, |world| Ok(world.filters())).await
    }

    async fn filter_state(&self, guest: &GuestConfig) -> Result<FilterState> {
        self.run(Operation::FilterState, None, |world| Ok(world.filter_state(guest))).await
    }

    async fn begin_merge(&self, id: GuestId, merge: &LiveMerge) -> Result<Change> {
        self.run(Operation::BeginMerge, Some(id), |world| world.begin_merge(id, merge)).await
    }

    async fn merge_progress(&self, id: GuestId, path: &str) -> Result<Option<Progress>> {
        self.run(Operation::MergeProgress, Some(id), |world| world.merge_progress(id, path)).await
    }

    async fn flush_disk(&self, id: GuestId, path: &str) -> Result<()> {
        self.run(Operation::FlushDisk, Some(id), |world| world.flush_disk(id, path)).await
    }

    fn take_events(&self) -> Option<mpsc::Receiver<HostEvent>> {
        let events = self.inner.events.lock().take()?;
        self.inner.world.lock().listen();
        Some(events)
    }
}

#[async_trait]
impl Storage for SimHost {
    async fn ensure_local_pool(&self, name: &str, target: &str) -> Result<Pool> {
        self.run(Operation::EnsureLocalPool, None, |world| world.ensure_local_pool(name, target)).await
    }

    async fn ensure_nfs_pool(&self, name: &str, source: &NfsSource, target: &str) -> Result<Pool> {
        let share = self.inner.world.lock().export(source);
        self.wait_for_server(share).await?;
        self.run(Operation::EnsureNfsPool, None, |world| world.ensure_nfs_pool(name, source, target)).await
    }

    async fn check_pool(&self, name: &str) -> Result<()> {
        self.wait_for_server(self.share_of(name)).await?;
        self.run(Operation::CheckPool, None, |world| world.check_pool(name)).await
    }

    async fn refresh_pool(&self, name: &str) -> Result<()> {
        self.wait_for_server(self.share_of(name)).await?;
        self.run(Operation::RefreshPool, None, |world| world.pool(name).map(drop)).await
    }

    async fn pool(&self, name: &str) -> Result<Pool> {
        self.wait_for_server(self.share_of(name)).await?;
        self.run(Operation::Pool, None, |world| world.pool(name)).await
    }

    async fn remove_pool(&self, name: &str) -> Result<Change> {
        self.wait_for_server(self.share_of(name)).await?;
        self.run(Operation::RemovePool, None, |world| Ok(world.remove_pool(name))).await
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>> {
        self.run(Operation::Pools, None, |world| world.pools()).await
    }

    async fn create_volume(&self, pool: &str, name: &str, capacity: u64) -> Result<VolumeInfo> {
        self.wait_for_server(self.share_of(pool)).await?;
        self.run(Operation::CreateVolume, None, |world| world.create_volume(pool, name, capacity)).await
    }

    async fn delete_volume(&self, pool: &str, name: &str) -> Result<Change> {
        self.wait_for_server(self.share_of(pool)).await?;
        self.run(Operation::DeleteVolume, None, |world| world.delete_volume(pool, name)).await
    }

    async fn write_file(&self, path: &str, content: Arc<[u8]>) -> Result<Change> {
        self.wait_for_directory(path.rsplit_once('/').unwrap_or_default().0).await?;
        self.run(Operation::WriteFile, None, |world| Ok(world.write_file(path, &content))).await
    }

    async fn remove_file(&self, path: &str) -> Result<Change> {
        self.wait_for_directory(path.rsplit_once('/').unwrap_or_default().0).await?;
        self.run(Operation::RemoveFile, None, |world| Ok(world.remove_file(path))).await
    }

    async fn space(&self, paths: &[String]) -> DiskSpace {
        self.inner.world.lock().space(paths)
    }
}

#[async_trait]
impl Network for SimHost {
    fn bridge(&self) -> Result<Bridge> {
        match self.inner.plan.lock().begin(Operation::Bridge) {
            Some(fault) => Err(planned(Operation::Bridge, fault.kind)),
            None => Ok(self.inner.bridge.lock().clone()),
        }
    }

    fn neighbours(&self) -> Result<Vec<Neighbour>> {
        match self.inner.plan.lock().begin(Operation::Neighbours) {
            Some(fault) => Err(planned(Operation::Neighbours, fault.kind)),
            None => Ok(self.inner.world.lock().neighbours.clone()),
        }
    }

    fn solicit(&self, address: std::net::Ipv4Addr) -> Result<()> {
        self.inner.world.lock().solicit(address);
        Ok(())
    }
}
