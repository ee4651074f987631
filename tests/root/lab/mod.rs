//! A private domain of test hosts; see `scripts/lab.sh` for what it is made of.

mod cell;
mod core;
mod host;
mod wait;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub use cell::{Cell, BOOT, BOOT_LINE};
pub use core::{TestCore, PATIENCE, SHARED_POOL};
pub use host::{Host, Running};
pub use wait::{eventually, eventually_some, output_of};

/// The Core's host in every lab.
pub const CORE_ADDRESS: &str = "10.226.0.1";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A lab that lives as long as this value. It also ends when this process ends, however that happens.
pub struct Lab {
    name: String,
    cells: usize,
}

impl Lab {
    /// Brings up a Core host and `cells` cell hosts with a running libvirtd each. What the machine lacks is named in the panic.
    pub fn up(cells: usize) -> Self {
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        script(&["up", &name, "--cells", &cells.to_string(), "--owner", &std::process::id().to_string()]);
        Self { name, cells }
    }

    /// Where the Core lives.
    pub fn core(&self) -> Host {
        Host::of(&self.name, "core")
    }

    /// Where a Cell lives; the first is 1.
    pub fn cell(&self, number: usize) -> Host {
        assert!((1..=self.cells).contains(&number), "this lab has cells 1 to {}", self.cells);
        Host::of(&self.name, &format!("cell{number}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for number in 1..=self.cells {
                self.cell(number).tell_logs();
            }
        }
        script(&["down", &self.name]);
    }
}

/// Runs `scripts/lab.sh` and returns what it prints.
pub fn script(arguments: &[&str]) -> String {
    output_of(Command::new(script_path()).args(arguments))
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab.sh")
}
