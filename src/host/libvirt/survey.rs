//! What libvirt has, all of it, for whoever compares it with the books. Changes nothing.

use std::collections::HashSet;

use virt::domain::Domain;
use virt::storage_pool::StoragePool;
use virt::sys;

use crate::host::{DefinedDomain, DiskSource, DomainDefinition, ErrorKind, GuestFilter, PoolStatus, Result};
use crate::model::{GuestId, PowerState};

use super::connection::Connection;
use super::error::failed;
use super::xml::Node;
use super::{filter, pool, watcher};

/// All domains with their permanent definitions. One that is undefined meanwhile is left out.
pub(super) fn domains(connection: &Connection) -> Result<Vec<DefinedDomain>> {
    let told = |error: virt::error::Error| failed("cannot list the domains of this host", &error);
    let starting = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART).map_err(told)?;
    let starting: HashSet<_> = starting.iter().filter_map(|domain| domain.get_uuid().ok()).collect();
    let mut found = Vec::new();
    for domain in connection.list_all_domains(0).map_err(told)? {
        let (Ok(uuid), Ok(name)) = (domain.get_uuid(), domain.get_name()) else { continue };
        let Some(definition) = definition(&domain, &name)? else { continue };
        let (id, power) = (GuestId::from_bytes(uuid.into_bytes()), watcher::power(&domain));
        found.push(DefinedDomain { id, name, power, autostart: starting.contains(&uuid), definition });
    }
    Ok(found)
}

fn definition(domain: &Domain, name: &str) -> Result<Option<DomainDefinition>> {
    let document = match domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) {
        Ok(document) => document,
        Err(error) if super::error::is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(format!("cannot read the definition of the domain {name}"), &error)),
    };
    let mut definition = read(&Node::parse(&document)?);
    if watcher::power(domain) == PowerState::Running {
        // It may have ended by now.
        if let Ok(live) = domain.get_xml_desc(0) {
            files(&Node::parse(&live)?, &mut definition.files);
        }
    }
    definition.files.sort();
    definition.files.dedup();
    Ok(Some(definition))
}

fn read(document: &Node) -> DomainDefinition {
    let devices = || document.find(&["devices"]).into_iter().flat_map(|devices| &devices.children);
    let interfaces = || devices().filter(|device| device.name == "interface");
    let text = |node: &Node, tag: &str, attribute: &str| node.find(&[tag]).and_then(|node| node.attribute(attribute)).map(str::to_owned);
    let disks = devices().filter(|device| device.name == "disk" && matches!(device.attribute("device"), None | Some("disk")));
    let mut definition = DomainDefinition {
        cores: document.text_at(&["vcpu"]).and_then(|count| count.parse().ok()).unwrap_or_default(),
        memory: document.find(&["memory"]).map(bytes).unwrap_or_default(),
        disks: disks.filter_map(source).collect(),
        macs: interfaces().filter_map(|interface| text(interface, "mac", "address")).collect(),
        filters: interfaces().filter_map(|interface| text(interface, "filterref", "filter")).collect(),
        monitor_port: devices().filter(|device| device.name == "graphics").find_map(|graphics| graphics.attribute("port")?.parse().ok()),
        files: Vec::new(),
    };
    files(document, &mut definition.files);
    definition
}

fn source(disk: &Node) -> Option<DiskSource> {
    let source = disk.find(&["source"])?;
    match (source.attribute("pool"), source.attribute("volume"), source.attribute("file")) {
        (Some(pool), Some(volume), _) => Some(DiskSource::Volume { pool: pool.into(), volume: volume.into() }),
        (_, _, Some(file)) => Some(DiskSource::File(file.into())),
        _ => None,
    }
}

/// libvirt writes KiB, whatever it was given.
fn bytes(memory: &Node) -> u64 {
    let unit = match memory.attribute("unit") {
        None | Some("KiB" | "k") => 1 << 10,
        Some("MiB" | "M") => 1 << 20,
        Some("GiB" | "G") => 1 << 30,
        Some(_) => 1,
    };
    memory.text.parse::<u64>().unwrap_or_default().saturating_mul(unit)
}

/// Every file and every volume's name of the disks, and of the images below them.
fn files(document: &Node, into: &mut Vec<String>) {
    fn sources(node: &Node, into: &mut Vec<String>) {
        if node.name == "source" {
            into.extend(["file", "volume"].into_iter().filter_map(|key| node.attribute(key)).map(str::to_owned));
        }
        node.children.iter().for_each(|child| sources(child, into));
    }
    let devices = document.find(&["devices"]).into_iter().flat_map(|devices| &devices.children);
    devices.filter(|device| device.name == "disk").for_each(|disk| sources(disk, into));
}

/// All filters of guests.
pub(super) fn filters(connection: &Connection) -> Result<Vec<GuestFilter>> {
    let all = connection.list_all_nw_filters(0).map_err(|error| failed("cannot list the filters of this host", &error))?;
    let names = all.iter().filter_map(|filter| filter.get_name().ok());
    Ok(names.filter_map(|name| Some(GuestFilter { guest: filter::guest_of(&name)?, name })).collect())
}

/// All pools that are directories or NFS exports.
pub(super) fn pools(connection: &Connection) -> Result<Vec<PoolStatus>> {
    let what = "cannot list the storage pools of this host";
    let all = connection.list_all_storage_pools(0).map_err(|error| failed(what, &error))?;
    let mut found = Vec::new();
    for pool in all {
        match status(&pool) {
            Ok(status) => found.push(status),
            Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn status(pool: &StoragePool) -> Result<PoolStatus> {
    let told = |error: virt::error::Error| failed("cannot read a storage pool", &error);
    let name = pool.get_name().map_err(told)?;
    let (active, autostart) = (pool.is_active().map_err(told)?, pool.get_autostart().map_err(told)?);
    Ok(PoolStatus { pool: pool::describe(pool, &name)?, active, autostart })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_captured_domain_is_read_with_all_that_is_compared() {
        let document = include_str!("../../../tests/vectors/takeover/reference-1.4.1/domains/99bb8d3d-8561-40bd-87e0-ae0d2d24055e.xml");
        let found = read(&Node::parse(document).unwrap());
        let id = "99bb8d3d-8561-40bd-87e0-ae0d2d24055e";
        assert_eq!(found.filters, [format!("nano-nwfilter-{id}")]);
        assert!(found.macs.len() == 1 && found.macs[0].starts_with("00:16:3e:"), "{:?}", found.macs);
        assert!(found.cores > 0 && found.memory > 1 << 20 && found.monitor_port.is_some_and(|port| port > 5900), "{found:?}");
        assert_eq!(found.disks[0], DiskSource::Volume { pool: "local0".into(), volume: format!("{id}_sys.qcow2") });
        assert!(found.files.contains(&format!("{id}_sys.qcow2")), "{:?}", found.files);
    }

    #[test]
    fn images_below_a_running_disk_are_files_of_the_domain() {
        let document = "<domain><devices><disk device='disk'><source file='/p/a.1'/><backingStore type='file'><source file='/p/a'/>\
            <backingStore type='file'><source file='/p/b'/></backingStore></backingStore></disk>\
            <disk device='cdrom'><source file='/p/a_ci.iso'/></disk></devices></domain>";
        let found = read(&Node::parse(document).unwrap());
        assert_eq!(found.files, ["/p/a.1", "/p/a", "/p/b", "/p/a_ci.iso"]);
        assert_eq!(found.disks, [DiskSource::File("/p/a.1".into())]);
    }
}
