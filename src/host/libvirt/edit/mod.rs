//! Changes of a domain that is there already.
//!
//! Contract: a definition is read with its secrets, one thing of it is changed as XML, and it is defined again. What we do not know of stays as
//! it was, and so does the monitor password unless it is what is to change (contract §14 E1, E2). What runs is changed first: libvirt refuses
//! there what this host can't do, and the definition is then untouched.

mod live;

use virt::domain::Domain;
use virt::sys;

use crate::host::{Applied, DomainEdit, ErrorKind, HostError, Result};
use crate::model::PowerState;

use super::connection::Connection;
use super::domain::{bandwidth_of, cpu_priority, Topology, CPU_PERIOD, VNC_PASSWORD};
use super::error::{failed, failed_without};
use super::xml::{refuse_control, Node};
use super::{watcher, Shared};

/// What an edit is about, for messages.
pub(super) fn subject(edit: &DomainEdit) -> &'static str {
    match edit {
        DomainEdit::Name(_) => "name",
        DomainEdit::Cores(_) => "cores",
        DomainEdit::Memory(_) => "memory",
        DomainEdit::Priority(_) => "CPU priority",
        DomainEdit::DiskLimits { .. } => "disk limits",
        DomainEdit::NetworkLimits { .. } => "network limits",
        DomainEdit::MonitorSecret(_) => "monitor password",
    }
}

/// Changes the domain: what runs, then the definition.
pub(super) fn change(connection: &Connection, shared: &Shared, domain: &Domain, edit: &DomainEdit, what: &str) -> Result<Applied> {
    if let DomainEdit::Name(name) = edit {
        return rename(connection, domain, name, what);
    }
    if let DomainEdit::Cores(cores) = edit {
        check_cores(*cores, shared.machine(connection)?.max_cpus, what)?;
    }
    let before = read(domain, sys::VIR_DOMAIN_XML_INACTIVE, what)?;
    let mut after = before.clone();
    apply(&mut after, edit, what)?;
    let applied = match watcher::power(domain) {
        PowerState::Running => live::apply(domain, edit, what)?,
        PowerState::Stopped | PowerState::Lost => Applied::Now,
    };
    if after != before {
        let secret = passwords(&before).chain(passwords(&after)).find(|secret| !secret.is_empty()).unwrap_or_default().to_owned();
        Domain::define_xml(connection, &after.document()?).map_err(|error| failed_without(&secret, what, &error))?;
    }
    Ok(applied)
}

/// The domain's document with its secrets.
fn read(domain: &Domain, flags: u32, what: &str) -> Result<Node> {
    let document = domain.get_xml_desc(flags | sys::VIR_DOMAIN_XML_SECURE).map_err(|error| failed(what, &error))?;
    Node::parse(&document)
}

/// The passwords of the domain's remote consoles.
pub(super) fn passwords(domain: &Node) -> impl Iterator<Item = &str> {
    let devices = domain.find(&["devices"]).into_iter().flat_map(|devices| &devices.children);
    devices.filter(|device| device.name == "graphics").filter_map(|device| device.attribute("passwd"))
}

/// libvirt renames without touching anything else, autostart included; not while the domain runs.
fn rename(connection: &Connection, domain: &Domain, name: &str, what: &str) -> Result<Applied> {
    refuse_control("the guest's name", name)?;
    if name.is_empty() || name.contains('/') {
        return Err(HostError::new(ErrorKind::Invalid, format!("{what}: '{name}' is empty or contains '/'")));
    }
    if domain.get_name().map_err(|error| failed(what, &error))? == name {
        return Ok(Applied::Now);
    }
    if watcher::power(domain) == PowerState::Running {
        return Err(HostError::new(ErrorKind::Busy, format!("{what}: it is running; stop it first")));
    }
    if Domain::lookup_by_name(connection, name).is_ok() {
        return Err(HostError::new(ErrorKind::Exists, format!("{what}: libvirt has another domain '{name}'")));
    }
    domain.rename(name, 0).map_err(|error| failed(what, &error))?;
    Ok(Applied::Now)
}

fn check_cores(cores: u32, most: u32, what: &str) -> Result<()> {
    if cores > most {
        return Err(HostError::new(
            ErrorKind::Invalid,
            format!("{what}: {cores} cores are more than the {most} that this host gives one guest"),
        ));
    }
    Ok(())
}

/// Makes the edit in a domain's tree.
fn apply(domain: &mut Node, edit: &DomainEdit, what: &str) -> Result<()> {
    match edit {
        DomainEdit::Name(name) => domain.with_child("name", |node| node.text.clone_from(name)),
        DomainEdit::Cores(cores) => set_cores(domain, *cores, what)?,
        DomainEdit::Memory(bytes) => set_memory(domain, *bytes),
        DomainEdit::Priority(priority) => set_priority(domain, *priority, what)?,
        DomainEdit::DiskLimits { .. } => devices(domain, "disk").filter(|disk| is_disk(disk)).for_each(|disk| limit_disk(disk, edit)),
        DomainEdit::NetworkLimits { receive_speed, send_speed } => {
            devices(domain, "interface").for_each(|interface| limit_interface(interface, *receive_speed, *send_speed));
        }
        DomainEdit::MonitorSecret(secret) => {
            refuse_control("the monitor password", secret.reveal())?;
            devices(domain, "graphics").for_each(|graphics| set_password(graphics, secret.reveal()));
        }
    }
    Ok(())
}

fn devices<'a>(domain: &'a mut Node, kind: &'a str) -> impl Iterator<Item = &'a mut Node> {
    domain.child_mut("devices").into_iter().flat_map(move |devices| devices.children_mut(kind))
}

/// False for CD-ROMs, which have no limits.
fn is_disk(disk: &Node) -> bool {
    matches!(disk.attribute("device"), None | Some("disk"))
}

/// As many virtual CPUs from the start, in a topology that fits (contract §14 E1, E7). A list of single CPUs would contradict it.
fn set_cores(domain: &mut Node, cores: u32, what: &str) -> Result<()> {
    let topology = Topology::of(cores).ok_or_else(|| HostError::new(ErrorKind::Invalid, format!("{what}: a guest needs a core")))?;
    domain.with_child("vcpu", |vcpu| {
        vcpu.text = cores.to_string();
        vcpu.unset("current");
    });
    domain.remove("vcpus");
    domain.with_child("cpu", |cpu| {
        cpu.with_child("topology", |node| {
            node.set("sockets", topology.sockets);
            // Levels of newer versions of libvirt.
            for level in ["dies", "clusters"] {
                if node.attribute(level).is_some() {
                    node.set(level, 1);
                }
            }
            node.set("cores", topology.cores);
            node.set("threads", topology.threads);
        });
    });
    Ok(())
}

fn set_memory(domain: &mut Node, bytes: u64) {
    for name in ["memory", "currentMemory"] {
        domain.with_child(name, |memory| {
            memory.set("unit", "KiB");
            memory.text = (bytes >> 10).to_string();
        });
    }
}

fn set_priority(domain: &mut Node, priority: u32, what: &str) -> Result<()> {
    let (shares, quota) = priority_of(priority, what)?;
    domain.with_child("cputune", |tune| {
        for (name, value) in [("shares", shares), ("period", CPU_PERIOD), ("quota", quota)] {
            tune.with_child(name, |node| node.text = value.to_string());
        }
    });
    Ok(())
}

fn priority_of(priority: u32, what: &str) -> Result<(u32, u32)> {
    cpu_priority(priority).ok_or_else(|| {
        HostError::new(ErrorKind::Invalid, format!("{what}: {priority} is no CPU priority; 0 (high), 1 (medium) and 2 (low) are"))
    })
}

/// The limits of an edit by libvirt's names; none for an edit of something else.
fn disk_limits(edit: &DomainEdit) -> Vec<(&'static str, u64)> {
    match *edit {
        DomainEdit::DiskLimits { read_speed, write_speed, read_iops, write_iops } => {
            vec![
                ("read_bytes_sec", read_speed),
                ("write_bytes_sec", write_speed),
                ("read_iops_sec", read_iops),
                ("write_iops_sec", write_iops),
            ]
        }
        _ => Vec::new(),
    }
}

/// libvirt takes no total beside the limits for reading and writing, and no burst without its limit: they go where they would contradict.
fn limit_disk(disk: &mut Node, edit: &DomainEdit) {
    let limits = disk_limits(edit);
    let empty = disk.with_child("iotune", |tune| {
        for (name, value) in &limits {
            if *value > 0 {
                let total = name.replace("read", "total").replace("write", "total");
                tune.children.retain(|child| !child.name.starts_with(&total));
                tune.with_child(name, |node| node.text = value.to_string());
            } else {
                tune.children.retain(|child| !child.name.starts_with(name));
            }
        }
        tune.children.is_empty()
    });
    if empty {
        disk.remove("iotune");
    }
}

fn limit_interface(interface: &mut Node, receive: u64, send: u64) {
    let empty = interface.with_child("bandwidth", |bandwidth| {
        for (direction, limit) in [("inbound", receive), ("outbound", send)] {
            if limit == 0 {
                bandwidth.remove(direction);
                continue;
            }
            bandwidth.with_child(direction, |node| {
                for (name, value) in ["average", "peak", "burst"].into_iter().zip(bandwidth_of(limit)) {
                    node.set(name, value);
                }
            });
        }
        bandwidth.children.is_empty()
    });
    if empty {
        interface.remove("bandwidth");
    }
}

fn set_password(graphics: &mut Node, secret: &str) {
    match graphics.attribute("type") {
        Some("vnc") => graphics.set("passwd", secret.chars().take(VNC_PASSWORD).collect::<String>()),
        Some("spice") => graphics.set("passwd", secret),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
