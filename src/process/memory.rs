//! Keeps the memory of the C library's allocator small.
//!
//! glibc gives nearly every thread that allocates an arena of its own. libvirt's calls run on a dozen threads, whose arenas would take more memory than all
//! of the service's data. The number of arenas can only be set from outside, before the process begins, so it begins once more.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// glibc's setting (mallopt(3)).
const SETTING: &str = "MALLOC_ARENA_MAX";

/// Starts this program anew with the same arguments and a small number of arenas, unless the environment names a number already. Returns where that
/// is so, or where it can't be done: the service then only takes some more memory. To be called before anything else is done.
pub fn limit_arenas() {
    if env::var_os(SETTING).is_some() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        // Comes back only with an error, and then nothing has changed.
        let _ = Command::new(program).args(env::args_os().skip(1)).env(SETTING, "1").exec();
    }
}
