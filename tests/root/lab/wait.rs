//! Waiting for a condition instead of sleeping, and running a program to its end.

use std::process::Command;
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` when it does not within `limit`. Returns the time it took.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    eventually_some(what, limit, || condition().then_some(()));
    begin.elapsed()
}

/// Waits until `probe` gives a value.
pub fn eventually_some<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let (mut waited, mut last) = (Duration::ZERO, Instant::now());
    loop {
        if let Some(value) = probe() {
            return value;
        }
        // While the machine stood still nobody has waited.
        waited += last.elapsed().min(Duration::from_secs(3));
        last = Instant::now();
        assert!(waited < limit, "not within {limit:?}: {what}");
        std::thread::sleep(PACE);
    }
}

/// Standard output of a program that must succeed.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}
