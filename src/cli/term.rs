//! Writing to whoever typed the command. A reader that went away (`cell status | head -1`) is no reason to fail.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::process::{error_chain, one_line};

/// A result.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Something strange that does not stop the command.
pub(super) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "cell: warning: {}", one_line(text));
}

/// Why the command failed, in one line.
pub(super) fn fail(error: &(dyn Error + 'static)) {
    fail_with(&error_chain(error));
}

/// The same for a reason in words.
pub(super) fn fail_with(reason: &str) {
    let _ = writeln!(io::stderr(), "cell: {}", one_line(reason));
}

/// True when results are read by a person whose terminal shows colours.
pub(super) fn shows_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// True when there is somebody to ask.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Dots on a terminal while something is waited for, nothing elsewhere.
pub(super) struct Progress {
    shown: bool,
    wanted: bool,
}

impl Progress {
    /// Announces what is waited for.
    pub(super) fn new(what: &str) -> Self {
        let wanted = io::stderr().is_terminal();
        if wanted {
            let _ = write!(io::stderr(), "{what} ");
        }
        Self { shown: wanted, wanted }
    }

    /// Another while has passed.
    pub(super) fn tick(&self) {
        if self.wanted {
            let _ = write!(io::stderr(), ".");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = writeln!(io::stderr());
        }
    }
}

/// `3 d 2 h`, `5 min 1 s`: the two largest units.
pub(super) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    units.iter().skip(first).take(2).map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let cases = [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_400, "1 d 0 h")];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
