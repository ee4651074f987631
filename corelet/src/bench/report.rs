//! The figures, as a table and beside those of another run.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::stats::Summary;

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What was asked.
    pub name: String,
    /// Requests in flight.
    pub parallel: usize,
    /// Requests without a successful answer; they count nowhere else.
    pub failures: u64,
    /// How long the phase took.
    pub seconds: f64,
    /// Answers per second.
    pub rate: f64,
    /// From request to answer.
    pub latency: Summary,
    /// CPU time of the Cell per answer, where its pid is known.
    pub cpu_ms_per_request: Option<f64>,
    /// CPU time of the bench itself per answer. Where answers a second times this comes near one CPU, the bench is what limits the rate.
    #[serde(default)]
    pub own_cpu_ms_per_request: f64,
}

/// CPU use without any requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Of which process.
    pub process: String,
    /// How long.
    pub seconds: f64,
    /// Percent of one CPU.
    pub cpu_percent: f64,
}

/// Memory of the Cell at some moment, bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryLine {
    /// Which moment.
    pub when: String,
    /// VmRSS.
    pub resident: u64,
    /// RssAnon.
    pub anonymous: u64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The Cell.
    pub cell: String,
    /// How many guests it had.
    pub guests: usize,
    /// How many of them ran in the phase of running guests.
    pub running: usize,
    /// The phases.
    pub lines: Vec<Line>,
    /// CPU use without requests.
    pub idle: Vec<Idle>,
    /// Memory over the run.
    pub memory: Vec<MemoryLine>,
}

impl Report {
    pub(super) fn new(cell: &str, plan: &Plan) -> Self {
        Self { cell: cell.into(), guests: 0, running: plan.running, lines: Vec::new(), idle: Vec::new(), memory: Vec::new() }
    }

    /// The figures as rows of a table, the first row being the head. With another run beside, each figure is followed by
    /// how many times the other's it is.
    pub fn rows(&self, other: Option<&Report>) -> Vec<Vec<String>> {
        let head = ["PHASE", "AT ONCE", "ANSWERS/S", "P50 ms", "P99 ms", "MAX ms", "CELL CPU ms", "OWN CPU ms", "FAILED"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for line in &self.lines {
            let beside =
                other.and_then(|other| other.lines.iter().find(|beside| beside.name == line.name && beside.parallel == line.parallel));
            let figure = |value: f64, digits: usize, of: fn(&Line) -> f64| with_ratio(value, digits, beside.map(of));
            rows.push(vec![
                line.name.clone(),
                line.parallel.to_string(),
                figure(line.rate, 0, |line| line.rate),
                figure(line.latency.p50_ms, 3, |line| line.latency.p50_ms),
                figure(line.latency.p99_ms, 3, |line| line.latency.p99_ms),
                figure(line.latency.max_ms, 3, |line| line.latency.max_ms),
                line.cpu_ms_per_request
                    .map_or_else(|| "-".into(), |own| figure(own, 4, |line| line.cpu_ms_per_request.unwrap_or(f64::NAN))),
                format!("{:.4}", line.own_cpu_ms_per_request),
                line.failures.to_string(),
            ]);
        }
        rows
    }

    /// CPU use and memory as rows of a table, as [`Report::rows`]; none where no process was watched.
    pub fn process_rows(&self, other: Option<&Report>) -> Vec<Vec<String>> {
        let idle = self.idle.iter().map(|idle| {
            let beside = other.and_then(|other| other.idle.iter().find(|beside| beside.process == idle.process));
            let figure = with_ratio(idle.cpu_percent, 2, beside.map(|beside| beside.cpu_percent));
            vec![format!("CPU of {} while idle, {:.0} s", idle.process, idle.seconds), format!("{figure} %")]
        });
        let memory = self.memory.iter().flat_map(|line| {
            let beside = other.and_then(|other| other.memory.iter().find(|beside| beside.when == line.when));
            let row = |name: &str, own: u64, beside: Option<u64>| {
                vec![format!("{name} of the Cell {}", line.when), format!("{} MiB", with_ratio(mebibytes(own), 1, beside.map(mebibytes)))]
            };
            [
                row("VmRSS", line.resident, beside.map(|beside| beside.resident)),
                row("RssAnon", line.anonymous, beside.map(|beside| beside.anonymous)),
            ]
        });
        idle.chain(memory).collect()
    }
}

#[allow(clippy::cast_precision_loss)] // shown with one digit
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `12.3`, or `12.3 (x0.51)` beside another figure.
fn with_ratio(value: f64, digits: usize, other: Option<f64>) -> String {
    match other.map(|other| value / other).filter(|ratio| ratio.is_finite()) {
        Some(ratio) => format!("{value:.digits$} (x{ratio:.2})"),
        None => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests;
