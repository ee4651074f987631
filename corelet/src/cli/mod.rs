//! The command line: reads arguments, runs a Core, shows what comes of it.
//!
//! Contract: results go to standard output, everything else to standard error; exit status 0 when the command did what it says, 1 when not (with the
//! reason), 2 for wrong usage, 130 when interrupted. However a command ends, the Core says goodbye to its Cells.

mod args;
mod bench;
mod commands;
mod error;
mod guests;
mod images;
mod output;
mod ppm;
mod raw;
mod replay;
mod shell;
mod show;
mod size;

use std::io;
use std::process::ExitCode;

use cell::proto::kcp::KcpConfig;
use clap::Parser;
use tokio::signal::unix::{signal, SignalKind};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Options};
use commands::{Session, Tidy};
use error::{chain, CliError};
use output::Output;

use crate::core::Core;

const INTERRUPTED: u8 = 130;

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.options.json, cli.options.quiet);
    log_to_stderr(cli.options.verbose);
    let outcome = match &cli.command {
        Command::PpmToPng { input, output: target } => ppm::convert(input, target).map_err(CliError::from),
        Command::ImageServer(arguments) => images::serve(arguments, output),
        _ => runtime().map_err(CliError::Io).and_then(|runtime| runtime.block_on(with_core(cli, output))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(CliError::Reported) => ExitCode::FAILURE,
        Err(error) => {
            output.failure(&chain(&error));
            ExitCode::from(error.exit_status())
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("CORELET_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

async fn with_core(cli: Cli, output: Output) -> Result<(), CliError> {
    let Cli { options, command } = cli;
    let session = open(options, &command, output).await?;
    let outcome = until_interrupted(&session, command).await;
    session.close().await;
    outcome
}

/// Runs the command. The first interruption lets it tidy up where it has to, the second ends it at once.
async fn until_interrupted(session: &Session, command: Command) -> Result<(), CliError> {
    let mut running = std::pin::pin!(session.run(command));
    tokio::select! {
        outcome = &mut running => return outcome,
        () = interrupted() => {}
    }
    if session.tidy.call_off() {
        session.output.note("interrupted: tidying up; once more ends it at once");
        tokio::select! {
            _ = &mut running => {}
            () = interrupted() => {}
        }
    }
    Err(CliError::Interrupted)
}

async fn open(options: Options, command: &Command, output: Output) -> Result<Session, CliError> {
    let mut config = options.core_config().ok_or(CliError::NoListenAddress)?;
    if let Command::Storm(arguments) = command {
        // All may wait for their answers at the same time, which is more than a real Core asks.
        config.sessions = config.sessions.saturating_add(arguments.requests);
    }
    config.transport.kcp = wide_windows(config.transport.kcp);
    let core = Core::start(config).await?;
    output.note(&format!("{} listens on {} for domain '{}'", core.config().name, core.address(), core.config().domain));
    Ok(Session { core, options, output, tidy: Tidy::default() })
}

/// This end must never be what a bench waits for.
fn wide_windows(kcp: KcpConfig) -> KcpConfig {
    KcpConfig { send_window: 1024, receive_window: 2048, ..kcp }
}

/// Waits for Ctrl-C or an order to terminate. Without signals there is no interruption.
async fn interrupted() {
    let listen = || Ok::<_, io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    match listen() {
        Ok((mut interrupt, mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => std::future::pending().await,
    }
}
