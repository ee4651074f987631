//! The CD drive that media are put into: `hda` of every guest (contract §11.3).
//!
//! Contract: the definition of a domain never has media in it. What is put into the drive is there until the domain stops, so a start that
//! fails, a host that goes down or a service that ends leaves nothing behind (contract §14 D23).

use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use crate::host::{Change, ErrorKind, HostError, Result};

use super::edit::passwords;
use super::error::{failed, failed_without};
use super::xml::{refuse_control, Node};

/// Target of the drive.
const DRIVE: &str = "hda";

/// A guest may have locked its tray; it is told that the medium is gone then.
const FORCE: u32 = sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE;

/// What QEMU says of a tray that libvirt takes as open.
const CLOSED: &str = "is not open";

/// Starts a domain with a file in its drive. libvirt takes the document for this run and keeps the definition beside it.
pub(super) fn create(connection: &Connect, domain: &Domain, file: &str, what: &str) -> Result<()> {
    refuse_control("the path of the media image", file)?;
    let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
    let mut tree = Node::parse(&domain.get_xml_desc(flags).map_err(|error| failed(what, &error))?)?;
    set(&mut tree, Some(file))?;
    let secret = passwords(&tree).find(|secret| !secret.is_empty()).unwrap_or_default().to_owned();
    Domain::create_xml(connection, &tree.document()?, 0).map(drop).map_err(|error| failed_without(&secret, what, &error))
}

/// Changes what is in the drive of a running domain.
pub(super) fn change(domain: &Domain, file: Option<&str>, what: &str) -> Result<Change> {
    let mut tree = running(domain, what)?;
    file.map_or(Ok(()), |file| refuse_control("the path of the media image", file))?;
    if inside(&tree).as_deref() == file {
        return Ok(Change::Unchanged);
    }
    let drive = set(&mut tree, file)?;
    let document = drive.document()?;
    let update = || domain.update_device_flags(&document, sys::VIR_DOMAIN_AFFECT_LIVE | FORCE);
    let updated = match update() {
        Err(error) if error.message().contains(CLOSED) && open_tray(domain, &drive) => update(),
        updated => updated,
    };
    updated.map_err(|error| failed(what, &error))?;
    Ok(Change::Changed)
}

/// Opens the tray for libvirt. A guest that is reset closes it and QEMU tells nobody, so libvirt takes it as open and does not open it (seen
/// with libvirt 9.0 and QEMU 7.2): media could not be inserted any more after an eject and a reset.
fn open_tray(domain: &Domain, drive: &Node) -> bool {
    let Some(device) = drive.find(&["alias"]).and_then(|alias| alias.attribute("name")) else { return false };
    let command = serde_json::json!({"execute": "blockdev-open-tray", "arguments": {"id": device, "force": true}});
    domain.qemu_monitor_command(&command.to_string(), 0).is_ok_and(|answer| answer.contains("return"))
}

/// The file in the drive of a running domain.
pub(super) fn present(domain: &Domain, what: &str) -> Result<Option<String>> {
    Ok(inside(&running(domain, what)?))
}

fn running(domain: &Domain, what: &str) -> Result<Node> {
    Node::parse(&domain.get_xml_desc(0).map_err(|error| failed(what, &error))?)
}

fn is_drive(device: &Node) -> bool {
    let target = device.find(&["target"]).and_then(|target| target.attribute("dev"));
    device.name == "disk" && device.attribute("device") == Some("cdrom") && target == Some(DRIVE)
}

fn inside(domain: &Node) -> Option<String> {
    let drive = domain.find(&["devices"])?.children.iter().find(|device| is_drive(device))?;
    drive.find(&["source"])?.attribute("file").map(str::to_owned)
}

/// Makes the drive of a tree hold the file, or nothing; gives the drive.
fn set(domain: &mut Node, file: Option<&str>) -> Result<Node> {
    let devices = domain.child_mut("devices").into_iter().flat_map(|devices| &mut devices.children);
    let drive = devices
        .into_iter()
        .find(|device| is_drive(device))
        .ok_or_else(|| HostError::new(ErrorKind::Unsupported, format!("the guest has no CD drive {DRIVE}, which media are put into")))?;
    // What libvirt has added about the medium that was there goes with it.
    drive.remove("source");
    drive.remove("backingStore");
    drive.set("type", "file");
    // The guest moves the tray when it likes; libvirt refuses a document that has it where it was a moment ago.
    if let Some(target) = drive.child_mut("target") {
        target.unset("tray");
    }
    if let Some(file) = file {
        drive.with_child("driver", |driver| {
            driver.set("name", "qemu");
            driver.set("type", "raw");
        });
        drive.children.push(Node::new("source", &[("file", file)]));
    }
    Ok(drive.clone())
}

#[cfg(test)]
mod tests;
