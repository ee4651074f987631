//! What to measure.

use std::time::Duration;

use super::process::Process;

/// What to measure and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Guests that the Cell shall have; missing ones are created, and removed at the end.
    pub guests: usize,
    /// Leave the guests that were made.
    pub keep: bool,
    /// How many of them run while the status of running guests is asked for; 0 leaves that out.
    pub running: usize,
    /// Requests in flight of the parallel phases.
    pub parallel: usize,
    /// Guests created or deleted at a time.
    pub change_parallel: usize,
    /// Length of each phase of queries.
    pub duration: Duration,
    /// Length of the idle phase; 0 leaves it out.
    pub idle: Duration,
    /// The Cell's process, for CPU time and memory.
    pub cell_process: Option<Process>,
    /// libvirtd's process, for its CPU time while idle.
    pub libvirtd_process: Option<Process>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            guests: 100,
            keep: false,
            running: 1,
            parallel: 64,
            change_parallel: 8,
            duration: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            cell_process: None,
            libvirtd_process: None,
        }
    }
}
