//! Small files beside the volumes: cloud-init's seed images.
//!
//! Contract: a reader sees the old file or the new one, never a part. On a shared pool whose server is gone the call ends at its deadline; the thread
//! that hangs in the kernel is left to itself, and there are only so many of them ([`super::doors`]).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::doors::{directory_of, doors, kind};
use crate::host::{Change, HostError, Result};

/// Below the engine's own deadline, so that it has an answer.
const DEADLINE: Duration = Duration::from_secs(8);
/// QEMU may run as another user than libvirt's; nothing in these files is secret.
const MODE: u32 = 0o644;

/// Writes a file whole or not at all; unchanged when it has this content already.
pub(in crate::host) async fn write(path: &str, content: Arc<[u8]>) -> Result<Change> {
    run(format!("cannot write {path}"), path.to_owned(), move |path| {
        if std::fs::read(path).is_ok_and(|present| present == *content) {
            return Ok(Change::Unchanged);
        }
        replace(path, &content).map(|()| Change::Changed)
    })
    .await
}

/// Removes a file; unchanged when there is none.
pub(in crate::host) async fn remove(path: &str) -> Result<Change> {
    run(format!("cannot remove {path}"), path.to_owned(), |path| match std::fs::remove_file(path) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(error),
    })
    .await
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().ok_or_else(|| io::Error::other("it has no directory"))?;
    let mut file = tempfile::Builder::new().prefix(".seed-").tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

async fn run(what: String, path: String, work: impl FnOnce(&Path) -> io::Result<Change> + Send + 'static) -> Result<Change> {
    let path = PathBuf::from(path);
    let done = doors().ask(directory_of(&path.clone()), &what, DEADLINE, move || work(&path)).await?;
    done.map_err(|error| HostError::with_source(kind(&error), what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_written_once_replaced_whole_and_removed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a_ci.iso");
        let path = path.to_str().unwrap();
        assert_eq!(write(path, Arc::from(*b"one")).await.unwrap(), Change::Changed);
        assert_eq!(write(path, Arc::from(*b"one")).await.unwrap(), Change::Unchanged);
        assert_eq!(write(path, Arc::from(*b"two")).await.unwrap(), Change::Changed);
        assert_eq!(std::fs::read(path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(remove(path).await.unwrap(), Change::Changed);
        assert_eq!(remove(path).await.unwrap(), Change::Unchanged);
        let error = write("/nonexistent/a", Arc::from(*b"x")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot write /nonexistent/a");
    }
}
