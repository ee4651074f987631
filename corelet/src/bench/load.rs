//! Asking again and again, one request at a time or many.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use cell::model::GuestId;
use cell::proto::message::Message;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::process::{Process, ProcessError};
use super::report::Line;
use super::stats::Summary;
use super::{BenchError, Plan};
use crate::core::Core;
use crate::error::RequestError;

/// What is asked, of whom and about which guests in turn.
pub(super) struct Target<'a> {
    pub(super) core: &'a Core,
    pub(super) cell: &'a str,
    pub(super) guests: &'a [GuestId],
    pub(super) build: fn(GuestId) -> Message,
}

/// What came of a phase.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    failures: u64,
    last_failure: Option<RequestError>,
}

/// Asks for the plan's duration with so many requests in flight.
pub(super) async fn run(target: &Target<'_>, name: &str, parallel: usize, plan: &Plan) -> Result<Line, BenchError> {
    warm_up(target).await;
    let tally = RefCell::new(Tally::default());
    let turn = Cell::new(0_usize);
    let meter = Meter::start(plan.cell_process.as_ref())?;
    let end = meter.start + plan.duration;
    let worker = || async {
        while Instant::now() < end {
            let index = turn.replace(turn.get().wrapping_add(1)).checked_rem(target.guests.len());
            let Some(guest) = index.and_then(|index| target.guests.get(index)) else { return };
            ask(target, *guest, &tally).await;
        }
    };
    let mut workers: FuturesUnordered<_> = (0..parallel).map(|_| worker()).collect();
    while workers.next().await.is_some() {}
    drop(workers);
    let tally = tally.into_inner();
    meter.line(name, parallel, tally.latencies, tally.failures)?.ok_or_else(|| match tally.last_failure {
        Some(source) => BenchError::NoAnswer { phase: name.into(), source },
        None => BenchError::NoGuests,
    })
}

/// A first request that does not count: caches on both sides are filled and the round trip is known.
async fn warm_up(target: &Target<'_>) {
    if let Some(guest) = target.guests.first() {
        let _ = target.core.request(target.cell, (target.build)(*guest)).await; // if it fails, the others will tell
    }
}

async fn ask(target: &Target<'_>, guest: GuestId, tally: &RefCell<Tally>) {
    let request = (target.build)(guest);
    let start = Instant::now();
    let outcome = target.core.request(target.cell, request).await;
    let latency = start.elapsed();
    let mut tally = tally.borrow_mut();
    match outcome {
        Ok(_) => tally.latencies.push(latency),
        Err(error) => {
            tally.failures += 1;
            tally.last_failure = Some(error);
        }
    }
}

/// Takes the time, the Cell's CPU time and our own.
pub(super) struct Meter<'a> {
    process: Option<&'a Process>,
    own: Process,
    cpu: Duration,
    own_cpu: Duration,
    start: Instant,
}

impl<'a> Meter<'a> {
    pub(super) fn start(process: Option<&'a Process>) -> Result<Self, ProcessError> {
        let cpu = process.map(Process::cpu_time).transpose()?.unwrap_or_default();
        let own = Process::new(std::process::id())?;
        let own_cpu = own.cpu_time()?;
        Ok(Self { process, own, cpu, own_cpu, start: Instant::now() })
    }

    /// The line of the report; `None` when nothing succeeded.
    pub(super) fn line(
        self,
        name: &str,
        parallel: usize,
        mut latencies: Vec<Duration>,
        failures: u64,
    ) -> Result<Option<Line>, ProcessError> {
        let seconds = self.start.elapsed().as_secs_f64();
        let cpu = self.process.map(Process::cpu_time).transpose()?.map(|cpu| cpu.saturating_sub(self.cpu));
        let own_cpu = self.own.cpu_time()?.saturating_sub(self.own_cpu);
        let Some(summary) = Summary::of(&mut latencies) else { return Ok(None) };
        #[allow(clippy::cast_precision_loss)] // a rate needs no more than 53 bits
        let count = summary.count as f64;
        Ok(Some(Line {
            name: name.into(),
            parallel,
            failures,
            seconds,
            rate: count / seconds,
            latency: summary,
            cpu_ms_per_request: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0 / count),
            own_cpu_ms_per_request: own_cpu.as_secs_f64() * 1000.0 / count,
        }))
    }
}
