//! The QEMU process of a guest, for when asking is over.
//!
//! Contract: libvirt first asks a QEMU to end and kills it only ten seconds later, which is longer than a transaction may take. A QEMU
//! that hangs will not hear the question, so after a short grace it is killed from here; libvirt notices and cleans up as usual.

use std::time::Duration;

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use procfs::process::{all_processes, Process};

use crate::model::GuestId;

/// Time for a QEMU that does not hang to write what it has in memory and to end.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// Kills the guest's QEMU process, should there still be one. Blocks for a walk through /proc.
pub(super) fn kill_process(id: GuestId) {
    let text = id.to_string();
    for process in all_processes().into_iter().flatten().flatten().filter(|process| is_qemu_of(process, &text)) {
        match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
            Ok(()) => tracing::warn!("QEMU process {} of guest {id} did not end when asked and was killed", process.pid),
            Err(error) => tracing::warn!("QEMU process {} of guest {id} can't be killed: {error}", process.pid),
        }
    }
}

/// libvirt gives QEMU the guest's id on its command line.
fn is_qemu_of(process: &Process, id: &str) -> bool {
    let named = process
        .cmdline()
        .is_ok_and(|arguments| arguments.windows(2).any(|pair| matches!(pair, [option, value] if option == "-uuid" && value == id)));
    named && process.exe().is_ok_and(|path| path.to_string_lossy().contains("qemu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_only_mentions_the_id_is_not_taken_for_qemu() {
        let id = GuestId::random();
        let mut other = std::process::Command::new("sh").args(["-c", "sleep 60; true", "-uuid", &id.to_string()]).spawn().unwrap();
        kill_process(id);
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
