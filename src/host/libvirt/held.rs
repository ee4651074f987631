//! Running guests that QEMU holds because a disk could not be written or read.
//!
//! QEMU does so by itself when a write finds no space (its `werror=enospc`, which counts where a definition has no `error_policy`); other errors it
//! tells the guest. The guest loses nothing: the write is tried again when it goes on.

use virt::domain::Domain;
use virt::sys;

use crate::host::{Change, FailedDisk, Result};
use crate::model::GuestId;

use super::connection::Connection;
use super::error::failed;
use super::events::failed_disks;
use super::hypervisor::find;
use super::xml::Node;

/// Those that are held now. libvirt remembers the reason of a pause, also over its own restart.
pub(super) fn list(connection: &Connection) -> Result<Vec<GuestId>> {
    let what = "cannot list the paused guests";
    let paused = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_PAUSED).map_err(|error| failed(what, &error))?;
    // One that ended meanwhile has no state.
    let held = paused.iter().filter(|domain| is_held(domain).unwrap_or(false));
    Ok(held.filter_map(|domain| Some(GuestId::from_bytes(domain.get_uuid().ok()?.into_bytes()))).collect())
}

/// The failed disks of one.
pub(super) fn disks(connection: &Connection, id: GuestId) -> Result<Vec<FailedDisk>> {
    let what = format!("cannot look at the disks of guest {id}");
    let domain = find(connection, id, &what)?;
    let document = Node::parse(&domain.get_xml_desc(0).map_err(|error| failed(&what, &error))?)?;
    let failures = failed_disks(&domain).map_err(|error| failed(&what, &error))?;
    Ok(failures.into_iter().map(|(target, full)| FailedDisk { path: name_of(&document, &target).unwrap_or(target), full }).collect())
}

/// Lets it go on.
pub(super) fn resume(connection: &Connection, id: GuestId) -> Result<Change> {
    let what = format!("cannot let guest {id} go on");
    let domain = find(connection, id, &what)?;
    if !is_held(&domain).map_err(|error| failed(&what, &error))? {
        return Ok(Change::Unchanged);
    }
    domain.resume().map_err(|error| failed(&what, &error))?;
    Ok(Change::Changed)
}

fn is_held(domain: &Domain) -> std::result::Result<bool, virt::error::Error> {
    let (state, reason) = domain.get_state()?;
    Ok(state == sys::VIR_DOMAIN_PAUSED && u32::try_from(reason) == Ok(sys::VIR_DOMAIN_PAUSED_IOERROR))
}

/// The file of the disk with this name in the guest; a volume's name where libvirt does not know the file.
fn name_of(document: &Node, target: &str) -> Option<String> {
    let mut disks = document.find(&["devices"])?.children.iter().filter(|device| device.name == "disk");
    let disk = disks.find(|disk| disk.find(&["target"]).and_then(|found| found.attribute("dev")) == Some(target))?;
    let source = disk.find(&["source"])?;
    source.attribute("file").or_else(|| source.attribute("volume")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_disk_is_told_by_its_file_or_its_volume() {
        let document = "<domain><devices><disk device='cdrom'><target dev='hda'/></disk>\
            <disk><source pool='local0' volume='a_sys.qcow2'/><target dev='sda'/></disk>\
            <disk><source file='/p/a_0.1.qcow2'/><target dev='sdb'/></disk></devices></domain>";
        let document = Node::parse(document).unwrap();
        assert_eq!(name_of(&document, "sda").as_deref(), Some("a_sys.qcow2"));
        assert_eq!(name_of(&document, "sdb").as_deref(), Some("/p/a_0.1.qcow2"));
        assert_eq!((name_of(&document, "hda"), name_of(&document, "sdz")), (None, None));
    }
}
