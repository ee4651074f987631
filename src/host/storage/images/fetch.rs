//! The way of an image to the file beside its disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::super::{qemu_img, sparse};
use super::connection::Kind;
use super::part::Part;
use super::trouble::{on_file, Trouble};
use super::upload::blocking;
use super::writer::Writer;
use super::{download, qcow2, Shared};
use crate::host::{ErrorKind, HostError, ImageLocation, Result, Transfer};

/// Fetches, checks and grows the image; leaves it beside the disk, durable, or nothing.
pub(super) async fn fetch(shared: &Arc<Shared>, image: &ImageLocation, disk: &Path, capacity: u64, transfer: &Transfer) -> Result<()> {
    if image.size == 0 {
        return Err(HostError::new(ErrorKind::Invalid, format!("image {} was announced with 0 bytes", image.id)));
    }
    transfer.begin(image.size);
    let opened = download::open_patiently(shared, Kind::Disk, image).await.map_err(Trouble::into_error)?;
    let (part, file, cached) = {
        let (shared, image, disk, signature) = (shared.clone(), image.clone(), disk.to_owned(), opened.head.signature.clone());
        blocking(move || {
            let cached = shared.cache.find(&disk, &image.id, &signature, image.size);
            shared.cache.give_way(&disk, image.size);
            let (part, file) =
                Part::create(&disk).map_err(|error| on_file(format!("no file can be made beside {}", disk.display()), error))?;
            Ok((part, Arc::new(file), cached))
        })
        .await?
    };
    let signature = opened.head.signature.clone();
    let known = cached.is_some();
    match cached {
        Some(cached) => {
            // The server has named the signature, that is all that was wanted of it.
            drop(opened);
            copy(cached, file.clone(), image.size, transfer).await?;
        }
        None => {
            let target = file.try_clone().map_err(|error| on_file("a file can't be opened twice", error))?;
            let writer = Writer::start(target, part.path().to_owned(), image.size, transfer.clone());
            download::pull(shared, Kind::Disk, image, opened, writer).await?;
        }
    }
    let size = inspect(image, file.clone(), capacity).await?;
    if !known {
        keep(shared, image, disk, signature, file.clone()).await?;
    }
    if size < capacity {
        qemu_img::resize(part.path(), capacity).await?;
    }
    blocking(move || part.keep(&file).map_err(|error| on_file("the image can't be brought to the disk", error))).await
}

/// Copies a cached image.
async fn copy(cached: File, file: Arc<File>, size: u64, transfer: &Transfer) -> Result<()> {
    let transfer = transfer.clone();
    blocking(move || {
        let advanced = |amount| {
            transfer.advance(amount);
            !transfer.stop().is_cancelled()
        };
        sparse::copy(&cached, &file, size, advanced).map_err(|error| on_file("the cached image can't be copied", error))
    })
    .await
}

/// The virtual size of the image, which is qcow2, stands for itself and fits the disk.
async fn inspect(image: &ImageLocation, file: Arc<File>, capacity: u64) -> Result<u64> {
    let id = image.id.clone();
    blocking(move || {
        let unfit = |reason: String| HostError::new(ErrorKind::Invalid, format!("image {id} can't be used: {reason}"));
        let size = qcow2::inspect(&file).map_err(|error| on_file(format!("image {id} can't be read"), error))?.map_err(unfit)?;
        if size > capacity {
            return Err(unfit(format!("it needs a disk of {size} bytes, but the system disk has {capacity}")));
        }
        Ok(size)
    })
    .await
}

/// Keeps the image for the next clone. A cache that can't take it only makes that one slower.
async fn keep(shared: &Arc<Shared>, image: &ImageLocation, disk: &Path, signature: String, file: Arc<File>) -> Result<()> {
    let (shared, id, disk) = (shared.clone(), image.id.clone(), disk.to_owned());
    blocking(move || {
        match shared.cache.keep(&disk, &id, &signature, &file) {
            Ok(kept) => tracing::debug!("image {id} is {} in the cache", if kept { "kept" } else { "not kept" }),
            Err(error) => tracing::warn!("image {id} can't be kept in the cache: {error}"),
        }
        Ok(())
    })
    .await
}
