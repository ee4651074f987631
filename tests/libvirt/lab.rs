//! The host that the tests run on, and what they do behind the project's back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cell::host::libvirt::{Libvirt, LibvirtConfig, Virtualization};
use cell::host::{DomainStatus, ErrorKind, HostEvent, Hypervisor, Storage};
use cell::model::{GuestConfig, GuestId, PowerState};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;
use tokio::sync::{mpsc, Mutex, MutexGuard};

/// Longest wait for anything; a failure, not a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// libvirtd is restarted by some tests, so they follow each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Directory pool of the tests.
pub(crate) const POOL: &str = "cell-test";

/// Bytes of a disk.
pub(crate) const DISK: u64 = 64 << 20;

/// One test's libvirt.
pub(crate) struct Lab {
    pub(crate) libvirt: Libvirt,
    pub(crate) events: mpsc::Receiver<HostEvent>,
    pub(crate) logs: tempfile::TempDir,
    pub(crate) uri: String,
    pub(crate) bridge: String,
    ours: Vec<GuestId>,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Connects with calls that give up after 6 s.
    pub(crate) async fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name} (see the head of tests/libvirt/main.rs)"));
        let (uri, bridge) = (variable("CELL_TEST_LIBVIRT_URI"), variable("CELL_TEST_BRIDGE"));
        // A libvirtd that has just started asks QEMU what it can do, which may take longer than a call gets.
        assert!(Command::new("virsh").args(["-q", "-c", &uri, "domcapabilities"]).output().unwrap().status.success());
        let logs = tempfile::tempdir().unwrap();
        let config = LibvirtConfig {
            uri: uri.clone(),
            virtualization: Virtualization::Qemu,
            guest_log_dir: Some(logs.path().to_owned()),
            call_timeout: Duration::from_secs(6),
            ..LibvirtConfig::default()
        };
        let libvirt = Libvirt::connect(config).await.unwrap();
        let mut events = libvirt.take_events().unwrap();
        assert!(libvirt.take_events().is_none());
        let Some(HostEvent::Connected(domains)) = events.recv().await else { panic!("the stream does not begin with Connected") };
        sweep(&libvirt, &domains, filters(&uri)).await;
        Self { libvirt, events, logs, uri, bridge, ours: Vec::new(), _turn: turn }
    }

    /// A guest with one disk that does not exist yet.
    pub(crate) fn guest(&mut self) -> GuestConfig {
        let id = GuestId::random();
        self.ours.push(id);
        let port = 15901 + self.ours.len();
        serde_json::from_value(json!({
            "name": format!("test.{id}"), "id": id, "cores": 1, "memory": 64 << 20, "disks": [DISK], "monitor_port": port,
            "monitor_secret": "<&'\">12", "storage_pool": POOL, "storage_volumes": [format!("{id}_sys.qcow2")], "network_mode": 1,
            "network_source": self.bridge, "hardware_address": mac(id),
            "template": {"operating_system": "linux", "disk": "scsi", "network": "virtio", "display": "vga", "control": "vnc", "tablet": "usb"},
        }))
        .unwrap()
    }

    /// A guest with its disk and definition.
    pub(crate) async fn defined(&mut self) -> GuestConfig {
        let guest = self.guest();
        self.libvirt.create_volume(POOL, &guest.storage_volumes[0], DISK).await.unwrap();
        self.libvirt.define(&guest).await.unwrap();
        guest
    }

    /// A guest that runs.
    pub(crate) async fn running(&mut self) -> GuestConfig {
        let guest = self.defined().await;
        self.libvirt.start(guest.id).await.unwrap();
        self.expect(|event| *event == power(guest.id, PowerState::Running)).await;
        guest
    }

    /// Waits for an event, letting others pass.
    pub(crate) async fn expect(&mut self, wanted: impl Fn(&HostEvent) -> bool) -> HostEvent {
        let mut passed = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) if wanted(&event) => return event,
                Ok(Some(event)) => passed.push(event),
                _ => panic!("the event did not come; others were {passed:?}"),
            }
        }
    }

    /// virsh, on its own connection.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        Command::new("virsh").args(["-q", "-c", &self.uri]).args(arguments).output().unwrap()
    }

    /// What virsh says, which must succeed.
    pub(crate) fn told(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        assert!(output.status.success(), "virsh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Pid of a guest's QEMU.
    pub(crate) fn qemu(&self, guest: &GuestConfig) -> Pid {
        read_pid(&Path::new("/run/libvirt/qemu").join(format!("{}.pid", guest.name)))
    }

    /// Removes what the test made.
    pub(crate) async fn clean(self) {
        for id in &self.ours {
            self.libvirt.destroy(*id).await.unwrap();
            self.libvirt.undefine(*id).await.unwrap();
            self.libvirt.delete_volume(POOL, &format!("{id}_sys.qcow2")).await.unwrap();
            assert_eq!(self.libvirt.domain(*id).await.unwrap_err().kind, ErrorKind::NotFound);
        }
        assert_eq!(self.told(&["nwfilter-list"]).matches("nano-nwfilter").count(), 0);
        assert_eq!(self.libvirt.pool(POOL).await.unwrap().volumes.len(), 0);
    }
}

/// Removes what a test that failed has left.
async fn sweep(libvirt: &Libvirt, domains: &[DomainStatus], filters: Vec<GuestId>) {
    for domain in domains.iter().filter(|domain| domain.name.starts_with("test.")) {
        libvirt.destroy(domain.id).await.unwrap();
        libvirt.undefine(domain.id).await.unwrap();
    }
    // A filter of a guest that was never defined.
    for filter in filters {
        libvirt.undefine(filter).await.unwrap();
    }
    let pool = libvirt.ensure_local_pool(POOL, pool_directory().to_str().unwrap()).await.unwrap();
    for volume in pool.volumes.keys() {
        libvirt.delete_volume(POOL, volume).await.unwrap();
    }
}

/// Guests whose filters are there.
fn filters(uri: &str) -> Vec<GuestId> {
    let output = Command::new("virsh").args(["-q", "-c", uri, "nwfilter-list"]).output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    words.split_whitespace().filter_map(|word| word.strip_prefix("nano-nwfilter-")?.parse().ok()).collect()
}

/// Where the pool's files are.
pub(crate) fn pool_directory() -> PathBuf {
    PathBuf::from("/var/lib/libvirt/images").join(POOL)
}

/// The event of a domain that starts or stops.
pub(crate) fn power(id: GuestId, power: PowerState) -> HostEvent {
    HostEvent::Power { id, power }
}

fn mac(id: GuestId) -> String {
    let text = id.to_string();
    format!("00:16:3e:{}:{}:{}", &text[0..2], &text[2..4], &text[4..6])
}

fn read_pid(file: &Path) -> Pid {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    Pid::from_raw(text.trim().parse().unwrap())
}

/// libvirtd, found by its pidfile, stopped and started by the tests.
pub(crate) struct Daemon {
    pidfile: PathBuf,
}

impl Daemon {
    pub(crate) fn find() -> Self {
        Self { pidfile: std::env::var_os("CELL_TEST_LIBVIRTD_PIDFILE").map_or_else(|| "/run/libvirt/libvirtd.pid".into(), PathBuf::from) }
    }

    pub(crate) fn pid(&self) -> Pid {
        read_pid(&self.pidfile)
    }

    /// Ends it and waits until it is gone.
    pub(crate) async fn stop(&self) {
        let pid = self.pid();
        kill(pid, Signal::SIGTERM).unwrap();
        wait_for(|| kill(pid, None).is_err()).await;
    }

    pub(crate) fn start(&self) {
        let status = Command::new("libvirtd").arg("-d").arg("-p").arg(&self.pidfile).status().unwrap();
        assert!(status.success());
    }
}

/// Waits for a condition that nobody announces.
pub(crate) async fn wait_for(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the condition did not become true");
}
