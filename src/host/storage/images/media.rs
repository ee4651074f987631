//! CD and DVD images, fetched to be files of this host: QEMU needs to know no certificate then, and a guest keeps its CD when the server goes
//! (contract §9.3, §14 E10).
//!
//! Contract: a file is complete and on the disk before it has its name, which is made of the image's id and what the server says of its version. So a
//! file that is there is the image, and is used without being fetched again. The server names no hash for media, so length and version
//! are what is checked.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha1::{Digest, Sha1};

use super::answer::Head;
use super::connection::Kind;
use super::trouble::{on_file, Trouble};
use super::upload::blocking;
use super::writer::{hex, Writer};
use super::{download, Shared};
use crate::host::{Change, ErrorKind, HostError, ImageLocation, Result, Transfer};

/// Unfinished files begin so; an image id never does.
const UNFINISHED: &str = ".new-";

/// QEMU runs as another user.
const MODES: (u32, u32) = (0o755, 0o644);

/// Fetches a media image unless it is there; gives its file.
pub(super) async fn fetch(shared: &Arc<Shared>, media: &ImageLocation, directory: &Path, transfer: &Transfer) -> Result<PathBuf> {
    let opened = download::open_patiently(shared, Kind::Media, media).await.map_err(Trouble::into_error)?;
    let size = opened.head.size.filter(|size| *size > 0);
    let size = size.ok_or_else(|| HostError::new(ErrorKind::Invalid, format!("media image {} is empty on its server", media.id)))?;
    let target = directory.join(name(&media.id, &opened.head));
    transfer.begin(size);
    if is_there(target.clone(), size).await? {
        transfer.advance(size);
        return Ok(target);
    }
    let failed = format!("media image {} can't be put into {}", media.id, directory.display());
    let (unfinished, file) = {
        let (failed, directory) = (failed.clone(), directory.to_owned());
        blocking(move || begin(&directory).map_err(|error| on_file(failed, error))).await?
    };
    let writer = Writer::start(file, unfinished.path().to_owned(), size, transfer.clone());
    download::pull(shared, Kind::Media, &ImageLocation { size, ..media.clone() }, opened, writer).await?;
    blocking(move || {
        finish(unfinished, &target).map_err(|error| on_file(failed, error))?;
        Ok(target)
    })
    .await
}

fn name(id: &str, head: &Head) -> String {
    let version = hex(&Sha1::digest(head.signature.as_bytes()));
    format!("{id}.{}.iso", version.get(..16).unwrap_or(&version))
}

/// Whether the image is there; it counts as used then.
async fn is_there(target: PathBuf, size: u64) -> Result<bool> {
    blocking(move || {
        let Ok(file) = File::open(&target) else { return Ok(false) };
        if !file.metadata().is_ok_and(|metadata| metadata.len() == size) {
            return Ok(false);
        }
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!("the use of a media image can't be noted: {error}");
        }
        Ok(true)
    })
    .await
}

fn begin(directory: &Path) -> io::Result<(tempfile::NamedTempFile, File)> {
    DirBuilder::new().recursive(true).mode(MODES.0).create(directory)?;
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    let file = unfinished.as_file().try_clone()?;
    Ok((unfinished, file))
}

fn finish(unfinished: tempfile::NamedTempFile, target: &Path) -> io::Result<()> {
    unfinished.as_file().set_permissions(Permissions::from_mode(MODES.1))?;
    unfinished.as_file().sync_all()?;
    unfinished.persist(target).map_err(|error| error.error)?;
    target.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Removes what is not in `keep`: unfinished files, and finished ones beyond `limit` bytes, those that were not used for the longest time first.
pub(super) fn discard(directory: &Path, keep: &[String], limit: u64) -> io::Result<Change> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Unchanged),
        entries => entries?,
    };
    let mut unused = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if keep.iter().any(|kept| Path::new(kept) == path) {
            continue;
        }
        let metadata = entry.metadata()?;
        let finished = !entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        unused.push((finished.then(|| metadata.modified()).transpose()?, metadata.len(), path));
    }
    unused.sort_by_key(|file| std::cmp::Reverse(file.0));
    let (mut kept, mut change) = (0_u64, Change::Unchanged);
    for (used, size, path) in unused {
        kept = kept.saturating_add(size);
        if used.is_none() || kept > limit {
            std::fs::remove_file(path)?;
            change = Change::Changed;
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests;
