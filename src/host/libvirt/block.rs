//! Disks of running guests, and the volumes that a definition names.
//!
//! A snapshot of a running guest lets QEMU go on with an empty image on top of the one that it used until then. QEMU opens an image again by
//! the name that it was given when it stops writing to it, so no file changes its name meanwhile: the new image has a name of its own, and the
//! permanent definition is given that name as well, edited as XML so that nothing in it is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::sys;

use crate::host::{agent, Change, ErrorKind, HostError, Result};
use crate::model::{GuestId, PowerState};

use super::connection::Connection;
use super::error::failed;
use super::hypervisor::{find, find_running};
use super::watcher;
use super::xml::{Node, Xml};

/// Seconds that the guest's agent gets to freeze or thaw.
const AGENT_PATIENCE: i32 = 3;

const SNAPSHOT: u32 = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;

/// Tells a running guest the new size of a disk.
pub(super) fn resize(connection: &Connection, id: GuestId, path: &str, capacity: u64) -> Result<Change> {
    let what = format!("cannot resize {path} of guest {id}, which is running");
    let domain = find_running(connection, id, &what)?;
    let target = target_of(&live(&domain, &what)?, path)
        .ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("{what}: it does not use this disk")))?;
    let present = domain.get_block_info(&target, 0).map_err(|error| failed(&what, &error))?.capacity;
    if present == capacity {
        return Ok(Change::Unchanged);
    }
    domain.block_resize(&target, capacity, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES).map_err(|error| failed(&what, &error))?;
    Ok(Change::Changed)
}

/// Gives disks of the permanent definition other volumes; tells the pools that they are in.
pub(super) fn change_volumes(connection: &Connection, id: GuestId, volumes: &[(String, String)]) -> Result<BTreeSet<String>> {
    let what = format!("cannot change the volumes of guest {id}");
    let domain = find(connection, id, &what)?;
    let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
    let document = domain.get_xml_desc(flags).map_err(|error| failed(&what, &error))?;
    let (document, pools) = with_volumes(&document, volumes)
        .map_err(|error| HostError::with_source(ErrorKind::Failed, format!("{what}: its definition can't be edited"), error))?;
    if !pools.is_empty() {
        Domain::define_xml(connection, &document).map_err(|error| failed(&what, &error))?;
    }
    Ok(pools)
}

/// Lets a running guest go on with other images.
pub(super) fn switch(connection: &Connection, id: GuestId, images: &[(String, String)], freeze: bool) -> Result<Change> {
    let what = format!("cannot take a snapshot of guest {id}, which is running");
    let domain = find_running(connection, id, &what)?;
    let document = live(&domain, &what)?;
    if uses_all(&document, images) {
        return Ok(Change::Unchanged);
    }
    let order = snapshot(&document, images, &what)?;
    let begun = Instant::now();
    let frozen = freeze && has_frozen(&domain, id);
    let froze = begun.elapsed();
    let done = DomainSnapshot::create_xml(&domain, &order, SNAPSHOT);
    let switched = begun.elapsed().saturating_sub(froze);
    // Also after a freeze that seemed to fail: its command may have reached the guest.
    if freeze && thawed(&domain, id) && frozen {
        let [whole, froze, switched] = [begun.elapsed(), froze, switched].map(|time| time.as_millis());
        tracing::info!(
            guest = %id,
            "the guest's file systems were frozen for {whole} ms at most: {froze} until its agent said so, {switched} for QEMU to switch"
        );
    }
    let Err(error) = done else { return Ok(Change::Changed) };
    let refused = failed(&what, &error);
    match live(&domain, &what) {
        Ok(now) if uses_all(&now, images) => Ok(Change::Changed),
        Ok(_) if watcher::power(&domain) == PowerState::Running => Err(refused),
        _ => Err(HostError { kind: ErrorKind::Unknown, ..refused }),
    }
}

/// What a running domain has now.
pub(super) fn live(domain: &Domain, what: &str) -> Result<Node> {
    Node::parse(&domain.get_xml_desc(0).map_err(|error| failed(what, &error))?)
}

fn disks(document: &Node) -> impl Iterator<Item = &Node> {
    document.find(&["devices"]).into_iter().flat_map(|devices| &devices.children).filter(|device| device.name == "disk")
}

/// The guest's name of a disk.
pub(super) fn target(disk: &Node) -> Option<&str> {
    disk.find(&["target"])?.attribute("dev")
}

/// The disk that writes to the image at `path`.
pub(super) fn disk_at<'a>(document: &'a Node, path: &str) -> Option<&'a Node> {
    disks(document).find(|disk| is_at(disk, path))
}

/// Whether a disk, or a layer below it, is the image at `path`. What was started from a pool is told by its volume, the rest by its file.
pub(super) fn is_at(layer: &Node, path: &str) -> bool {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let source = layer.find(&["source"]);
    source.is_some_and(|source| source.attribute("file") == Some(path) || (name.is_some() && source.attribute("volume") == name))
}

/// Where the guest has the image at `path`.
fn target_of(document: &Node, path: &str) -> Option<String> {
    target(disk_at(document, path)?).map(str::to_owned)
}

fn uses_all(document: &Node, images: &[(String, String)]) -> bool {
    images.iter().all(|(_, new)| target_of(document, new).is_some())
}

/// The order for libvirt: these disks, and no others.
fn snapshot(document: &Node, images: &[(String, String)], what: &str) -> Result<String> {
    let mut switched = Vec::new();
    for (present, new) in images {
        let target = target_of(document, present);
        let target = target.ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("{what}: it does not use {present}")))?;
        switched.push((target, new));
    }
    Xml::document("domainsnapshot", &[], |xml| {
        xml.node("disks", &[], |xml| {
            for name in disks(document).filter_map(target) {
                match switched.iter().find(|(target, _)| target == name) {
                    None => xml.leaf("disk", &[("name", name), ("snapshot", "no")])?,
                    Some((_, new)) => xml.node("disk", &[("name", name), ("snapshot", "external"), ("type", "file")], |xml| {
                        xml.leaf("driver", &[("type", "qcow2")])?;
                        xml.leaf("source", &[("file", new)])
                    })?,
                }
            }
            Ok(())
        })
    })
}

/// Freezes the guest's file systems; a guest that can't is snapshotted all the same, as after a power cut.
fn has_frozen(domain: &Domain, id: GuestId) -> bool {
    let done = domain.qemu_agent_command(agent::FREEZE, AGENT_PATIENCE, 0);
    if let Err(error) = &done {
        tracing::warn!(guest = %id, "the snapshot is taken without freezing its file systems: {}", error.message());
    }
    done.is_ok()
}

/// One try; whoever wanted them frozen goes on trying.
fn thawed(domain: &Domain, id: GuestId) -> bool {
    let done = domain.qemu_agent_command(agent::THAW, AGENT_PATIENCE, 0);
    if let Err(error) = &done {
        tracing::warn!(guest = %id, "its agent has not thawed its file systems: {}", error.message());
    }
    done.is_ok()
}

/// The document with other volumes, and the pools of those that were changed.
fn with_volumes(document: &str, volumes: &[(String, String)]) -> std::result::Result<(String, BTreeSet<String>), quick_xml::Error> {
    let (mut reader, mut writer) = (Reader::from_str(document), Writer::new(Vec::new()));
    let mut pools = BTreeSet::new();
    loop {
        let event = match reader.read_event()? {
            Event::Eof => break,
            Event::Empty(tag) => Event::Empty(with_volume(tag, volumes, &mut pools)?),
            Event::Start(tag) => Event::Start(with_volume(tag, volumes, &mut pools)?),
            other => other,
        };
        writer.write_event(event)?;
    }
    Ok((String::from_utf8_lossy(&writer.into_inner()).into_owned(), pools))
}

fn with_volume<'a>(
    tag: BytesStart<'a>,
    volumes: &[(String, String)],
    pools: &mut BTreeSet<String>,
) -> std::result::Result<BytesStart<'a>, quick_xml::Error> {
    if tag.name().as_ref() != b"source" {
        return Ok(tag);
    }
    let mut changed = BytesStart::new("source");
    let (mut pool, mut found) = (String::new(), false);
    for attribute in tag.attributes() {
        let attribute = attribute?;
        let value = attribute.unescape_value()?;
        let replaced = volumes.iter().find(|(present, _)| attribute.key.as_ref() == b"volume" && *present == value);
        if attribute.key.as_ref() == b"pool" {
            pool = value.clone().into_owned();
        }
        found |= replaced.is_some();
        let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
        changed.push_attribute((key.as_str(), replaced.map_or(value.as_ref(), |(_, new)| new)));
    }
    if !found {
        return Ok(tag);
    }
    pools.insert(pool);
    Ok(changed)
}

#[cfg(test)]
mod tests;
