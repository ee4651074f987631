//! Pools on NFS exports (contract §11.1): attach and check.
//!
//! Contract: a pool counts as attached when its directory is a mount, whatever libvirt thinks (contract §14 B17, B18). It is not marked for autostart, and
//! one that the reference marked loses the mark: a libvirtd that starts would wait for a dead server, and every guest of the host with it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use virt::error::Error as VirtError;
use virt::storage_pool::StoragePool;
use virt::sys;

use crate::host::storage::{is_mounted, selinux};
use crate::host::{ErrorKind, HostError, NfsSource, Result};
use crate::model::{Pool, PoolMode};

use super::connection::Connection;
use super::error::failed;
use super::pool::{describe, find, read};
use super::xml::{refuse_control, Xml};

/// Mode of the directory below which an export is mounted (contract §8), with the bits that let QEMU's user through; once mounted, the export's counts.
const DIRECTORY_MODE: &str = "0755";

/// Takes over or creates a pool, and mounts it.
pub(super) fn ensure(connection: &Connection, name: &str, source: &NfsSource, target: &str) -> Result<Pool> {
    for (what, text) in [("the NFS server", &*source.host), ("the exported path", &*source.path), ("the pool's directory", target)] {
        refuse_control(what, text)?;
    }
    let what = format!("cannot attach the storage pool {name} of {}:{}", source.host, source.path);
    let (pool, made) = match find(connection, name) {
        Ok(pool) => (pool, false),
        Err(error) if error.kind == ErrorKind::NotFound => (define(connection, name, source, target, &what)?, true),
        Err(error) => return Err(error),
    };
    let attached = attach(&pool, name, source, &what);
    if attached.is_err() && made {
        withdraw(&pool, target, &what);
    }
    attached
}

fn define(connection: &Connection, name: &str, source: &NfsSource, target: &str, what: &str) -> Result<StoragePool> {
    if let Some(parent) = Path::new(target).parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| HostError::with_source(ErrorKind::Failed, format!("{what}: cannot create {}", parent.display()), error))?;
    }
    selinux::allow_nfs();
    StoragePool::define_xml(connection, &document(name, source, target)?, 0).map_err(|error| failed(what, &error))
}

fn attach(pool: &StoragePool, name: &str, source: &NfsSource, what: &str) -> Result<Pool> {
    let present = describe(pool, name)?;
    if present.mode != PoolMode::Nfs || present.source_host != source.host || !same_path(&present.source_target, &source.path) {
        let of = format!("{}:{}", present.source_host, present.source_target);
        return Err(HostError::new(ErrorKind::Exists, format!("{what}: libvirt has a pool of this name, of {of} in {}", present.target)));
    }
    mount(pool, &present.target, what)?;
    put_tag(name, &present.target, what)?;
    read(pool, name)
}

fn mount(pool: &StoragePool, target: &str, what: &str) -> Result<()> {
    activate(pool, target).map_err(|error| failed(what, &error))?;
    if mounted(target, what)? {
        return Ok(());
    }
    Err(HostError::new(ErrorKind::Failed, format!("{what}: libvirt says that it is active, but nothing is mounted at {target}")))
}

fn activate(pool: &StoragePool, target: &str) -> std::result::Result<(), VirtError> {
    if pool.get_autostart()? {
        pool.set_autostart(false)?;
    }
    let mounted = is_mounted(Path::new(target)).unwrap_or(false);
    if pool.is_active()? {
        if mounted {
            return Ok(());
        }
        // Somebody has unmounted it behind libvirt's back.
        pool.destroy()?;
    }
    if !mounted && !Path::new(target).is_dir() {
        pool.build(sys::VIR_STORAGE_POOL_BUILD_NEW)?;
    }
    pool.create(sys::VIR_STORAGE_POOL_CREATE_NORMAL).map(drop)
}

/// The empty file that marks a pool of ours (contract §8). It also shows whether the export can be written to.
fn put_tag(name: &str, target: &str, what: &str) -> Result<()> {
    let path = Path::new(target).join(format!("{name}.ready"));
    match OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            let context = format!("{what}: cannot create {}; see that the server lets this host write", path.display());
            Err(HostError::with_source(ErrorKind::Failed, context, error))
        }
    }
}

/// Takes back a pool that could not be attached.
fn withdraw(pool: &StoragePool, target: &str, what: &str) {
    if pool.is_active().unwrap_or(false) {
        let _ = pool.destroy();
    }
    if is_mounted(Path::new(target)).unwrap_or(true) {
        tracing::warn!("{what}, and its mount at {target} stays");
        return;
    }
    if let Err(second) = pool.undefine() {
        tracing::warn!("{what}, and its definition stays: {}", second.message());
    }
    // Only an empty one goes.
    let _ = std::fs::remove_dir(target);
}

/// Whether a pool can be used: active, and a shared one mounted and answering.
pub(super) fn check(connection: &Connection, name: &str) -> Result<()> {
    let what = format!("the storage pool {name} can't be used");
    let pool = find(connection, name)?;
    let Pool { mode, target, source_host, source_target, .. } = describe(&pool, name)?;
    if !pool.is_active().map_err(|error| failed(&what, &error))? {
        return Err(HostError::new(ErrorKind::Unavailable, format!("{what}: it is not active")));
    }
    if mode == PoolMode::Nfs && !mounted(&target, &what)? {
        return Err(HostError::new(ErrorKind::Unavailable, format!("{what}: {source_host}:{source_target} is not mounted at {target}")));
    }
    std::fs::metadata(&target).map(drop).map_err(|error| HostError::with_source(ErrorKind::Unavailable, what, error))
}

fn mounted(target: &str, what: &str) -> Result<bool> {
    is_mounted(Path::new(target)).map_err(|error| HostError::with_source(ErrorKind::Failed, what, error))
}

fn same_path(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn document(name: &str, source: &NfsSource, target: &str) -> Result<String> {
    Xml::document("pool", &[("type", "netfs")], |xml| {
        xml.text("name", &[], name)?;
        xml.node("source", &[], |xml| {
            xml.leaf("host", &[("name", &source.host)])?;
            xml.leaf("dir", &[("path", &source.path)])?;
            xml.leaf("format", &[("type", "nfs")])
        })?;
        xml.node("target", &[], |xml| {
            xml.text("path", &[], target)?;
            xml.node("permissions", &[], |xml| xml.text("mode", &[], DIRECTORY_MODE))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_reads_back_as_the_pool_that_was_asked_for() {
        let source = NfsSource { host: "nas".into(), path: "/export/a & b".into() };
        let pool = super::super::pool::parse(&document("shared", &source, "/opt/nano/pools/shared").unwrap(), "shared").unwrap();
        assert_eq!((pool.mode, pool.target.as_str()), (PoolMode::Nfs, "/opt/nano/pools/shared"));
        assert_eq!((pool.source_host.as_str(), pool.source_target.as_str()), ("nas", "/export/a & b"));
    }

    #[test]
    fn a_slash_at_the_end_is_no_other_export() {
        assert!(same_path("/share/", "/share"));
        assert!(!same_path("/share", "/share2"));
    }
}
