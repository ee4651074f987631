//! `qemu-img`, the only program that is started for images.
//!
//! Contract: arguments go as a list, never through a shell; an image is named by its absolute path, so that no name is taken for an option or for one of
//! QEMU's protocols (`nbd:`, `json:`); every image is opened in the format that is expected of it, never in one that
//! its content claims; a run has a deadline, and is killed when that passes or when nobody waits for it any more; what the program
//! complained about is in the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::host::{ErrorKind, HostError, Result};

/// A complaint is cut here, characters.
const LONGEST_COMPLAINT: usize = 400;

/// Changing the tables of an image takes less than a second; a disk that hangs takes longer.
const QUICK: Duration = Duration::from_secs(60);

/// Copying and committing go on for as long as there is data; a run beyond this hangs.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// What `qemu-img info` says of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Info {
    /// Bytes that a guest sees.
    pub(super) virtual_size: u64,
    /// Bytes that it takes on the disk; 0 where the file system does not tell.
    #[serde(default)]
    pub(super) actual_size: u64,
    /// The image that it is based on, as its header names it.
    pub(super) backing_filename: Option<String>,
    /// Snapshots inside of the image.
    #[serde(default)]
    pub(super) snapshots: Vec<Internal>,
}

/// A snapshot inside of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Internal {
    /// Its name.
    pub(super) name: String,
}

/// The program's version; the error says why it can't be started.
pub async fn version() -> Result<String> {
    let told = run("cannot ask qemu-img for its version", QUICK, ["--version".as_ref()]).await?;
    let told = String::from_utf8_lossy(&told);
    Ok(told.lines().next().unwrap_or_default().trim_start_matches("qemu-img version ").to_owned())
}

/// Reads a qcow2 image's header; also while somebody writes to the image.
pub(super) async fn info(image: &Path) -> Result<Info> {
    let what = format!("cannot read the image {}", image.display());
    let arguments: [&OsStr; 6] = ["info".as_ref(), "--output=json".as_ref(), "-U".as_ref(), "-f".as_ref(), "qcow2".as_ref(), file(image)?];
    let told = run(&what, QUICK, arguments).await?;
    serde_json::from_slice(&told)
        .map_err(|error| HostError::with_source(ErrorKind::Failed, format!("{what}: qemu-img's answer can't be read"), error))
}

/// Makes an empty qcow2 image of `bytes` that is based on `backing`, which is not opened and need not exist yet.
pub(super) async fn create_overlay(image: &Path, backing: &Path, bytes: u64) -> Result<()> {
    let what = format!("cannot make the image {} on {}", image.display(), backing.display());
    let bytes = bytes.to_string();
    let options: [&OsStr; 8] = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-u", "-b"].map(AsRef::as_ref);
    let names: [&OsStr; 3] = [file(backing)?, file(image)?, bytes.as_ref()];
    run(&what, QUICK, options.into_iter().chain(names)).await.map(drop)
}

/// Copies what a qcow2 image itself holds, without zeroes and holes, to a new one with the same backing.
pub(super) async fn copy_layer(from: &Path, to: &Path, backing: Option<&str>) -> Result<()> {
    let what = format!("cannot copy the image {} to {}", from.display(), to.display());
    let options: [&OsStr; 6] = ["convert", "-q", "-f", "qcow2", "-O", "qcow2"].map(AsRef::as_ref);
    let based: Vec<&OsStr> = backing
        .map(backing_file)
        .transpose()?
        .map_or_else(Vec::new, |backing| vec!["-F".as_ref(), "qcow2".as_ref(), "-B".as_ref(), backing]);
    let names: [&OsStr; 2] = [file(from)?, file(to)?];
    run(&what, LONG, options.into_iter().chain(based).chain(names)).await.map(drop)
}

/// Writes all that `top` holds into `base`, on which it is based; `top` stays as it is.
pub(super) async fn commit(top: &Path, base: &Path) -> Result<()> {
    let what = format!("cannot commit the image {} to {}", top.display(), base.display());
    let options: [&OsStr; 6] = ["commit", "-q", "-f", "qcow2", "-d", "-b"].map(AsRef::as_ref);
    let names: [&OsStr; 2] = [file(base)?, file(top)?];
    run(&what, LONG, options.into_iter().chain(names)).await.map(drop)
}

/// Writes another name of what a qcow2 image is based on into its header; neither is read.
pub(super) async fn rename_backing(image: &Path, backing: &Path) -> Result<()> {
    let what = format!("cannot base the image {} on {}", image.display(), backing.display());
    let options: [&OsStr; 8] = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"].map(AsRef::as_ref);
    let names: [&OsStr; 2] = [backing.as_ref(), image.as_ref()];
    run(&what, QUICK, options.into_iter().chain(names)).await.map(drop)
}

/// What to do with a snapshot inside of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// Keep the present content under the name.
    Keep,
    /// Bring the kept content back.
    Return,
    /// Forget the kept content.
    Forget,
}

/// Handles a snapshot inside of a qcow2 image.
pub(super) async fn snapshot(image: &Path, action: Inside, name: &str) -> Result<()> {
    let what = format!("cannot change the inner snapshot {name} of {}", image.display());
    let option = match action {
        Inside::Keep => "-c",
        Inside::Return => "-a",
        Inside::Forget => "-d",
    };
    // This command has no option for the format; the long form of the name says it.
    file(image)?;
    let image = format!("driver=qcow2,file.driver=file,file.filename={}", image.display().to_string().replace(',', ",,"));
    let arguments: [&OsStr; 6] =
        ["snapshot".as_ref(), "-q".as_ref(), option.as_ref(), name.as_ref(), "--image-opts".as_ref(), image.as_ref()];
    run(&what, QUICK, arguments).await.map(drop)
}

/// Takes back a growth of a qcow2 image: what lies beyond `bytes` is lost.
pub(super) async fn cut(image: &Path, bytes: u64) -> Result<()> {
    let what = format!("cannot cut {} to {bytes} bytes", image.display());
    let bytes = bytes.to_string();
    let options: [&OsStr; 5] = ["resize", "-q", "-f", "qcow2", "--shrink"].map(AsRef::as_ref);
    let names: [&OsStr; 2] = [file(image)?, bytes.as_ref()];
    run(&what, QUICK, options.into_iter().chain(names)).await.map(drop)
}

/// Grows a qcow2 image to `bytes`; its backing chain is not opened.
pub(super) async fn resize(image: &Path, bytes: u64) -> Result<()> {
    let what = format!("cannot resize {} to {bytes} bytes", image.display());
    let bytes = bytes.to_string();
    let arguments: [&OsStr; 6] = ["resize".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), file(image)?, bytes.as_ref()];
    run(&what, QUICK, arguments).await.map(drop)
}

/// The image's name as an argument; one that `qemu-img` could take for something else than a file is refused.
fn file(image: &Path) -> Result<&OsStr> {
    if image.is_absolute() {
        return Ok(image.as_ref());
    }
    Err(HostError::new(ErrorKind::Invalid, format!("'{}' is not the absolute path of an image", image.display())))
}

/// The same for the name of a backing image, which an image's header says and which may be relative to that image.
fn backing_file(name: &str) -> Result<&OsStr> {
    // QEMU takes what stands before a colon for a protocol, unless a slash comes first.
    if !name.starts_with('-') && name.find(':').is_none_or(|colon| name.find('/').is_some_and(|slash| slash < colon)) {
        return Ok(name.as_ref());
    }
    Err(HostError::new(ErrorKind::Invalid, format!("an image is based on '{}', which is no file", name.escape_debug())))
}

/// Runs `qemu-img` to its end and gives what it printed.
async fn run(what: &str, deadline: Duration, arguments: impl IntoIterator<Item = &OsStr>) -> Result<Vec<u8>> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
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
        return Ok(output.stdout);
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(LONGEST_COMPLAINT).collect();
    let kind = match &complaint {
        text if text.contains("No space left") => ErrorKind::NoSpace,
        text if text.contains("No such file") => ErrorKind::NotFound,
        // QEMU holds locks on the images of a running guest.
        text if text.contains("lock") => ErrorKind::Busy,
        _ => ErrorKind::Failed,
    };
    Err(HostError::new(kind, format!("{what}: {}", if complaint.is_empty() { output.status.to_string() } else { complaint })))
}

#[cfg(test)]
mod tests;
