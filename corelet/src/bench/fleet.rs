//! The guests of a bench: those that the Cell has, and those that are made for it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use cell::model::GuestId;
use futures_util::stream::{self, StreamExt};

use super::load::Meter;
use super::process::Process;
use super::report::Line;
use super::BenchError;
use crate::core::Core;
use crate::guest::Guest;
use crate::requests::{CreateGuest, StopMode};

/// Group of the guests that are made for the bench.
const GROUP: &str = "corelet-bench";
/// Disk of such a guest: enough to be one.
const DISK: u64 = 1 << 20;
/// Memory of such a guest.
const MEMORY: u64 = 32 << 20;
/// How long a guest may take to do what its Cell answered that it will.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a guest may be in the making that is to be deleted.
const SETTLING: Duration = Duration::from_secs(10);

pub(super) struct Fleet<'a> {
    core: &'a Core,
    cell: &'a str,
    made: RefCell<Vec<GuestId>>,
    /// Guests of ours that run; a bench that failed must stop them before they can go.
    running: RefCell<Vec<GuestId>>,
}

/// Latencies and the first failure of many changes.
struct Changes {
    latencies: Vec<Duration>,
    failure: Option<BenchError>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(core: &'a Core, cell: &'a str) -> Self {
        Self { core, cell, made: RefCell::default(), running: RefCell::default() }
    }

    /// Every guest of the Cell.
    pub(super) fn all(&self) -> Vec<GuestId> {
        self.guests(|_| true)
    }

    /// Those that do not run.
    pub(super) fn stopped(&self) -> Vec<GuestId> {
        self.guests(|guest| !guest.running)
    }

    fn guests(&self, fits: impl Fn(&Guest) -> bool) -> Vec<GuestId> {
        let cell = self.core.cell(self.cell);
        cell.map(|cell| cell.guests.values().filter(|guest| fits(guest)).map(|guest| guest.id).collect()).unwrap_or_default()
    }

    /// Creates guests until there are so many; `None` when there were enough.
    pub(super) async fn complete(&self, wanted: usize, parallel: usize, process: Option<&Process>) -> Result<Option<Line>, BenchError> {
        let missing = wanted.saturating_sub(self.all().len());
        if missing == 0 {
            return Ok(None);
        }
        let meter = Meter::start(process)?;
        let run = std::process::id();
        let names = (0..missing).map(|number| format!("{GROUP}.g{run}-{number:04}"));
        let changes = changes(names, parallel, |name| self.create(name)).await;
        if let Some(failure) = changes.failure {
            return Err(failure);
        }
        Ok(meter.line("create blank guest", parallel, changes.latencies, 0)?)
    }

    async fn create(&self, name: String) -> Result<Duration, BenchError> {
        let request = CreateGuest { memory: MEMORY, ..CreateGuest::blank(&name, DISK) };
        let mut events = self.core.events();
        let start = Instant::now();
        self.made.borrow_mut().push(request.id);
        self.core.create(self.cell, &request).await.map_err(BenchError::Guests)?;
        let latency = start.elapsed();
        let confirmed = events.wait(PATIENCE, |event| event.is_created(request.id)).await;
        confirmed.map_err(|source| BenchError::Unconfirmed { what: format!("the creation of {name}"), source })?;
        Ok(latency)
    }

    /// Starts some of the guests that were made for the bench; where none were, it gives those that run anyway.
    pub(super) async fn start(&self, count: usize) -> Result<Vec<GuestId>, BenchError> {
        let chosen: Vec<GuestId> = self.made.borrow().iter().take(count).copied().collect();
        if chosen.is_empty() {
            return Ok(self.guests(|guest| guest.running));
        }
        for guest in &chosen {
            let mut events = self.core.events();
            self.core.start_guest(self.cell, *guest).await.map_err(BenchError::Guests)?;
            self.running.borrow_mut().push(*guest);
            let started = events.wait(PATIENCE, |event| event.is_started(*guest)).await;
            started.map_err(|source| BenchError::Unconfirmed { what: format!("the start of guest {guest}"), source })?;
        }
        Ok(chosen)
    }

    /// Stops those guests of ours that run.
    pub(super) async fn stop(&self) -> Result<(), BenchError> {
        let running = self.running.take();
        for guest in running {
            let mut events = self.core.events();
            self.core.stop_guest(self.cell, guest, StopMode::Force).await.map_err(BenchError::Guests)?;
            let stopped = events.wait(PATIENCE, |event| event.is_stopped(guest)).await;
            stopped.map_err(|source| BenchError::Unconfirmed { what: format!("the stop of guest {guest}"), source })?;
        }
        Ok(())
    }

    /// Removes the guests that were made; `None` when none were.
    pub(super) async fn remove(&self, parallel: usize, process: Option<&Process>) -> Result<Option<Line>, BenchError> {
        self.stop().await?;
        let known = self.all();
        let made: Vec<GuestId> = self.made.take().into_iter().filter(|guest| known.contains(guest)).collect(); // some may have failed
        let meter = Meter::start(process)?;
        let changes = changes(made, parallel, |guest| self.delete(guest)).await;
        match changes.failure {
            Some(failure) => Err(failure),
            None => Ok(meter.line("delete guest", parallel, changes.latencies, 0)?),
        }
    }

    async fn delete(&self, guest: GuestId) -> Result<Duration, BenchError> {
        let mut events = self.core.events();
        if self.core.guest(self.cell, guest).is_some_and(|guest| !guest.created) {
            let _ = events.wait(SETTLING, |event| event.is_created(guest)).await;
            // called off in the middle; else the deletion tells
        }
        let start = Instant::now();
        self.core.delete_guest(self.cell, guest).await.map_err(BenchError::Guests)?;
        let latency = start.elapsed();
        let deleted = events.wait(PATIENCE, |event| event.is_deleted(guest)).await;
        deleted.map_err(|source| BenchError::Unconfirmed { what: format!("the deletion of guest {guest}"), source })?;
        Ok(latency)
    }
}

/// Carries out a change for each item, some at a time, all of them also when one fails.
async fn changes<T, F>(items: impl IntoIterator<Item = T>, parallel: usize, change: impl Fn(T) -> F) -> Changes
where
    F: std::future::Future<Output = Result<Duration, BenchError>>,
{
    let mut outcomes = stream::iter(items).map(change).buffer_unordered(parallel.max(1));
    let mut changes = Changes { latencies: Vec::new(), failure: None };
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(latency) => changes.latencies.push(latency),
            Err(failure) => changes.failure = changes.failure.or(Some(failure)),
        }
    }
    changes
}
