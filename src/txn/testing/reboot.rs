//! The service dies and is started again on the same host and directory.

use super::*;
use crate::txn::audit::AuditLog;
use crate::txn::recovery;

impl Rig {
    /// Dies where it stands and is started again, as the service does it. `die_at`: the new one dies at that point, counted from its begin; then
    /// the host and the directory come back for another try.
    pub(in crate::txn) async fn reboot(self, die_at: Option<u64>) -> Result<Self, Remains> {
        self.die().await.boot(die_at).await
    }

    /// The same with an audit trail.
    pub(in crate::txn) async fn reboot_with(self, trail: Arc<dyn AuditLog>) -> Result<Self, Remains> {
        let remains = self.die().await;
        Remains { trail: Some(trail), ..remains }.boot(None).await
    }

    /// Dies where it stands.
    pub(in crate::txn) async fn die(self) -> Remains {
        let Self { sim, node, engine, monitor, disk: _, directory, .. } = self;
        sim.process().kill();
        let name = node.settings.name.clone();
        drop((node, engine, monitor));
        // What the dead process had in hand is dropped.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        Remains { sim, directory, name, trail: None }
    }
}

/// What outlives a process.
pub(in crate::txn) struct Remains {
    pub(in crate::txn) sim: SimHost,
    directory: tempfile::TempDir,
    name: String,
    trail: Option<Arc<dyn AuditLog>>,
}

impl Remains {
    /// A start that ends once the data files are read, for libvirt is not ready.
    pub(in crate::txn) fn start_in_vain(&self) {
        self.sim.restart();
        drop(store::testing::open(&TestDisk::new(self.sim.process()), self.directory.path()).unwrap());
        self.sim.process().kill();
    }

    /// The data directory.
    pub(in crate::txn) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the service.
    pub(in crate::txn) async fn boot(self, die_at: Option<u64>) -> Result<Rig, Self> {
        let Self { sim, directory, name, trail } = self;
        sim.restart();
        let process = sim.process();
        if let Some(nth) = die_at {
            process.die_at(nth);
        }
        let disk = TestDisk::new(process.clone());
        let Ok(opened) = store::testing::open(&disk, directory.path()) else {
            assert!(process.is_dead(), "the data directory can't be opened");
            return Err(Self { sim, directory, name, trail });
        };
        let lost = opened.loaded.lost;
        let mut rig = Rig::build(sim, directory, disk, &name, opened);
        if let Some(trail) = trail {
            assert!(rig.node.trail.set(trail).is_ok());
        }
        let started = async {
            recovery::clean_up(&rig.node).await;
            if lost {
                recovery::rebuild(&rig.node).await;
            }
            rig.listen();
            rig.take_host_events().await;
            rig.monitor.rest().await;
            rig.node.store.flush(&DataFile::ALL).await
        };
        let alive = tokio::select! {
            biased;
            () = process.death() => false,
            written = started => written.is_ok(),
        };
        if alive && !process.is_dead() {
            return Ok(rig);
        }
        assert!(process.is_dead(), "the data files can't be written");
        let Rig { sim, directory, .. } = rig;
        Err(Self { sim, directory, name, trail: None })
    }
}
