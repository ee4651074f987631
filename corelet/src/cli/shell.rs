//! Commands line by line: from a terminal with a prompt and news in between, from a pipe without.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{CommandFactory, Parser};
use tokio::sync::mpsc;

use super::args::{ShellCommand, ShellLine};
use super::commands::Session;
use super::error::{chain, CliError};
use super::show;
use crate::events::Event;

const PROMPT: &str = "corelet> ";

/// What a line asks for.
enum Order {
    Nothing,
    Help(Vec<String>),
    Leave,
    Run(Box<super::args::Command>),
}

impl Session {
    /// Takes commands until the input ends or says so.
    pub(crate) async fn shell(&self, stop_on_error: bool) -> Result<(), CliError> {
        let terminal = io::stdin().is_terminal();
        if terminal {
            self.output.note("commands as on the command line; 'help' lists them, 'exit' or Ctrl-D leaves");
        }
        let mut lines = lines();
        let mut failures = 0_u32;
        while let Some(line) = self.next_line(&mut lines, terminal).await {
            match self.obey(&line?).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(CliError::Io(error)) => return Err(error.into()),
                Err(error) => {
                    failures += 1;
                    self.output.failure(&chain(&error));
                    if stop_on_error || self.tidy.is_called_off() {
                        break;
                    }
                }
            }
        }
        match failures {
            0 => Ok(()),
            _ if terminal => Ok(()),
            _ => Err(CliError::Reported),
        }
    }

    /// The next line; at a terminal, what happens meanwhile is shown.
    async fn next_line(&self, lines: &mut mpsc::Receiver<io::Result<String>>, terminal: bool) -> Option<io::Result<String>> {
        if !terminal {
            return lines.recv().await;
        }
        let mut events = self.core.events();
        prompt();
        loop {
            tokio::select! {
                line = lines.recv() => return line,
                Some(event) = events.next() => {
                    if !matches!(event.event, Event::StatusReport { .. } | Event::GuestProgress { .. }) {
                        self.output.note(&format!("\r{}", show::event(&event)));
                        prompt();
                    }
                }
            }
        }
    }

    /// Carries out a line; false when it says to leave.
    async fn obey(&self, line: &str) -> Result<bool, CliError> {
        match parse(line)? {
            Order::Nothing => {}
            Order::Leave => return Ok(false),
            Order::Help(words) => self.output.note(&help(&words)),
            Order::Run(command) => self.run_single(*command).await?,
        }
        Ok(true)
    }
}

fn parse(line: &str) -> Result<Order, CliError> {
    let words = shlex::split(line).ok_or_else(|| CliError::Usage("a quote is not closed".into()))?; // a # begins a comment
    match words.split_first() {
        None => Ok(Order::Nothing),
        Some((first, rest)) if first == "help" || first == "?" => Ok(Order::Help(rest.to_vec())),
        Some(_) => match ShellLine::try_parse_from(&words) {
            Ok(ShellLine { command: ShellCommand::Exit }) => Ok(Order::Leave),
            Ok(ShellLine { command: ShellCommand::Command(command) }) => Ok(Order::Run(Box::new(command))),
            Err(error) => Err(CliError::Usage(error.to_string().trim().to_owned())),
        },
    }
}

/// The help of a command, or the list of all.
fn help(words: &[String]) -> String {
    let mut shell = ShellLine::command();
    let wanted = words.first().and_then(|name| shell.find_subcommand_mut(name));
    match wanted {
        Some(command) => command.render_long_help().to_string(),
        None => shell.render_help().to_string(),
    }
}

fn prompt() {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{PROMPT}").and_then(|()| stderr.flush());
}

/// Standard input, line by line. Reading blocks, so it has a thread of its own, which ends with the process.
fn lines() -> mpsc::Receiver<io::Result<String>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests;
