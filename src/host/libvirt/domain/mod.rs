//! The domain XML of a guest (contract §11.3).
//!
//! Contract: the result depends on the guest's configuration and the host's [`Machine`] only. It has every part that the reference's domains
//! have, plus a serial console with a bounded log when a log file is given. What libvirt could not store or start is refused here, with the
//! value named; secrets are never named.

mod devices;
mod topology;

use std::io;
use std::path::Path;

use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestConfig;

use super::filter;
use super::xml::{refuse_control, Xml};
use devices::Disk;
pub(super) use devices::{bandwidth_of, VNC_PASSWORD};
pub(super) use topology::Topology;

/// What this host offers a guest, from libvirt's domain capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Domain type: "kvm" or "qemu".
    pub(super) kind: &'static str,
    /// QEMU's executable.
    pub(super) emulator: String,
    /// Most virtual CPUs of one guest.
    pub(super) max_cpus: u32,
}

/// Architecture and machine of every guest (contract §11.3); libvirt replaces "pc" by the newest i440fx machine.
pub(super) const ARCHITECTURE: &str = "x86_64";
/// See [`ARCHITECTURE`].
pub(super) const MACHINE: &str = "pc";

/// Length of the enforcement interval of the CPU limit, µs (contract §11.3).
pub(super) const CPU_PERIOD: u32 = 1_000_000;

/// Builds the domain XML; `console_log` is the file that virtlogd writes the guest's serial output to.
pub(super) fn build(guest: &GuestConfig, machine: &Machine, console_log: Option<&Path>) -> Result<String> {
    let topology = check(guest, machine)?;
    let (shares, quota) = cpu_priority(guest.cpu_priority).ok_or_else(|| {
        HostError::new(
            ErrorKind::Invalid,
            format!("guest {} has the CPU priority {}; 0 (high), 1 (medium) and 2 (low) are possible", guest.id, guest.cpu_priority),
        )
    })?;
    let disks = Disk::of(guest)?;
    let adapters = devices::Adapters::of(guest)?;
    let id = guest.id.to_string();
    let memory = guest.memory >> 10;
    Xml::document("domain", &[("type", machine.kind)], |xml| {
        xml.text("name", &[], &guest.name)?;
        xml.text("uuid", &[], &id)?;
        xml.text("memory", &[("unit", "KiB")], memory)?;
        xml.text("vcpu", &[], guest.cores)?;
        xml.node("cputune", &[], |xml| {
            xml.text("shares", &[], shares)?;
            xml.text("period", &[], CPU_PERIOD)?;
            xml.text("quota", &[], quota)
        })?;
        firmware(xml)?;
        processor(xml, topology)?;
        life_cycle(xml)?;
        xml.node("devices", &[], |xml| {
            xml.text("emulator", &[], &machine.emulator)?;
            devices::cdroms(xml, guest)?;
            for disk in &disks {
                disk.write(xml, guest)?;
            }
            adapters.controllers(xml)?;
            devices::interface(xml, guest, adapters.network, &filter::name(guest.id))?;
            devices::agent_channel(xml)?;
            devices::console(xml, console_log)?;
            adapters.input(xml)?;
            adapters.graphics(xml, guest)?;
            adapters.video(xml)?;
            devices::balloon(xml)
        })
    })
}

fn firmware(xml: &mut Xml) -> io::Result<()> {
    xml.node("os", &[], |xml| {
        xml.text("type", &[("arch", ARCHITECTURE), ("machine", MACHINE)], "hvm")?;
        xml.leaf("boot", &[("dev", "cdrom")])?;
        xml.leaf("boot", &[("dev", "hd")])
    })?;
    xml.node("features", &[], |xml| {
        xml.leaf("acpi", &[])?;
        xml.leaf("apic", &[])?;
        xml.leaf("pae", &[])
    })
}

fn processor(xml: &mut Xml, topology: Topology) -> io::Result<()> {
    let [sockets, cores, threads] = [topology.sockets, topology.cores, topology.threads].map(|number| number.to_string());
    xml.node("cpu", &[], |xml| xml.leaf("topology", &[("sockets", &sockets), ("cores", &cores), ("threads", &threads)]))
}

fn life_cycle(xml: &mut Xml) -> io::Result<()> {
    xml.leaf("clock", &[("offset", "utc")])?;
    xml.text("on_poweroff", &[], "destroy")?;
    xml.text("on_reboot", &[], "restart")?;
    xml.text("on_crash", &[], "restart")?;
    xml.node("pm", &[], |xml| {
        xml.leaf("suspend-to-mem", &[("enabled", "no")])?;
        xml.leaf("suspend-to-disk", &[("enabled", "no")])
    })
}

/// Refuses what would fail in libvirt with a text that nobody understands.
fn check(guest: &GuestConfig, machine: &Machine) -> Result<Topology> {
    let invalid = |why: String| HostError::new(ErrorKind::Invalid, format!("guest {} can't be defined: {why}", guest.id));
    let texts = [
        ("the guest's name", guest.name.as_str()),
        ("the monitor password", guest.monitor_secret.reveal()),
        ("the storage pool's name", &guest.storage_pool),
        ("the bridge's name", &guest.network_source),
        ("the MAC address", &guest.hardware_address),
        ("the path of the cloud-init image", &guest.boot_image),
    ];
    let volumes = guest.storage_volumes.iter().map(|volume| ("a volume's name", volume.as_str()));
    for (what, text) in texts.into_iter().chain(volumes) {
        refuse_control(what, text)?;
    }
    if guest.name.is_empty() || guest.name.contains('/') {
        return Err(invalid(format!("its name '{}' is empty or contains '/'", guest.name)));
    }
    if guest.memory < 1 << 20 {
        return Err(invalid(format!("{} bytes of memory are less than 1 MiB", guest.memory)));
    }
    if guest.cores > machine.max_cpus {
        return Err(invalid(format!("{} cores are more than the {} that this host gives one guest", guest.cores, machine.max_cpus)));
    }
    Topology::of(guest.cores).ok_or_else(|| invalid("it has no core".into()))
}

/// Shares and quota (µs per period) of a priority: 0 high, 1 medium, 2 low (contract §11.3).
pub(super) fn cpu_priority(priority: u32) -> Option<(u32, u32)> {
    match priority {
        0 => Some((2000, 1_000_000)),
        1 => Some((1000, 500_000)),
        2 => Some((500, 250_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
