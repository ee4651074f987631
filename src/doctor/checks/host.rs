//! This host: what the service needs before its first start, and ever after.

use std::time::{Duration, SystemTime};

use crate::doctor::finding::{Area, Findings, Remedy};
use crate::host::platform::{Platform, PortState, Space};
use crate::model::Virtualization;
use crate::store::Identity;

/// What the machine is compared with.
pub(in crate::doctor) struct Wanted<'a> {
    pub(in crate::doctor) bridge: &'a str,
    pub(in crate::doctor) virtualization: Virtualization,
    /// Why libvirt can't be reached.
    pub(in crate::doctor) libvirt: Option<&'a str>,
    /// A Core is named in the settings, so that multicast is not needed.
    pub(in crate::doctor) core_named: bool,
    /// Name of this node; none before the first start.
    pub(in crate::doctor) name: &'a Result<Option<String>, String>,
}

/// Less than this makes writing `data/` and the log uncertain, bytes.
const LITTLE: u64 = 64 << 20;
/// Less than this makes the next guests fail, bytes; of a small file system a twentieth.
const LITTLE_POOL: u64 = 1 << 30;
const SMALL_PART: u64 = 20;
/// Files that can still be made.
const FEW_FILES: u64 = 1000;
/// Connections to libvirt, sockets, files and what a burst of transfers opens.
const OPEN_FILES: u64 = 512;
/// Blocking threads, libvirt's and the runtime's.
const THREADS: u64 = 128;
/// A clock that is behind the files by more than this was set back.
const BEHIND: Duration = Duration::from_secs(120);
/// 2025-01-01: no service of this version ran before.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

/// What is wrong with the settings.
pub(in crate::doctor) fn settings(complaints: &[String], findings: &mut Findings) {
    for complaint in complaints {
        let remedy = Remedy::Manual("correct the file; config/*.example show what is possible".into());
        findings.drift("host.settings", "config/", complaint.clone(), "defaults were taken for this look", remedy);
    }
}

/// Looks at all of it.
pub(in crate::doctor) fn check(platform: &Platform, wanted: &Wanted<'_>, findings: &mut Findings) {
    if !platform.root {
        let why = "libvirt, ports and files of the service may not be open to this user";
        findings.note("host.root", "this user", "it is not root", why, Remedy::Manual("run this as root".into()));
    }
    libvirt(platform, wanted, findings);
    bridge(platform, wanted, findings);
    // Without an address there is nothing to listen at.
    if platform.bridge.as_ref().is_ok_and(|bridge| bridge.address.is_some()) {
        let why = "guests get no cloud-init documents from this node";
        port("UDP 67", &platform.dhcp_port, ("host.dhcp-port", "guests get no addresses from this node"), findings);
        port("TCP 25469", &platform.cloud_init_port, ("host.cloud-init-port", why), findings);
    }
    name(platform, wanted, findings);
    platform.spaces.iter().for_each(|space| room(space, findings));
    limits(platform, findings);
    if let Err(reason) = &platform.qemu_img {
        let remedy = Remedy::Manual("install it: apt-get install qemu-utils, or dnf install qemu-img".into());
        findings.drift("host.qemu-img", "the program qemu-img", reason.clone(), "disks can't be changed and snapshots not taken", remedy);
    }
    clock(platform, findings);
}

fn libvirt(platform: &Platform, wanted: &Wanted<'_>, findings: &mut Findings) {
    if let Some(reason) = wanted.libvirt {
        let remedy = Remedy::Manual("systemctl enable --now libvirtd, and run this as root".into());
        findings.drift("host.libvirt", "libvirt", reason, "nothing can be said or done about guests", remedy);
    } else if let Err(reason) = &platform.guests {
        let remedy =
            Remedy::Manual("install QEMU (qemu-system-x86 or qemu-kvm), or choose another \"virtualization\" in config/cell.cfg".into());
        findings.drift("host.emulator", "libvirt", reason.clone(), "no guest can be defined", remedy);
    }
    let Some(reason) = &platform.kvm else { return };
    let remedy = Remedy::Manual(
        "switch virtualization on in the firmware and load kvm_intel or kvm_amd; or set \"virtualization\": \"qemu\"".into(),
    );
    match wanted.virtualization {
        Virtualization::Kvm => {
            findings.drift("host.kvm", "/dev/kvm", reason.clone(), "\"virtualization\" is \"kvm\", so no guest can be started", remedy)
        }
        Virtualization::Auto => findings.note("host.kvm", "/dev/kvm", reason.clone(), "guests are emulated, which is slow", remedy),
        Virtualization::Qemu => {}
    }
}

fn bridge(platform: &Platform, wanted: &Wanted<'_>, findings: &mut Findings) {
    let subject = format!("bridge {}", wanted.bridge);
    let found = match &platform.bridge {
        Ok(found) => found,
        Err(reason) => {
            let remedy = Remedy::Manual(format!(
                "make it with this host's address, or name another \"bridge\" in config/cell.cfg; e.g. nmcli con add type bridge ifname {}",
                wanted.bridge
            ));
            return findings.drift("host.bridge", subject, reason.clone(), "guests have no network, and the Core can't be reached", remedy);
        }
    };
    if found.address.is_none() {
        let remedy = Remedy::Manual(format!("give it this host's address: ip address add ADDRESS/24 dev {}", wanted.bridge));
        findings.drift("host.bridge-address", &subject, "it has no IPv4 address", "the Core can't be reached", remedy);
    }
    if platform.bridge_ports.as_ref().is_some_and(Vec::is_empty) {
        let remedy = Remedy::Manual(format!("add the network card to it: ip link set CARD master {}", wanted.bridge));
        findings.drift("host.bridge-port", &subject, "no network card is a port of it", "guests and Core are cut off", remedy);
    }
    match &platform.default_route {
        Ok(Some(_)) => {}
        Ok(None) => {
            let remedy = Remedy::Manual("ip route add default via GATEWAY".into());
            findings.drift(
                "host.default-route",
                "routing",
                "there is no default route",
                "image servers and Cores on other networks can't be reached",
                remedy,
            );
        }
        Err(reason) => findings.blind(Area::Host, format!("the routes can't be read: {reason}")),
    }
    if let (Err(reason), Some(_)) = (&platform.multicast, found.address) {
        let why = if wanted.core_named { "discovery does not work; \"core_address\" is used instead" } else { "no Core can be found" };
        let remedy = Remedy::Manual("let UDP to 224.0.0.226 pass the firewall, and see `ip link show` and `ip maddress show`".into());
        match wanted.core_named {
            false => findings.drift("host.multicast", &subject, reason.clone(), why, remedy),
            true => findings.note("host.multicast", &subject, reason.clone(), why, remedy),
        }
    }
}

fn port(what: &str, state: &PortState, (code, why): (&'static str, &str), findings: &mut Findings) {
    match state {
        PortState::Free | PortState::Ours => {}
        PortState::Taken(who) => {
            let remedy = Remedy::Manual("end that program, or keep it off the bridge".into());
            findings.drift(code, what, format!("it is taken by {who}"), why, remedy);
        }
        PortState::Unknown(reason) => findings.blind(Area::Host, format!("whether {what} is free: {reason}")),
    }
}

fn name(platform: &Platform, wanted: &Wanted<'_>, findings: &mut Findings) {
    let mac = platform.bridge.as_ref().ok().map(|bridge| bridge.mac);
    match (wanted.name, mac) {
        (Err(reason), _) => {
            let remedy =
                Remedy::Manual("write {\"name\": \"Cell_…\"} with the name that the Core knows this node by to data/identity.json".into());
            let why = "the next start takes a name from the bridge's MAC, which may be another one for the Core";
            findings.drift("host.identity", "data/identity.json", reason.clone(), why, remedy);
        }
        (Ok(None), Some([0, 0, 0, 0, 0, 0])) => {
            let remedy = Remedy::Manual(format!("give it a port, or set one: ip link set {} address 02:…", wanted.bridge));
            let what = "the bridge has no MAC address that could name this node";
            findings.drift("host.name", format!("bridge {}", wanted.bridge), what, "the service can't start", remedy);
        }
        (Ok(Some(name)), Some(mac)) if *name != Identity::name_of(mac) => {
            let what = format!("the node is called {name}, the bridge's MAC would make it {}", Identity::name_of(mac));
            let why = "the name stays; only the reference Cell, started on this directory, would be a new node for the Core";
            let remedy = Remedy::Manual(format!(
                "before going back to the reference Cell, set the former MAC: ip link set {} address …",
                wanted.bridge
            ));
            findings.note("host.name", "data/identity.json", what, why, remedy);
        }
        _ => {}
    }
}

fn room(space: &Space, findings: &mut Findings) {
    let subject = space.path.display();
    let little = if space.pool { LITTLE_POOL.min(space.total / SMALL_PART) } else { LITTLE.min(space.total / SMALL_PART) };
    let why =
        if space.pool { "guests that write are held until there is space" } else { "changes can't be written down, and the log stops" };
    let free = Remedy::Manual("free space on this file system".into());
    if space.read_only {
        let remedy = Remedy::Manual("see the kernel's log, then mount it read-write".into());
        findings.drift("host.read-only", subject, "its file system is read-only", why, remedy);
    } else if space.free < little {
        findings.drift("host.space", subject, format!("{} MiB are free", space.free >> 20), why, free);
    } else if space.files_free.is_some_and(|files| files < FEW_FILES) {
        let what = format!("only {} more files can be made", space.files_free.unwrap_or_default());
        findings.drift("host.space", subject, what, why, free);
    }
}

fn limits(platform: &Platform, findings: &mut Findings) {
    let limits = [
        (platform.open_files, OPEN_FILES, "open files", "LimitNOFILE=", "host.open-files"),
        (platform.threads, THREADS, "threads", "LimitNPROC= and TasksMax=", "host.threads"),
    ];
    for (limit, wanted, what, setting, code) in limits {
        if let Some(limit) = limit.filter(|limit| *limit < wanted) {
            let remedy = Remedy::Manual(format!("allow {wanted} or more (ulimit, or {setting} of the unit)"));
            findings.drift(code, "limits", format!("{limit} {what} are allowed"), "the service fails under load", remedy);
        }
    }
}

fn clock(platform: &Platform, findings: &mut Findings) {
    let remedy = || Remedy::Manual("set the clock and have it kept right (chrony, systemd-timesyncd)".into());
    let why = "times of guests and snapshots are wrong, and certificates of image servers are refused";
    if platform.now < SystemTime::UNIX_EPOCH + EARLIEST {
        findings.drift("host.clock", "clock", "it shows a time before this program was made", why, remedy());
    } else if platform.last_write.is_some_and(|written| written > platform.now + BEHIND) {
        findings.drift("host.clock", "clock", "files of data/ were written after the time that it shows", why, remedy());
    }
}
