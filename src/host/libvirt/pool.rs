//! Storage pools (contract §11.1): define, adopt, read, remove.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use virt::error::Error as VirtError;
use virt::storage_pool::StoragePool;
use virt::sys;

use crate::host::storage::{discard_cache, is_mounted, selinux};
use crate::host::{Change, ErrorKind, HostError, Result};
use crate::model::{Pool, PoolMode};

use super::connection::Connection;
use super::error::{failed, is_missing};
use super::xml::{refuse_control, Node, Xml};

/// Mode of a pool's directory: QEMU's user may go through it, and nobody else may list it.
const DIRECTORY_MODE: &str = "0711";

/// The "search" bits that the user of QEMU, neither owner nor group, needs.
const SEARCHABLE: u32 = 0o011;

/// The pool of this name; [`ErrorKind::NotFound`] when there is none.
pub(super) fn find(connection: &Connection, name: &str) -> Result<StoragePool> {
    refuse_control("the storage pool's name", name)?;
    StoragePool::lookup_by_name(connection, name).map_err(|error| failed(format!("cannot find the storage pool {name}"), &error))
}

/// Takes over or creates a local directory pool.
pub(super) fn ensure_local(connection: &Connection, name: &str, target: &str) -> Result<Pool> {
    refuse_control("the storage pool's directory", target)?;
    if !Path::new(target).is_absolute() {
        return Err(HostError::new(
            ErrorKind::Invalid,
            format!("the directory of the storage pool {name} must be absolute, not '{target}'"),
        ));
    }
    let what = format!("cannot set up the storage pool {name} in {target}");
    match find(connection, name) {
        Ok(pool) => adopt(&pool, name, target, &what)?,
        Err(error) if error.kind == ErrorKind::NotFound => create(connection, name, target, &what)?,
        Err(error) => return Err(error),
    }
    selinux::label(Path::new(target), selinux::IMAGES);
    read(&find(connection, name)?, name)
}

fn adopt(pool: &StoragePool, name: &str, target: &str, what: &str) -> Result<()> {
    let present = describe(pool, name)?;
    if present.mode != PoolMode::Local || present.target.trim_end_matches('/') != target.trim_end_matches('/') {
        return Err(HostError::new(
            ErrorKind::Exists,
            format!("{what}: libvirt has a pool of this name in {}; remove it or use its directory", present.target),
        ));
    }
    activate(pool, target).map_err(|error| failed(what, &error))?;
    make_searchable(Path::new(target));
    Ok(())
}

/// Defines, builds, starts and marks for autostart; all or nothing.
fn create(connection: &Connection, name: &str, target: &str, what: &str) -> Result<()> {
    let pool = StoragePool::define_xml(connection, &document(name, target)?, 0).map_err(|error| failed(what, &error))?;
    activate(&pool, target).map_err(|error| {
        let _ = pool.destroy();
        if let Err(second) = pool.undefine() {
            tracing::warn!("{what}, and its definition stays: {}", second.message());
        }
        failed(what, &error)
    })
}

fn activate(pool: &StoragePool, target: &str) -> std::result::Result<(), VirtError> {
    if !pool.is_active()? {
        if !Path::new(target).is_dir() {
            pool.build(sys::VIR_STORAGE_POOL_BUILD_NEW)?;
        }
        pool.create(sys::VIR_STORAGE_POOL_CREATE_NORMAL)?;
    }
    if !pool.get_autostart()? {
        pool.set_autostart(true)?;
    }
    Ok(())
}

/// The reference leaves its directory with 0744, which only a QEMU that runs as root gets into.
fn make_searchable(target: &Path) {
    let Ok(metadata) = std::fs::metadata(target) else { return };
    let mode = metadata.permissions().mode();
    if mode & SEARCHABLE == SEARCHABLE {
        return;
    }
    match std::fs::set_permissions(target, Permissions::from_mode(mode | SEARCHABLE)) {
        Ok(()) => tracing::info!("{} can now be searched by QEMU's user (mode {:04o})", target.display(), (mode | SEARCHABLE) & 0o7777),
        Err(error) => tracing::warn!("{} can't be searched by QEMU's user (mode {:04o}): {error}", target.display(), mode & 0o7777),
    }
}

fn document(name: &str, target: &str) -> Result<String> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    Xml::document("pool", &[("type", "dir")], |xml| {
        xml.text("name", &[], name)?;
        xml.node("target", &[], |xml| {
            xml.text("path", &[], target)?;
            xml.node("permissions", &[], |xml| {
                xml.text("mode", &[], DIRECTORY_MODE)?;
                xml.text("owner", &[], user)?;
                xml.text("group", &[], group)
            })
        })
    })
}

/// The pool with the names of its volumes.
pub(super) fn read(pool: &StoragePool, name: &str) -> Result<Pool> {
    let mut described = describe(pool, name)?;
    let what = format!("cannot list the volumes of the storage pool {name}");
    if pool.is_active().map_err(|error| failed(&what, &error))? {
        let volumes = pool.list_volumes().map_err(|error| failed(&what, &error))?;
        // Hidden files are no volumes: an image on its way, and the cache of images.
        described.volumes = volumes.into_iter().filter(|volume| !volume.starts_with('.')).map(|volume| (volume, true)).collect();
    }
    Ok(described)
}

/// Has the directory read again.
pub(super) fn refresh(connection: &Connection, name: &str) -> Result<()> {
    let pool = find(connection, name)?;
    pool.refresh(0).map(drop).map_err(|error| failed(format!("cannot read the storage pool {name} again"), &error))
}

pub(super) fn describe(pool: &StoragePool, name: &str) -> Result<Pool> {
    let what = format!("cannot read the storage pool {name}");
    parse(&pool.get_xml_desc(0).map_err(|error| failed(&what, &error))?, name)
}

pub(super) fn parse(document: &str, name: &str) -> Result<Pool> {
    let document = Node::parse(document)?;
    let text = |path: &[&str]| document.text_at(path).unwrap_or_default().to_owned();
    let attribute = |path: &[&str], key: &str| document.find(path).and_then(|node| node.attribute(key)).unwrap_or_default().to_owned();
    let mode = match document.attribute("type") {
        Some("dir") => PoolMode::Local,
        Some("netfs") => PoolMode::Nfs,
        other => {
            return Err(HostError::new(
                ErrorKind::Unsupported,
                format!(
                    "the storage pool {name} is of the type '{}'; directories (dir) and NFS (netfs) can be used",
                    other.unwrap_or_default()
                ),
            ))
        }
    };
    Ok(Pool {
        name: name.to_owned(),
        id: text(&["uuid"]),
        mode,
        target: text(&["target", "path"]),
        source_host: attribute(&["source", "host"], "name"),
        source_target: attribute(&["source", "dir"], "path"),
        volumes: BTreeMap::new(),
        ..Pool::default()
    })
}

/// Stops and undefines a pool; an empty directory goes, files stay.
pub(super) fn remove(connection: &Connection, name: &str) -> Result<Change> {
    let what = format!("cannot remove the storage pool {name}");
    let pool = match find(connection, name) {
        Ok(pool) => pool,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Change::Unchanged),
        Err(error) => return Err(error),
    };
    let Pool { target, mode, .. } = describe(&pool, name)?;
    if pool.is_active().map_err(|error| failed(&what, &error))? {
        pool.destroy().map_err(|error| failed(&what, &error))?;
    }
    let still = is_mounted(Path::new(&target)).map_err(|error| HostError::with_source(ErrorKind::Failed, &what, error))?;
    if mode == PoolMode::Nfs && still {
        return Err(HostError::new(ErrorKind::Busy, format!("{what}: it is still mounted at {target}; see what uses it")));
    }
    match pool.undefine() {
        Ok(()) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(failed(&what, &error)),
    }
    if mode == PoolMode::Local {
        discard_cache(Path::new(&target));
    }
    // Fails where files are left, which is just what is wanted then. Below a mount nothing is ever removed (contract §14 D13).
    if !still {
        let _ = std::fs::remove_dir(&target);
    }
    Ok(Change::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_captured_pool_is_read_with_its_id() {
        let pool = parse(include_str!("../../../tests/vectors/takeover/reference-1.4.1/pools/local0.xml"), "local0").unwrap();
        assert_eq!((pool.id.as_str(), pool.mode), ("5bc1603a-6c56-4c8a-addb-406a31fa08e6", PoolMode::Local));
        assert_eq!(pool.target, "/var/lib/libvirt/images/local0");
    }

    #[test]
    fn an_nfs_pool_is_read_with_its_source_and_other_types_are_refused() {
        let document = "<pool type='netfs'><name>n</name><uuid>u</uuid><source><host name='nas'/><dir path='/export'/></source><target><path>/m</path></target></pool>";
        let pool = parse(document, "n").unwrap();
        assert_eq!((pool.source_host.as_str(), pool.source_target.as_str(), pool.mode), ("nas", "/export", PoolMode::Nfs));
        assert_eq!(parse("<pool type='rbd'/>", "n").unwrap_err().kind, ErrorKind::Unsupported);
    }

    #[test]
    fn the_document_reads_back_as_the_pool_that_was_asked_for() {
        let pool = parse(&document("local0", "/var/lib/a & b").unwrap(), "local0").unwrap();
        assert_eq!((pool.target.as_str(), pool.mode), ("/var/lib/a & b", PoolMode::Local));
    }
}
