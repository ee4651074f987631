//! No core dumps: the service's memory holds the passwords of guests.
//!
//! A limit of zero keeps the kernel from writing a file. Where a program takes the dumps (systemd-coredump, apport), only a process that is not dumpable is safe; such
//! a process can't be traced or looked into by others of its user either. That is set where the service runs as root, as it does in earnest: without
//! root's rights, `cell stop` and `cell halt` could not tell any more whose process it is.

use nix::sys::prctl;
use nix::sys::resource::{setrlimit, Resource};
use nix::unistd::geteuid;

/// From here on this process and those that it starts leave no dump. Failing that is no reason not to serve.
pub fn forbid() {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let hidden = if geteuid().is_root() { prctl::set_dumpable(false) } else { Ok(()) };
    if let Err(error) = limited.and(hidden) {
        tracing::warn!("core dumps of the service can't be ruled out: {error}");
    }
}
