//! Results on standard output, progress on standard error.
//!
//! Contract: with `--json`, standard output carries one JSON object a line and nothing else. A reader that went away is an error, never a panic.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{json, Map, Value};

/// Where and how to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    animated: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, animated: !quiet && io::stderr().is_terminal() }
    }

    /// Writes a line of a listing: `text` for people, `value` for programs.
    pub(crate) fn item(self, text: &str, value: &Value) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match self.json {
            true => writeln!(stdout, "{value}")?,
            false => writeln!(stdout, "{text}")?,
        }
        stdout.flush()
    }

    /// Writes the result of a command; the object gets `ok` and `command` beside its own fields.
    pub(crate) fn result(self, command: &str, text: &str, fields: Value) -> io::Result<()> {
        let mut object = Map::new();
        object.insert("ok".into(), true.into());
        object.insert("command".into(), command.into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        self.item(text.trim_end(), &Value::Object(object))
    }

    /// Writes why a command failed: for people on standard error.
    pub(crate) fn failure(self, reason: &str) {
        if self.json {
            let _ = self.item("", &json!({ "ok": false, "error": reason })); // the exit status tells it too
        }
        let _ = writeln!(io::stderr(), "corelet: {reason}");
    }

    /// Tells what goes on.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Shows that something takes its time: an animation on a terminal, a line elsewhere.
    pub(crate) fn progress(self, text: &str) -> Progress {
        if !self.animated {
            self.note(text);
            return Progress { output: self, bar: None, percent: None };
        }
        let bar = ProgressBar::new_spinner().with_message(text.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress { output: self, bar: Some(bar), percent: None }
    }
}

/// Something that takes its time; its animation ends with it.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    percent: Option<u64>,
}

impl Progress {
    /// It has come so far.
    pub(crate) fn percent(&mut self, text: &str, percent: u64) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{text}: {percent} %")),
            None if self.percent.is_none_or(|last| percent >= last + 10) => {
                self.output.note(&format!("{text}: {percent} %"));
                self.percent = Some(percent);
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Lines in columns, the first line being the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Names and values below each other.
pub(crate) fn sheet(entries: &[(&str, String)]) -> String {
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    entries.iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
