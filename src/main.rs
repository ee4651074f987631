//! The `cell` program: see `cell --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cell::cli::main(|settings, on_ready| Ok(cell::app::run(settings, on_ready)?))
}
