//! The part of an edit that a running domain can take.

use virt::domain::{Domain, SchedBandwidth, SchedulerInfo};
use virt::sys;

use crate::host::libvirt::domain::CPU_PERIOD;
use crate::host::libvirt::error::{failed, failed_without};
use crate::host::libvirt::events::limit_disk;
use crate::host::libvirt::xml::Node;
use crate::host::{Applied, DomainEdit, Result};

use super::{devices, disk_limits, is_disk, passwords, priority_of, read};

/// Changes what runs, or says that it has to wait for the next start.
pub(super) fn apply(domain: &Domain, edit: &DomainEdit, what: &str) -> Result<Applied> {
    match edit {
        // A guest would have to give CPUs and memory back by itself, and can't get more than it was started with.
        DomainEdit::Name(_) | DomainEdit::Cores(_) | DomainEdit::Memory(_) => return Ok(Applied::AtNextStart),
        DomainEdit::Priority(priority) => schedule(domain, *priority, what)?,
        DomainEdit::DiskLimits { .. } => limit_disks(domain, edit, what)?,
        DomainEdit::NetworkLimits { .. } => update(domain, "interface", edit, what)?,
        DomainEdit::MonitorSecret(_) => update(domain, "graphics", edit, what)?,
    }
    Ok(Applied::Now)
}

fn schedule(domain: &Domain, priority: u32, what: &str) -> Result<()> {
    let (shares, quota) = priority_of(priority, what)?;
    let info = SchedulerInfo {
        cpu_shares: Some(shares.into()),
        vcpu_bw: SchedBandwidth { period: Some(CPU_PERIOD.into()), quota: Some(quota.into()) },
        ..SchedulerInfo::default()
    };
    domain.set_scheduler_parameters_flags(&info, sys::VIR_DOMAIN_AFFECT_LIVE).map_err(|error| failed(what, &error))?;
    Ok(())
}

fn limit_disks(domain: &Domain, edit: &DomainEdit, what: &str) -> Result<()> {
    let mut tree = read(domain, 0, what)?;
    let limits = disk_limits(edit);
    for disk in devices(&mut tree, "disk").filter(|disk| is_disk(disk)) {
        if let Some(target) = disk.find(&["target"]).and_then(|target| target.attribute("dev")) {
            limit_disk(domain, target, &limits).map_err(|error| failed(format!("{what}: disk {target}"), &error))?;
        }
    }
    Ok(())
}

/// Hands each device of a kind back to libvirt with the edit in it.
fn update(domain: &Domain, kind: &str, edit: &DomainEdit, what: &str) -> Result<()> {
    let mut tree = read(domain, 0, what)?;
    super::apply(&mut tree, edit, what)?;
    let secret = passwords(&tree).next().unwrap_or_default().to_owned();
    let devices: Vec<&Node> = tree.find(&["devices"]).into_iter().flat_map(|devices| &devices.children).collect();
    for device in devices.into_iter().filter(|device| device.name == kind) {
        let document = device.document()?;
        domain
            .update_device_flags(&document, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(|error| failed_without(&secret, format!("{what} while it runs"), &error))?;
    }
    Ok(())
}
