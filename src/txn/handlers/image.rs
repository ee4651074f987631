//! What the requests about disk images have in common.

use crate::host::ImageLocation;
use crate::model::lifecycle::{self, Operation};
use crate::model::{Guest, GuestId};
use crate::proto::message::Key;
use crate::txn::node::books::Disk;
use crate::txn::params::Params;
use crate::txn::{Context, Failure};

/// Longest id and host name that are taken.
const LONGEST: usize = 255;

/// An image file has tables beside its data: so much more than the disk, one in so many bytes, and a mebibyte.
const TABLES: u64 = 64;

/// An image to read: its size has to be known (contract §14 C7).
pub(super) fn read_source(params: Params<'_>) -> Result<ImageLocation, Failure> {
    let size = params.uint(Key::Size)?;
    if size == 0 {
        return Err(params.bad(Key::Size, "is 0: the size of the image in bytes is expected"));
    }
    Ok(ImageLocation { size, ..read_target(params)? })
}

/// An image to write.
pub(super) fn read_target(params: Params<'_>) -> Result<ImageLocation, Failure> {
    read_location(params, Key::Image)
}

/// An image on a server; its id is in `key`.
pub(super) fn read_location(params: Params<'_>, key: Key) -> Result<ImageLocation, Failure> {
    let id = params.string(key)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.is_empty() || id.len() > LONGEST || !id.chars().all(plain) {
        return Err(params.bad(key, format!("is {:?}: the id of an image is expected", shorten(id))));
    }
    let host = params.string(Key::Host)?;
    // §14 C9: what is no address makes no URL.
    let part_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    if host.is_empty() || host.len() > LONGEST || !host.chars().all(part_of_host) {
        return Err(params.bad(Key::Host, format!("is {:?}: the address of an image server is expected", shorten(host))));
    }
    let port = params.uint(Key::Port)?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| params.bad(Key::Port, "is no TCP port: 1 to 65535 is expected"))?;
    Ok(ImageLocation { id: id.to_owned(), host: host.to_owned(), port, size: 0 })
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Refuses an image whose file alone is larger than the disk; what it holds is looked at when it is here.
pub(super) fn check_size(image: &ImageLocation, disk: u64) -> Result<(), Failure> {
    if image.size > disk.saturating_add(disk / TABLES).saturating_add(1 << 20) {
        let text = format!("image {} has {} bytes, more than fit the system disk of {disk} bytes", image.id, image.size);
        return Err(Failure::refused(text));
    }
    Ok(())
}

/// The guest and its system disk, when the disk may be read or replaced: it is complete, stopped, and no snapshot builds on it.
pub(super) fn check_guest(context: &Context, id: GuestId, what: &str) -> Result<(Guest, Disk), Failure> {
    let guest = context.node.books.guest(id)?;
    let refused = |why: &dyn std::fmt::Display| Failure::refused(format!("{what} of guest '{}' is not possible: {why}", guest.config.name));
    lifecycle::next(guest.phase(), Operation::UseDisks).map_err(|refusal| refused(&refusal))?;
    let books = context.node.books.lock();
    let disk = books.system_disk(id).ok_or_else(|| refused(&"it has no system disk"))?;
    let snapshots = books.storage.groups.get(&id).map_or(0, |group| group.snapshots.len());
    if snapshots > 0 {
        return Err(refused(&format!("it has {snapshots} snapshots; delete them first")));
    }
    Ok((guest.clone(), disk))
}

#[cfg(test)]
mod tests;
