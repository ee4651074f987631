//! How fast a Cell answers, and what that costs it.
//!
//! Contract: the figures are those of a client on this machine: latencies from the call to the answer, rates over whole phases, CPU time and memory of
//! the Cell's process from /proc. Guests that are missing are created and removed again; guests that are there are left alone.

mod fleet;
mod load;
mod plan;
mod process;
mod report;
mod stats;
mod storm;

pub use plan::Plan;
pub use process::{Memory, Process, ProcessError};
pub use report::{Idle, Line, MemoryLine, Report};
pub use stats::Summary;
pub use storm::{storm, Storm, StormReport};

use std::time::Duration;

use cell::model::GuestId;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::error::{RequestError, WaitError};
use crate::requests;
use fleet::Fleet;
use load::Target;

/// Why a bench came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A guest could not be made ready.
    #[error("cannot prepare the guests")]
    Guests(#[source] RequestError),
    /// A guest did not do in time what it was told.
    #[error("{what} was not confirmed")]
    Unconfirmed {
        /// What.
        what: String,
        /// How the waiting ended.
        #[source]
        source: WaitError,
    },
    /// The process cannot be watched.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Nothing was answered at all.
    #[error("no request of the phase '{phase}' succeeded")]
    NoAnswer {
        /// Which phase.
        phase: String,
        /// The last failure.
        #[source]
        source: RequestError,
    },
    /// It was called off.
    #[error("interrupted")]
    Interrupted,
    /// There is nothing to ask about.
    #[error("the Cell has no guests; let the bench create some with --guests")]
    NoGuests,
}

/// Runs the plan against a Cell that has joined; `progress` is told what goes on.
///
/// Guests that were made for the bench are removed also when it fails or `stop` calls it off, unless the plan keeps them.
pub async fn run(
    core: &Core,
    cell: &str,
    plan: &Plan,
    stop: &CancellationToken,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, BenchError> {
    let mut bench = Bench { core, cell, plan, report: Report::new(cell, plan), fleet: Fleet::new(core, cell) };
    let outcome = stop.run_until_cancelled(bench.measure(progress)).await.unwrap_or(Err(BenchError::Interrupted));
    if plan.keep {
        outcome?;
        return Ok(bench.report);
    }
    progress("removing the guests of the bench");
    let removed = bench.fleet.remove(plan.change_parallel, plan.cell_process.as_ref()).await;
    outcome?;
    if let Some(line) = removed? {
        bench.report.lines.push(line);
    }
    bench.memory("after removing the guests")?;
    Ok(bench.report)
}

struct Bench<'a> {
    core: &'a Core,
    cell: &'a str,
    plan: &'a Plan,
    report: Report,
    fleet: Fleet<'a>,
}

impl Bench<'_> {
    async fn measure(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), BenchError> {
        self.memory("at the start")?;
        progress(&format!("making sure of {} guests", self.plan.guests));
        if let Some(line) = self.fleet.complete(self.plan.guests, self.plan.change_parallel, self.plan.cell_process.as_ref()).await? {
            self.report.lines.push(line);
        }
        self.report.guests = self.fleet.all().len();
        if self.report.guests == 0 {
            return Err(BenchError::NoGuests);
        }
        self.idle(progress).await?;
        self.memory("with the guests, idle")?;
        let all = self.fleet.all();
        self.queries(progress, "get guest", &all, requests::get_guest).await?;
        let stopped = self.fleet.stopped();
        if !stopped.is_empty() {
            self.queries(progress, "instance status, stopped", &stopped, requests::get_status).await?;
        }
        if self.plan.running > 0 {
            progress(&format!("starting {} of the guests", self.plan.running));
            let running = self.fleet.start(self.plan.running).await?;
            if !running.is_empty() {
                self.queries(progress, "instance status, running", &running, requests::get_status).await?;
            }
            self.fleet.stop().await?;
        }
        self.memory("after the load")
    }

    /// One request at a time, then many.
    async fn queries(
        &mut self,
        progress: &mut dyn FnMut(&str),
        name: &str,
        guests: &[GuestId],
        build: fn(GuestId) -> cell::proto::message::Message,
    ) -> Result<(), BenchError> {
        for parallel in [1, self.plan.parallel] {
            progress(&format!("{name}, {parallel} at a time, {} s", self.plan.duration.as_secs_f64()));
            let target = Target { core: self.core, cell: self.cell, guests, build };
            let line = load::run(&target, name, parallel, self.plan).await?;
            self.report.lines.push(line);
        }
        Ok(())
    }

    async fn idle(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), BenchError> {
        let processes = [("Cell", &self.plan.cell_process), ("libvirtd", &self.plan.libvirtd_process)];
        let watched: Vec<(&str, &Process)> = processes.iter().filter_map(|(name, process)| Some((*name, process.as_ref()?))).collect();
        if watched.is_empty() || self.plan.idle.is_zero() {
            return Ok(());
        }
        progress(&format!("idle for {} s", self.plan.idle.as_secs_f64()));
        tokio::time::sleep(Duration::from_secs(1)).await; // what the creation left to do is no idling
        let before: Vec<Duration> = watched.iter().map(|(_, process)| process.cpu_time()).collect::<Result<_, _>>()?;
        let start = std::time::Instant::now();
        tokio::time::sleep(self.plan.idle).await;
        let elapsed = start.elapsed();
        for ((name, process), before) in watched.into_iter().zip(before) {
            let used = process.cpu_time()?.saturating_sub(before);
            let percent = used.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
            self.report.idle.push(Idle { process: name.into(), seconds: elapsed.as_secs_f64(), cpu_percent: percent });
        }
        Ok(())
    }

    fn memory(&mut self, when: &str) -> Result<(), BenchError> {
        if let Some(process) = &self.plan.cell_process {
            let Memory { resident, anonymous } = process.memory()?;
            self.report.memory.push(MemoryLine { when: when.into(), resident, anonymous });
        }
        Ok(())
    }
}
