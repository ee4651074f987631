//! Reading and replacing a claim. Blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind as IoKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::faults;
use crate::model::Claim;

/// A claim is blanked up to this length, so that it is replaced by one write.
const LENGTH: usize = 512;

/// None when there is no claim.
pub(super) fn read(path: &Path) -> io::Result<Option<Claim>> {
    match File::open(path) {
        Ok(mut file) => parse(path, &mut file),
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a claim whose generation is one less.
pub(super) fn replace(path: &Path, claim: &Claim) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let busy = || io::Error::new(IoKind::WouldBlock, "another cell is changing it right now");
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => busy(),
        errno => errno.into(),
    })?;
    let present = parse(path, &mut file)?.unwrap_or_default();
    if present.generation.checked_add(1) != Some(claim.generation) {
        return Err(io::Error::new(IoKind::WouldBlock, format!("another cell has changed it meanwhile ({:?})", present.owner)));
    }
    let mut content = serde_json::to_vec(claim)?;
    if content.len() > LENGTH {
        return Err(io::Error::new(IoKind::InvalidInput, "the claim is too long"));
    }
    content.resize(LENGTH, b' ');
    faults::host();
    file.write_all_at(&content, 0)?;
    file.sync_all()?;
    faults::host();
    Ok(())
}

/// None for an empty file: somebody was about to write the first claim.
fn parse(path: &Path, file: &mut File) -> io::Result<Option<Claim>> {
    let mut content = Vec::with_capacity(LENGTH);
    file.read_to_end(&mut content)?;
    if content.is_empty() {
        return Ok(None);
    }
    let bad = |_| io::Error::new(IoKind::InvalidData, format!("{} can't be read; remove it when no cell runs the guest", path.display()));
    serde_json::from_slice(&content).map(Some).map_err(bad)
}
