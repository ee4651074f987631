//! The bench on the command line.

use std::path::Path;

use super::args::{BenchArgs, StormArgs};
use super::commands::Session;
use super::error::CliError;
use super::output::table;
use crate::bench::{self, Plan, Process, Report, Storm, StormReport, Summary};

impl Session {
    pub(crate) async fn bench(&self, arguments: &BenchArgs) -> Result<(), CliError> {
        let other = arguments.compare.as_deref().map(read).transpose()?; // what is wrong with it shall be known before the work
        let plan = plan(arguments)?;
        let cell = self.wait_cell().await?.name;
        let report = bench::run(&self.core, &cell, &plan, &self.tidy.begin(), &mut |text| self.output.note(text)).await;
        self.tidy.end();
        let report = report?;
        if let Some(path) = &arguments.save {
            write(path, &report)?;
        }
        let value = serde_json::json!({ "report": report, "compared_with": other });
        Ok(self.output.result("bench", &text(&report, other.as_ref()), value)?)
    }
}

impl Session {
    pub(crate) async fn storm(&self, arguments: &StormArgs) -> Result<(), CliError> {
        let cell = self.wait_cell().await?;
        let mut stuck = Vec::new();
        for guest in &arguments.stuck {
            stuck.push(self.find_guest(guest).await?.guest);
        }
        let others = cell.guests.keys().filter(|guest| !stuck.contains(guest)).copied().collect();
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let slow = if stuck.is_empty() { 0 } else { count(arguments.slow.min(arguments.requests)) };
        let plan = Storm { requests: count(arguments.requests), within: arguments.within, slow, stuck, others };
        self.output.note(&format!("{} requests to {}, {slow} of them slow", plan.requests, cell.name));
        let report = bench::storm(&self.core, &cell.name, &plan).await;
        self.output.result("storm", &storm_text(&report), serde_json::to_value(&report).unwrap_or_default())?;
        match (report.unanswered, report.disconnects) {
            (0, 0) => Ok(()),
            (unanswered, disconnects) => Err(CliError::Failed(format!(
                "{unanswered} requests without an answer ({}), {disconnects} times the connection broke",
                report.last_reason.unwrap_or_default()
            ))),
        }
    }
}

fn storm_text(report: &StormReport) -> String {
    let latency = |summary: Option<Summary>| {
        summary.map_or("-".into(), |latency| {
            format!("{} answers, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", latency.count, latency.p50_ms, latency.p99_ms, latency.max_ms)
        })
    };
    let rows = [
        ["sent", &format!("{} in {:.2} s", report.requests, report.sent_in)],
        ["answered", &format!("{} successes, {} failures, {} not at all", report.successes, report.failures, report.unanswered)],
        ["quick ones", &latency(report.quick)],
        ["slow ones", &latency(report.slow)],
        ["connection", &format!("broke {} times, longest pause between status reports {:.1} s", report.disconnects, report.longest_pause)],
    ];
    table(&rows.map(|row| row.map(str::to_owned).to_vec()))
}

fn plan(arguments: &BenchArgs) -> Result<Plan, CliError> {
    let process = |pid: Option<u32>| pid.map(Process::new).transpose().map_err(bench::BenchError::from);
    Ok(Plan {
        guests: arguments.guests,
        keep: arguments.keep,
        running: arguments.running,
        parallel: arguments.parallel.into(),
        change_parallel: arguments.change_parallel.into(),
        duration: arguments.duration,
        idle: arguments.idle,
        cell_process: process(arguments.cell_pid)?,
        libvirtd_process: process(arguments.libvirtd_pid)?,
    })
}

fn text(report: &Report, other: Option<&Report>) -> String {
    let mut text = format!("{} with {} guests", report.cell, report.guests);
    if let Some(other) = other {
        text.push_str(&format!("; in parentheses: how many times the figure of {} with {} guests", other.cell, other.guests));
    }
    for rows in [report.rows(other), report.process_rows(other)] {
        text.push_str("\n\n");
        text.push_str(&table(&rows));
    }
    text
}

fn read(path: &Path) -> Result<Report, CliError> {
    let bytes = std::fs::read(path).map_err(|source| CliError::File { verb: "read", path: path.into(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| CliError::NoFigures { path: path.into(), source })
}

fn write(path: &Path, report: &Report) -> Result<(), CliError> {
    let failed = |source| CliError::File { verb: "write", path: path.into(), source };
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(error.into()))?;
    std::fs::write(path, text + "\n").map_err(failed)
}
