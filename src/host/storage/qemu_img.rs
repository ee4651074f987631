//! `qemu-img`, the only program that is started for images.
//!
//! Contract: arguments go as a list, never through a shell; every image is opened in the format that is expected of it, never in one that
//! its content claims; a run has a deadline, and is killed when that passes or when nobody waits for it any more; what the program
//! complained about is in the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::host::{ErrorKind, HostError, Result};

/// A complaint is cut here, characters.
const LONGEST_COMPLAINT: usize = 400;

/// Changing the tables of an image takes less than a second; a disk that hangs takes longer.
const QUICK: Duration = Duration::from_secs(60);

/// Grows a qcow2 image to `bytes`; its backing chain is not opened.
pub(super) async fn resize(image: &Path, bytes: u64) -> Result<()> {
    let what = format!("cannot resize {} to {bytes} bytes", image.display());
    let bytes = bytes.to_string();
    let arguments: [&OsStr; 6] = ["resize".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), image.as_ref(), bytes.as_ref()];
    run(&what, QUICK, arguments).await
}

/// Runs `qemu-img` to its end.
async fn run(what: &str, deadline: Duration, arguments: impl IntoIterator<Item = &OsStr>) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(deadline, command.output()).await {
        Ok(output) => output.map_err(|error| {
            HostError::with_source(
                ErrorKind::Failed,
                format!("{what}: qemu-img can't be started; install it (qemu-utils, qemu-img)"),
                error,
            )
        })?,
        Err(_) => {
            let text = format!("{what}: qemu-img did not end within {} s and was killed", deadline.as_secs());
            return Err(HostError::new(ErrorKind::Failed, text));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(LONGEST_COMPLAINT).collect();
    let kind = if complaint.contains("No space left") { ErrorKind::NoSpace } else { ErrorKind::Failed };
    Err(HostError::new(kind, format!("{what}: {}", if complaint.is_empty() { output.status.to_string() } else { complaint })))
}

#[cfg(test)]
mod tests;
