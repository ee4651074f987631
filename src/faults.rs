//! Places at which a test can end or stop this process or let an operation fail; nothing at all in other builds (the feature of the `fail` crate is off there).
//!
//! Contract: a place is right before and right after each operation that changes `data/` or the host. The environment variable `FAILPOINTS` of the
//! `fail` crate says what happens where: `data=return(ENOSPC)` lets the operation fail, `return(/some/file)` ends the process at the place whose
//! number, counted from the moment when it is there, stands in that file; with the word `stop` before the number it stops there until SIGCONT.

use std::io;

/// Reads `FAILPOINTS`. Called once, before anything can pass a place.
pub(crate) fn set_up() {
    // It ends with the process.
    std::mem::forget(fail::FailScenario::setup());
}

/// A place of `data/`.
///
/// # Errors
/// What the test asked for.
#[allow(clippy::unnecessary_wraps)] // where there are no such places
pub(crate) fn data() -> io::Result<()> {
    fail::fail_point!("data", |action| act(action.as_deref()));
    Ok(())
}

/// A place of the host. Its operations are not made to fail here: only an end of the process makes a difference.
pub(crate) fn host() {
    fail::fail_point!("host", |action| drop(act(action.as_deref())));
}

/// Ends or stops the process where it is time, or gives the error of this name.
#[allow(dead_code)] // where there are no such places
fn act(action: Option<&str>) -> io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::errno::Errno;
    use nix::sys::signal::{raise, Signal};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    match action.unwrap_or_default() {
        "ENOSPC" => Err(Errno::ENOSPC.into()),
        "EIO" => Err(Errno::EIO.into()),
        "EROFS" => Err(Errno::EROFS.into()),
        path => {
            let Ok(order) = std::fs::read_to_string(path) else {
                PASSED.store(0, Ordering::SeqCst);
                return Ok(());
            };
            let (signal, number) = match order.trim().strip_prefix("stop ") {
                Some(number) => (Signal::SIGSTOP, number),
                None => (Signal::SIGKILL, order.trim()),
            };
            if number.parse() == Ok(PASSED.fetch_add(1, Ordering::SeqCst) + 1) {
                raise(signal)?;
            }
            Ok(())
        }
    }
}
