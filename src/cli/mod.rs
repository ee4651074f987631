//! The command line: one file a command.
//!
//! Contract: results go to standard output, everything else to standard error; the exit status says what became of it, as `--help` tells.
//! What the service is comes in as a function, so that the commands can be tried with any.

mod args;
mod doctor;
mod first_run;
mod halt;
mod restart;
mod run;
mod service;
mod start;
mod status;
mod stop;
mod term;
mod trust;

use std::process::ExitCode;

use clap::Parser;

use crate::process::{memory, Home};

pub use service::{OnReady, Service};

/// Exit statuses; where init scripts have a number for it (LSB), that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done, or nothing to do.
    Success = 0,
    /// It failed; the reason is on standard error. `doctor`: something is left to be dealt with.
    Failure = 1,
    /// `doctor`: not everything could be looked at.
    Blind = 2,
    /// `status`: no service runs.
    Stopped = 3,
    /// `status`: it can't be told.
    Unknown = 4,
    /// The home or its configuration can't be used: starting again does not help.
    Config = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The discriminants are the statuses.
        Self::from(exit as u8)
    }
}

/// Does what the arguments ask for. `service` runs the node until it is told to end and calls back once it is up.
pub fn main(service: Service) -> ExitCode {
    let args = args::Args::parse();
    if matches!(args.command, args::Command::Start | args::Command::Restart(_) | args::Command::Run(_)) {
        memory::limit_arenas();
    }
    let home = match Home::locate(args.home.as_deref()) {
        Ok(home) => home,
        Err(error) => {
            term::fail(&error);
            return Exit::Config.into();
        }
    };
    match args.command {
        args::Command::Start => start::start(&home, service),
        args::Command::Stop(options) => stop::stop(&home, options.timeout()),
        args::Command::Restart(options) => restart::restart(&home, options.timeout(), service),
        args::Command::Status(options) => status::status(&home, options.json),
        args::Command::Trust(options) => trust::trust(&home, &options),
        args::Command::Halt => halt::halt(&home),
        args::Command::Doctor(options) => doctor::doctor(&home, &options),
        args::Command::Run(options) => run::run(&home, &options, service),
    }
    .into()
}
