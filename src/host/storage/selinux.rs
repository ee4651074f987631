//! SELinux labels of directories that QEMU and libvirt's daemons use.
//!
//! Contract: does nothing where SELinux is not enabled, and needs its tools nowhere: a label that can't be set is logged with the command
//! that would set it (contract §14 E9). Blocks.

use std::path::Path;
use std::process::{Command, Stdio};

/// Type of directories with disk images.
pub(in crate::host) const IMAGES: &str = "virt_image_t";

/// Type of directories that virtlogd writes to.
pub(in crate::host) const LOGS: &str = "virt_log_t";

/// Exists only where SELinux is enabled.
const ENABLED: &str = "/sys/fs/selinux/enforce";

/// Gives a directory and all that will be in it a type, for good.
pub(in crate::host) fn label(directory: &Path, kind: &str) {
    if !Path::new(ENABLED).exists() {
        return;
    }
    let directory = directory.to_string_lossy();
    let pattern = format!("{directory}(/.*)?");
    // -a refuses a rule that is there already; then -m sees to its type.
    let ruled = run("semanage", &["fcontext", "-a", "-t", kind, &pattern]) || run("semanage", &["fcontext", "-m", "-t", kind, &pattern]);
    if !ruled || !run("restorecon", &["-R", &directory]) {
        tracing::warn!(
            "{directory} could not be labelled for SELinux; should guests fail to start, run: semanage fcontext -a -t {kind} '{pattern}' && restorecon -R {directory}"
        );
    }
}

/// Lets QEMU use files on NFS.
pub(in crate::host) fn allow_nfs() {
    if Path::new(ENABLED).exists() && !run("setsebool", &["-P", "virt_use_nfs", "1"]) {
        tracing::warn!("SELinux may keep guests from their disks on NFS; should they fail to start, run: setsebool -P virt_use_nfs 1");
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
