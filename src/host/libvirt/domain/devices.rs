//! The `<devices>` of a guest's domain XML (contract §11.3).

use std::io;
use std::path::Path;

use crate::host::libvirt::xml::Xml;
use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestConfig;

/// Characters of a VNC password that the protocol uses; libvirt refuses more (contract §14 F3).
pub(in crate::host::libvirt) const VNC_PASSWORD: usize = 8;

/// One disk of the guest: its volume and where it is plugged in.
pub(super) struct Disk<'a> {
    volume: &'a str,
    target: String,
    bus: &'static str,
}

impl<'a> Disk<'a> {
    /// The disks in the order of the configuration, system disk first.
    ///
    /// An IDE guest has room for two, since both CD-ROMs sit on the first channel; further ones go to SATA, which the reference could not
    /// do at all (contract §14 E8).
    pub(super) fn of(guest: &'a GuestConfig) -> Result<Vec<Self>> {
        let bus = match guest.template.disk.as_str() {
            "scsi" => "scsi",
            "sata" => "sata",
            "ide" => "ide",
            other => return Err(unknown(guest, "disk bus", other, "scsi, sata, ide")),
        };
        let ide = ["hdc", "hdd"].into_iter().filter(|_| bus == "ide").map(|target| (target.to_owned(), "ide"));
        let other = (0..).map(|index| (format!("sd{}", letters(index)), if bus == "ide" { "sata" } else { bus }));
        let places = ide.chain(other);
        Ok(guest.storage_volumes.iter().zip(places).map(|(volume, (target, bus))| Disk { volume, target, bus }).collect())
    }

    pub(super) fn write(&self, xml: &mut Xml, guest: &GuestConfig) -> io::Result<()> {
        xml.node("disk", &[("type", "volume"), ("device", "disk")], |xml| {
            xml.leaf("driver", &[("name", "qemu"), ("type", "qcow2")])?;
            xml.leaf("source", &[("pool", &guest.storage_pool), ("volume", self.volume)])?;
            xml.leaf("target", &[("dev", &self.target), ("bus", self.bus)])?;
            limits(xml, guest)
        })
    }
}

/// a, b, … z, aa, ab, …: the letters of the disk with this number.
fn letters(index: usize) -> String {
    const ALPHABET: usize = 26;
    let letter = "abcdefghijklmnopqrstuvwxyz".chars().nth(index % ALPHABET).unwrap_or('a');
    match (index / ALPHABET).checked_sub(1) {
        Some(rest) => format!("{}{letter}", letters(rest)),
        None => letter.to_string(),
    }
}

fn limits(xml: &mut Xml, guest: &GuestConfig) -> io::Result<()> {
    let limits = [
        ("read_bytes_sec", guest.read_speed),
        ("write_bytes_sec", guest.write_speed),
        ("read_iops_sec", guest.read_iops),
        ("write_iops_sec", guest.write_iops),
    ];
    if limits.iter().all(|(_, limit)| *limit == 0) {
        return Ok(());
    }
    xml.node("iotune", &[], |xml| limits.iter().filter(|(_, limit)| *limit > 0).try_for_each(|(name, limit)| xml.text(name, &[], limit)))
}

/// hda is the empty drive that media are put into, hdb the cloud-init image when there is one.
pub(super) fn cdroms(xml: &mut Xml, guest: &GuestConfig) -> io::Result<()> {
    cdrom(xml, "block", None, "hda")?;
    if guest.boot_image.is_empty() {
        return Ok(());
    }
    cdrom(xml, "file", Some(&guest.boot_image), "hdb")
}

fn cdrom(xml: &mut Xml, kind: &str, file: Option<&str>, target: &str) -> io::Result<()> {
    xml.node("disk", &[("type", kind), ("device", "cdrom")], |xml| {
        xml.leaf("driver", &[("name", "qemu"), ("type", "raw")])?;
        if let Some(file) = file {
            xml.leaf("source", &[("file", file)])?;
        }
        xml.leaf("target", &[("dev", target), ("bus", "ide")])?;
        xml.leaf("readonly", &[])
    })
}

pub(super) fn interface(xml: &mut Xml, guest: &GuestConfig, model: &str, filter: &str) -> io::Result<()> {
    xml.node("interface", &[("type", "bridge")], |xml| {
        xml.leaf("mac", &[("address", &guest.hardware_address)])?;
        xml.leaf("source", &[("bridge", &guest.network_source)])?;
        xml.leaf("model", &[("type", model)])?;
        xml.leaf("filterref", &[("filter", filter)])?;
        if guest.receive_speed == 0 && guest.send_speed == 0 {
            return Ok(());
        }
        xml.node("bandwidth", &[], |xml| {
            bandwidth(xml, "inbound", guest.receive_speed)?;
            bandwidth(xml, "outbound", guest.send_speed)
        })
    })
}

fn bandwidth(xml: &mut Xml, direction: &str, limit: u64) -> io::Result<()> {
    if limit == 0 {
        return Ok(());
    }
    let [average, peak, burst] = bandwidth_of(limit).map(|number| number.to_string());
    xml.leaf(direction, &[("average", &average), ("peak", &peak), ("burst", &burst)])
}

/// Average and peak in KiB/s and burst in KiB for a limit in bytes per second (contract §11.3). Less than 1 KiB/s is 1: 0 would be no limit.
pub(in crate::host::libvirt) fn bandwidth_of(limit: u64) -> [u64; 3] {
    [limit >> 10, limit >> 9, limit >> 10].map(|number| number.max(1))
}

pub(super) fn agent_channel(xml: &mut Xml) -> io::Result<()> {
    xml.node("channel", &[("type", "unix")], |xml| xml.leaf("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]))
}

/// A serial console whose output is kept in a file of bounded size (virtlogd rotates it).
pub(super) fn console(xml: &mut Xml, log: Option<&Path>) -> io::Result<()> {
    let Some(log) = log else { return Ok(()) };
    xml.node("serial", &[("type", "pty")], |xml| {
        xml.leaf("log", &[("file", &log.to_string_lossy()), ("append", "on")])?;
        xml.leaf("target", &[("port", "0")])
    })
}

pub(super) fn balloon(xml: &mut Xml) -> io::Result<()> {
    // The period is the age, in seconds, that the memory figures of a guest with a balloon driver may have.
    xml.node("memballoon", &[("model", "virtio")], |xml| xml.leaf("stats", &[("period", "2")]))
}

/// The devices that the guest's template chooses, checked.
pub(super) struct Adapters<'a> {
    pub(super) network: &'a str,
    control: &'a str,
    display: &'a str,
    usb: Option<&'a str>,
    tablet: Option<&'a str>,
}

impl<'a> Adapters<'a> {
    pub(super) fn of(guest: &'a GuestConfig) -> Result<Self> {
        let template = &guest.template;
        let optional = |word: &'a str| Some(word).filter(|word| !word.is_empty());
        Ok(Self {
            network: choose(guest, "network model", &template.network, &["virtio", "e1000", "rtl8139"])?,
            control: choose(guest, "remote control", &template.control, &["vnc", "spice"])?,
            display: choose(guest, "display", &template.display, &["vga", "cirrus", "virtio", "qxl", "none"])?,
            usb: optional(choose(guest, "USB controller", &template.usb, &["nec-xhci", ""])?),
            tablet: optional(choose(guest, "tablet", &template.tablet, &["usb", "virtio", ""])?),
        })
    }

    pub(super) fn controllers(&self, xml: &mut Xml) -> io::Result<()> {
        xml.leaf("controller", &[("type", "pci"), ("index", "0"), ("model", "pci-root")])?;
        xml.leaf("controller", &[("type", "scsi"), ("index", "0"), ("model", "virtio-scsi")])?;
        match self.usb {
            Some(model) => xml.leaf("controller", &[("type", "usb"), ("index", "0"), ("model", model)]),
            None => Ok(()),
        }
    }

    pub(super) fn input(&self, xml: &mut Xml) -> io::Result<()> {
        match self.tablet {
            Some(bus) => xml.leaf("input", &[("type", "tablet"), ("bus", bus)]),
            None => Ok(()),
        }
    }

    /// An empty password is written too: libvirt then lets nobody in, while no password at all would let in everybody.
    pub(super) fn graphics(&self, xml: &mut Xml, guest: &GuestConfig) -> io::Result<()> {
        let port = guest.monitor_port.to_string();
        let secret = guest.monitor_secret.reveal();
        let password = if self.control == "vnc" { secret.chars().take(VNC_PASSWORD).collect() } else { secret.to_owned() };
        let attributes = [("type", self.control), ("port", &port), ("autoport", "no"), ("listen", "0.0.0.0"), ("passwd", &password)];
        xml.node("graphics", &attributes, |xml| xml.leaf("listen", &[("type", "address"), ("address", "0.0.0.0")]))
    }

    pub(super) fn video(&self, xml: &mut Xml) -> io::Result<()> {
        xml.node("video", &[], |xml| xml.leaf("model", &[("type", self.display)]))
    }
}

fn choose<'a>(guest: &GuestConfig, what: &str, word: &'a str, known: &[&str]) -> Result<&'a str> {
    if known.contains(&word) {
        return Ok(word);
    }
    Err(unknown(guest, what, word, &known.join(", ")))
}

fn unknown(guest: &GuestConfig, what: &str, word: &str, known: &str) -> HostError {
    HostError::new(ErrorKind::Invalid, format!("guest {}'s template names the {what} '{word}'; known are: {known}", guest.id))
}
