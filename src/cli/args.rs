//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Options, Parser, Subcommand};

use crate::process::home::HOME_VARIABLE;

const FILES: &str = "\
Files in the home directory, which is the one that holds this program unless --home or CELL_HOME names another:
  config/domain.cfg  domain, group_address, group_port, timeout: which Core to join; made at the first start
  config/cell.cfg    optional: bridge, libvirt_uri, virtualization, core_address, core_name, log_level and more
  data/              guests, storage and network of this node; do not edit while the service runs
  log/cell.log       what happens; older days lie beside it
  cell.pid           the running service's process id

Exit status: 0 done, 1 failed, 2 wrong usage, 6 the home or its configuration cannot be used;
status: 0 running, 3 stopped, 4 cannot be told;
doctor: 0 nothing found, 1 something is left, 2 not everything could be looked at.

Where systemd runs the service of this home (cell.service), start, stop and restart have systemd do it.

Stopping, restarting or killing the service never touches a running guest.";

/// Resource node of a Nano cluster: runs virtual machines on this host for a Core.
#[derive(Debug, Parser)]
#[command(name = "cell", version, about, after_help = FILES, max_term_width = 110)]
pub(super) struct Args {
    /// Directory with config/, data/ and log/ [default: where this program lies]
    #[arg(long, global = true, value_name = "DIR", env = HOME_VARIABLE, hide_env_values = true)]
    pub(super) home: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start the service in the background; return when it is up or has failed
    Start,
    /// Stop the service and wait until it has ended; guests go on running
    Stop(StopOptions),
    /// Stop the service if it runs, then start it
    Restart(StopOptions),
    /// Tell whether the service runs, and how it is
    Status(StatusOptions),
    /// Pin the Core in config/cell.cfg: the service talks to no other from its next start on
    Trust(TrustOptions),
    /// Kill a service that hangs (SIGKILL); guests go on running
    Halt,
    /// Compare the books with libvirt, pools and mounts, and see that this host is ready; change nothing unless told to
    Doctor(DoctorOptions),
    /// Run the service in the foreground, for systemd and debugging
    Run(RunOptions),
}

#[derive(Debug, Options)]
pub(super) struct StopOptions {
    /// Seconds to wait for the service's end
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl StopOptions {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Options)]
pub(super) struct StatusOptions {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Options)]
pub(super) struct TrustOptions {
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,

    /// Pin the name alone, where the Core's address may change; the service has to run
    #[arg(long)]
    pub(super) name_only: bool,
}

#[derive(Debug, Options)]
pub(super) struct DoctorOptions {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,

    /// Repair what can be repaired safely; the service has to be stopped, guests go on running
    #[arg(long)]
    pub(super) repair: bool,
}

#[derive(Debug, Options)]
pub(super) struct RunOptions {
    /// Write the log to standard error as well [default: when that is a terminal]
    #[arg(long)]
    pub(super) log_stderr: bool,

    /// Which events to log, instead of what config/cell.cfg says: error, warn, info, debug, trace, or as in "info,cell::txn=debug"
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
}
