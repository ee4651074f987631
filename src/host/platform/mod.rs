//! What the service needs of the machine itself, looked up once: devices, routes, limits, space, the clock.
//!
//! Contract: nothing is changed; what can't be read is told as such. Blocks, and briefly.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use procfs::process::{LimitValue, Process};

use super::Bridge;

/// Facts about the machine.
#[derive(Clone, Debug)]
pub struct Platform {
    /// This process may do everything.
    pub root: bool,
    /// Why KVM can't be used; none when it can.
    pub kvm: Option<String>,
    /// How guests are run, or why they can't be.
    pub guests: Result<String, String>,
    /// The bridge, or why there is none.
    pub bridge: Result<Bridge, String>,
    /// Ports of the bridge that are not of guests; none where that can't be told.
    pub bridge_ports: Option<Vec<String>>,
    /// Interface of the default route; none when there is no such route.
    pub default_route: Result<Option<String>, String>,
    /// Whether a datagram to the domain's group came back through the bridge, and what happened if it did not.
    pub multicast: Result<(), String>,
    /// UDP 67 of the bridge.
    pub dhcp_port: PortState,
    /// TCP 25469 of the bridge's address.
    pub cloud_init_port: PortState,
    /// File systems that the service writes to.
    pub spaces: Vec<Space>,
    /// Files that the service may have open; none for as many as it likes.
    pub open_files: Option<u64>,
    /// Processes and threads that its user may have; none for as many as it likes.
    pub threads: Option<u64>,
    /// Version of `qemu-img`, or why it can't be started.
    pub qemu_img: Result<String, String>,
    /// Now.
    pub now: SystemTime,
    /// When a file of `data/` was last written; none when there is none.
    pub last_write: Option<SystemTime>,
}

/// A port that guests are served at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Nobody has it.
    Free,
    /// The running service has it.
    Ours,
    /// Somebody else has it, as far as that can be told.
    Taken(String),
    /// It can't be found out, and why.
    Unknown(String),
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// What is written there, and where.
    pub path: PathBuf,
    /// It holds disks of guests.
    pub pool: bool,
    /// Bytes free for the service.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Files that can still be made; none where the file system has no such limit.
    pub files_free: Option<u64>,
    /// Nothing can be written.
    pub read_only: bool,
}

/// Why `/dev/kvm` can't be used.
pub fn kvm() -> Option<String> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").err().map(|error| error.to_string())
}

/// Ports of a bridge without those of guests; none where sysfs does not show the bridge.
pub fn bridge_ports(bridge: &Bridge) -> Option<Vec<String>> {
    let directory = Path::new("/sys/class/net").join(&bridge.name);
    let index = std::fs::read_to_string(directory.join("ifindex")).ok()?;
    if index.trim().parse() != Ok(bridge.index) {
        return None;
    }
    let names = std::fs::read_dir(directory.join("brif")).ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut ports: Vec<String> = names.filter(|name| !name.starts_with("vnet") && !name.starts_with("tap")).collect();
    ports.sort();
    Some(ports)
}

/// Interface of the default route.
pub fn default_route() -> Result<Option<String>, String> {
    let routes = procfs::net::route().map_err(|error| error.to_string())?;
    let default = routes.into_iter().find(|route| route.destination.is_unspecified() && route.mask.is_unspecified());
    Ok(default.map(|route| route.iface))
}

/// The file system of a directory, or of the first one above it that exists; none when that can't be asked.
pub fn space(path: &Path, pool: bool) -> Option<Space> {
    let present = path.ancestors().find(|path| path.exists())?;
    let figures = statvfs(present).ok()?;
    let unit = figures.fragment_size();
    Some(Space {
        path: path.to_owned(),
        pool,
        free: figures.blocks_available().saturating_mul(unit),
        total: figures.blocks().saturating_mul(unit),
        files_free: (figures.files() > 0).then(|| figures.files_available()),
        read_only: figures.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
    })
}

/// Open files and threads that a process may have; this one when none is named. Root's threads are not limited.
pub fn limits(process: Option<i32>) -> (Option<u64>, Option<u64>) {
    let process = process.map_or_else(Process::myself, Process::new);
    let Ok(limits) = process.and_then(|process| process.limits()) else { return (None, None) };
    let number = |value: LimitValue| match value {
        LimitValue::Value(number) => Some(number),
        LimitValue::Unlimited => None,
    };
    let threads = number(limits.max_processes.soft_limit).filter(|_| !nix::unistd::geteuid().is_root());
    // The control group of this process; a unit's own limit is set by systemd.
    let group = std::fs::read_to_string("/sys/fs/cgroup/pids.max").ok().and_then(|text| text.trim().parse().ok());
    (number(limits.max_open_files.soft_limit), threads.into_iter().chain(group).min())
}

/// When a file of a directory was last written.
pub fn last_write(directory: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_read_without_being_changed() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_write(directory.path()), None);
        std::fs::write(directory.path().join("a"), "x").unwrap();
        assert!(last_write(directory.path()).unwrap() <= SystemTime::now() + std::time::Duration::from_secs(1));
        let there = space(directory.path(), true).unwrap();
        let absent = space(&directory.path().join("not/yet"), false).unwrap();
        assert!(there.total > 0 && there.total == absent.total && !there.read_only);
        let (files, _) = limits(None);
        assert!(files.is_none_or(|files| files > 3));
        assert!(default_route().is_ok());
        let absent = Bridge { name: "br-none".into(), index: 1, mac: [0; 6], address: None };
        assert_eq!(bridge_ports(&absent), None);
    }
}
