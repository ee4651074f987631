//! Many requests in a short time, some of them to guests that hang: is each answered in time, and does the connection live on?

use std::time::{Duration, Instant};

use cell::model::GuestId;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use tokio::time::{interval, MissedTickBehavior};

use super::stats::Summary;
use crate::core::Core;
use crate::error::RequestError;
use crate::events::{Event, Events};
use crate::requests::{self, StopMode};

/// Requests go out in this rhythm.
const PACE: Duration = Duration::from_millis(10);

/// What to send.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Requests in all.
    pub requests: usize,
    /// In which time they are sent.
    pub within: Duration,
    /// How many of them go to guests that hang.
    pub slow: usize,
    /// Running guests that hang; each of their requests is a reset.
    pub stuck: Vec<GuestId>,
    /// Guests that the others ask about.
    pub others: Vec<GuestId>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StormReport {
    /// Requests sent.
    pub requests: usize,
    /// How long that took, seconds.
    pub sent_in: f64,
    /// Answers that were a success.
    pub successes: usize,
    /// Answers that were a failure.
    pub failures: usize,
    /// Requests without an answer.
    pub unanswered: usize,
    /// Why the last of them had none.
    pub last_reason: Option<String>,
    /// Latency of requests to guests that do not hang.
    pub quick: Option<Summary>,
    /// Latency of requests to guests that hang.
    pub slow: Option<Summary>,
    /// How often the Cell was lost or left meanwhile.
    pub disconnects: usize,
    /// The longest pause between two status reports of the Cell, seconds; they are due every 2 s.
    pub longest_pause: f64,
}

/// Sends them all and waits for every answer.
pub async fn storm(core: &Core, cell: &str, plan: &Storm) -> StormReport {
    let mut events = core.events();
    let mut report = StormReport { requests: plan.requests, ..StormReport::default() };
    let (mut quick, mut slow) = (Vec::new(), Vec::new());
    let mut under_way = FuturesUnordered::new();
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (begin, mut sent) = (Instant::now(), 0);
    while sent < plan.requests || !under_way.is_empty() {
        tokio::select! {
            _ = ticks.tick(), if sent < plan.requests => {
                let due = due(begin.elapsed(), plan);
                for number in sent..due {
                    under_way.push(ask(core, cell, plan, number));
                }
                sent = due;
                report.sent_in = begin.elapsed().as_secs_f64();
            }
            Some((is_slow, latency, outcome)) = under_way.next() => {
                match outcome {
                    Ok(true) => report.successes += 1,
                    Ok(false) => report.failures += 1,
                    Err(error) => {
                        report.unanswered += 1;
                        report.last_reason = Some(error.to_string());
                        continue;
                    }
                }
                if is_slow { &mut slow } else { &mut quick }.push(latency);
            }
        }
    }
    (report.quick, report.slow) = (Summary::of(&mut quick), Summary::of(&mut slow));
    take_stock(&mut events, &mut report);
    report
}

/// How many requests have to be out by now.
fn due(elapsed: Duration, plan: &Storm) -> usize {
    let share = elapsed.as_millis().saturating_mul(u128::try_from(plan.requests).unwrap_or(u128::MAX)) / plan.within.as_millis().max(1);
    usize::try_from(share).unwrap_or(usize::MAX).clamp(1, plan.requests)
}

/// True where request `number` is one of the slow ones, which are spread evenly.
fn is_slow(number: usize, plan: &Storm) -> bool {
    let before = |number: usize| number * plan.slow / plan.requests.max(1);
    before(number + 1) > before(number)
}

async fn ask(core: &Core, cell: &str, plan: &Storm, number: usize) -> (bool, Duration, Result<bool, RequestError>) {
    let turn = |guests: &[GuestId]| number.checked_rem(guests.len()).and_then(|at| guests.get(at)).copied();
    let stuck = turn(&plan.stuck).filter(|_| is_slow(number, plan));
    let message = match (stuck, turn(&plan.others)) {
        (Some(guest), _) => requests::stop_guest(guest, StopMode::Reset),
        (None, Some(guest)) if number % 2 == 0 => requests::get_guest(guest),
        (None, Some(guest)) => requests::get_status(guest),
        (None, None) => requests::query_storage(cell),
    };
    let begin = Instant::now();
    let outcome = core.exchange(cell, message).await;
    (stuck.is_some(), begin.elapsed(), outcome.map(|answer| answer.success))
}

/// Looks through what the Core saw meanwhile.
fn take_stock(events: &mut Events, report: &mut StormReport) {
    let mut last = None;
    while let Some(recorded) = events.try_next() {
        match recorded.event {
            Event::CellLost { .. } | Event::CellLeft { .. } => report.disconnects += 1,
            Event::StatusReport { .. } => {
                let pause = last.map_or(Duration::ZERO, |last| recorded.at.saturating_sub(last));
                report.longest_pause = report.longest_pause.max(pause.as_secs_f64());
                last = Some(recorded.at);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_ones_are_spread_evenly_and_all_are_sent() {
        let plan = Storm { requests: 5000, within: Duration::from_secs(1), slow: 1024, stuck: Vec::new(), others: Vec::new() };
        assert_eq!((0..5000).filter(|number| is_slow(*number, &plan)).count(), 1024);
        assert_eq!((0..500).filter(|number| is_slow(*number, &plan)).count(), 102);
        assert_eq!(due(Duration::from_millis(500), &plan), 2500);
        assert_eq!(due(Duration::from_secs(7), &plan), 5000);
    }
}
