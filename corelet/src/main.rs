//! The command line of corelet.

use std::process::ExitCode;

fn main() -> ExitCode {
    corelet::cli::main()
}
