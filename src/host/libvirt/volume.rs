//! Blank volumes (contract §11.1): qcow2 of version 1.1 with its tables allocated and its data sparse.
//!
//! libvirt starts `qemu-img` for each qcow2 volume, which costs more than all the rest of creating a guest. Two blank images of one size are the
//! same bytes, so only the first of each size comes from libvirt; for the others libvirt creates an empty file, which is cheap and gives
//! it name, owner, mode and label, and the bytes are copied in ([`Blanks`]). libvirt knows the volume from the beginning, so a domain that names
//! it can start; it takes it for raw until the pool is read again, which [`super::refresher`] sees to and a restart of libvirtd does anyway.

use std::path::Path;

use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::host::storage::Blanks;
use crate::host::{Change, ErrorKind, HostError, Result, VolumeInfo};

use super::error::{failed, is_missing};
use super::xml::{refuse_control, Xml};

/// How a volume came to be.
pub(super) enum Made {
    /// libvirt made it and knows all about it.
    ByLibvirt(VolumeInfo),
    /// It was filled here; libvirt does not know its format yet.
    Copied(VolumeInfo),
}

/// Creates a blank volume. A volume or file of this name is never touched: [`ErrorKind::Exists`].
pub(super) fn create(pool: &StoragePool, pool_name: &str, name: &str, capacity: u64, blanks: &Blanks) -> Result<Made> {
    check(name, capacity)?;
    let what = format!("cannot create the volume {name} of {capacity} bytes in the storage pool {pool_name}");
    let refused = |error: virt::error::Error| failed(&what, &error);
    let directory = pool_directory(pool, &what)?;
    let Some(blank) = blanks.get(Path::new(&directory), capacity) else {
        let flags = sys::VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA;
        let volume = StorageVol::create_xml(pool, &document(name, "qcow2", capacity)?, flags).map_err(refused)?;
        let info = describe(&volume, capacity).map_err(refused)?;
        blanks.keep(Path::new(&info.path), capacity);
        return Ok(Made::ByLibvirt(info));
    };
    let volume = StorageVol::create_xml(pool, &document(name, "raw", 0)?, 0).map_err(refused)?;
    let filled = describe(&volume, capacity).map_err(|error| failed(&what, &error)).and_then(|info| {
        blank.copy_to(Path::new(&info.path)).map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::StorageFull { ErrorKind::NoSpace } else { ErrorKind::Failed };
            HostError::with_source(kind, &what, error)
        })?;
        Ok(info)
    });
    filled.map(Made::Copied).inspect_err(|_| {
        if let Err(second) = volume.delete(0) {
            tracing::warn!("{what}, and the unfinished file stays: {}", second.message());
        }
    })
}

/// Deletes a volume; unchanged when there is none.
pub(super) fn delete(pool: &StoragePool, pool_name: &str, name: &str) -> Result<Change> {
    let what = format!("cannot delete the volume {name} of the storage pool {pool_name}");
    refuse_control("the volume's name", name)?;
    let volume = match StorageVol::lookup_by_name(pool, name) {
        Err(error) if is_missing(&error) && on_disk(pool, name, &what)? => {
            pool.refresh(0).map_err(|error| failed(&what, &error))?;
            StorageVol::lookup_by_name(pool, name)
        }
        found => found,
    };
    match volume.and_then(|volume| volume.delete(0)) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if is_missing(&error) => Ok(Change::Unchanged),
        Err(error) => Err(failed(what, &error)),
    }
}

/// A file that libvirt has not seen yet.
fn on_disk(pool: &StoragePool, name: &str, what: &str) -> Result<bool> {
    Ok(Path::new(&pool_directory(pool, what)?).join(name).exists())
}

fn check(name: &str, capacity: u64) -> Result<()> {
    refuse_control("the volume's name", name)?;
    let why = if name.is_empty() || name.starts_with('.') || name.contains('/') {
        "a name is not empty, does not begin with '.' and has no '/'"
    } else if capacity == 0 {
        "it has no size"
    } else {
        return Ok(());
    };
    Err(HostError::new(ErrorKind::Invalid, format!("the volume '{name}' can't be created: {why}")))
}

fn pool_directory(pool: &StoragePool, what: &str) -> Result<String> {
    let document = pool.get_xml_desc(0).map_err(|error| failed(what, &error))?;
    let document = super::xml::Node::parse(&document)?;
    let directory = document.text_at(&["target", "path"]).map(str::to_owned);
    directory.ok_or_else(|| HostError::new(ErrorKind::Unsupported, format!("{what}: the pool is not a directory")))
}

/// Without the allocation of 0, libvirt would reserve the whole size on the disk, whatever is said about metadata.
fn document(name: &str, format: &str, capacity: u64) -> Result<String> {
    Xml::document("volume", &[("type", "file")], |xml| {
        xml.text("name", &[], name)?;
        xml.text("capacity", &[("unit", "bytes")], capacity)?;
        xml.text("allocation", &[("unit", "bytes")], 0)?;
        xml.node("target", &[], |xml| {
            xml.leaf("format", &[("type", format)])?;
            xml.node("permissions", &[], |xml| xml.text("mode", &[], "0666"))?;
            if format == "qcow2" {
                xml.text("compat", &[], "1.1")?;
            }
            Ok(())
        })
    })
}

fn describe(volume: &StorageVol, capacity: u64) -> std::result::Result<VolumeInfo, virt::error::Error> {
    Ok(VolumeInfo { path: volume.get_path()?, key: volume.get_key()?, capacity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::libvirt::xml::Node;

    #[test]
    fn a_blank_volume_is_sparse_qcow2_of_version_1_1() {
        let document = Node::parse(&document("a_sys.qcow2", "qcow2", 1 << 30).unwrap()).unwrap();
        assert_eq!(document.text_at(&["capacity"]), Some("1073741824"));
        assert_eq!(document.text_at(&["allocation"]), Some("0"));
        assert_eq!(document.text_at(&["target", "compat"]), Some("1.1"));
        assert_eq!(document.text_at(&["target", "permissions", "mode"]), Some("0666"));
    }

    #[test]
    fn names_that_leave_the_pool_and_empty_volumes_are_refused() {
        for name in ["", "../x", "a/b", ".hidden", "a\u{0}b"] {
            assert_eq!(check(name, 1).unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
        }
        assert_eq!(check("a", 0).unwrap_err().kind, ErrorKind::Invalid);
    }
}
