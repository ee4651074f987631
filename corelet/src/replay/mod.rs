//! A captured Core's requests, sent again to a live Cell, and the answers compared by meaning.
//!
//! Contract: before the first request the live Cell gets guests equal to those that the capture's Cell had, as its list says, and an image on the image server that
//! stands for the capture's. Requests go in the order of the capture, each after the answer and the events that followed the one before. Guests
//! get ids and names of their own; what can't be sent is skipped and named. Answers are compared by id, success, keys of each map (which are also the
//! types), lengths of lists, and values; those that differ from host to host do not count: ports, MACs, times, secrets, addresses that were seen,
//! figures, paths. What differs on purpose is listed in [`DELIBERATE`].

mod capture;
mod compare;
mod guests;
mod mapping;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use capture::{parse, CaptureError, Step};
pub use compare::{Deliberate, DELIBERATE};

use crate::core::Core;
use crate::error::RequestError;
use crate::events::{Event, Events};
use crate::requests::{self, StopMode};
use mapping::Mapping;

/// How long an event may take that followed in the capture.
const EVENT_PATIENCE: Duration = Duration::from_secs(70);
/// How a Cell of ours says that it has no handler for a request.
const UNSUPPORTED: &str = "is not supported by this cell";

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Equal in meaning.
    Equal,
    /// Different in the ways that are meant to be.
    Deliberate {
        /// The reasons, from [`DELIBERATE`].
        reasons: Vec<String>,
    },
    /// Different.
    Different {
        /// In which ways.
        differences: Vec<String>,
    },
    /// The Cell says that it does not know this request yet.
    Unsupported {
        /// In its own words.
        reason: String,
    },
    /// Not sent.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// One request of the capture and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replayed {
    /// When it was sent in the capture, seconds.
    pub t: f64,
    /// Name of the request.
    pub request: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a capture is replayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Requests that are not to be sent.
    pub skip: &'a [MessageId],
    /// An image server that takes uploads; without one requests about images are skipped.
    pub images: Option<SocketAddr>,
    /// The Cell gets guests equal to those that the capture's Cell had before; without them lists of guests are compared by their form.
    pub equal_guests: bool,
}

/// Replays a capture against a Cell that has joined; `tell` gets each result at once.
///
/// Guests that are left over are removed, and the Cell is told of our own pool again, also when `stop` calls it off.
pub async fn run(
    core: &Core,
    cell: &str,
    steps: &[Step],
    options: Options<'_>,
    stop: &CancellationToken,
    tell: &mut dyn FnMut(&Replayed),
) -> Vec<Replayed> {
    let others = core.cell(cell).map(|cell| cell.guests.keys().copied().collect()).unwrap_or_default();
    let mut replay = Replay { core, cell, mapping: Mapping::new(cell), others, options };
    let mut results = Vec::new();
    let mut told = |result: Replayed| {
        tell(&result);
        results.push(result);
    };
    if let Some(Err(reason)) = stop.run_until_cancelled(replay.prepare(steps)).await {
        told(Replayed { t: 0.0, request: "preparation".into(), outcome: Outcome::Different { differences: vec![reason] } });
    }
    for step in steps {
        let Some(outcome) = stop.run_until_cancelled(replay.step(step)).await else { break };
        let request = step.request.id.name().map_or_else(|| step.request.id.to_string(), str::to_owned);
        told(Replayed { t: step.t, request, outcome });
    }
    clean_up(core, cell, &replay.mapping).await;
    results
}

/// A replay under way.
struct Replay<'a> {
    core: &'a Core,
    cell: &'a str,
    mapping: Mapping,
    /// Guests that were there before.
    others: Vec<GuestId>,
    options: Options<'a>,
}

impl Replay<'_> {
    /// Makes the live Cell as the capture's was.
    async fn prepare(&mut self, steps: &[Step]) -> Result<(), String> {
        if let Some(server) = self.options.images {
            let about_images = |step: &&Step| mapping::about_images(&step.request);
            if steps.iter().any(|step| about_images(&step)) {
                let image = guests::make_image(self.core, self.cell, server, &self.mapping).await;
                self.mapping.use_image(image.map_err(|reason| format!("no image could be made: {reason}"))?);
            }
        }
        let list = steps.iter().filter_map(|step| step.answer.as_ref()).find(|answer| answer.id == MessageId::COMPUTE_CELL_READY_EVENT);
        match list.filter(|list| self.options.equal_guests && list.success) {
            Some(list) => guests::make_equal(self.core, self.cell, list, &mut self.mapping)
                .await
                .map_err(|reason| format!("no equal guests could be made: {reason}")),
            None => Ok(()),
        }
    }

    async fn step(&mut self, step: &Step) -> Outcome {
        if self.options.skip.contains(&step.request.id) {
            return Outcome::Skipped { reason: "left out on request".into() };
        }
        match self.mapping.translate(&step.request) {
            Err(reason) => Outcome::Skipped { reason },
            Ok(request) if request.id == MessageId::CREATE_DISK_IMAGE_REQUEST => self.upload(step, &request).await,
            Ok(request) => self.repeat(step, request).await,
        }
    }

    /// Sends one request again and compares what comes.
    async fn repeat(&self, step: &Step, request: Message) -> Outcome {
        let (core, cell) = (self.core, self.cell);
        let events = core.events();
        let Some(captured) = &step.answer else {
            return match core.send(cell, request) {
                Ok(()) => Outcome::Equal,
                Err(error) => Outcome::Different { differences: vec![error.to_string()] },
            };
        };
        let sent = request.id;
        let mut comparison = match core.exchange(cell, request).await {
            Ok(answer) if !answer.success && answer.error.contains(UNSUPPORTED) => return Outcome::Unsupported { reason: answer.error },
            Ok(answer) => self.compare(sent, captured, &answer),
            Err(error) => compare::Comparison::failed(error.to_string()),
        };
        if comparison.differences.is_empty() {
            for event in &step.events {
                if let Err(difference) = await_event(&events, event, &self.mapping).await {
                    comparison.differences.push(difference);
                }
            }
        }
        comparison.outcome()
    }

    fn compare(&self, sent: MessageId, captured: &Message, answer: &Message) -> compare::Comparison {
        let mut comparison = compare::answers(sent, &self.mapping.expect(captured), answer);
        let lists = self.options.equal_guests && captured.id == MessageId::COMPUTE_CELL_READY_EVENT && captured.success && answer.success;
        if lists && comparison.differences.is_empty() {
            comparison.differences = guests::compare(captured, answer, &self.mapping, &self.others);
        }
        comparison
    }

    /// An upload is told by further messages of the same session.
    async fn upload(&self, step: &Step, request: &Message) -> Outcome {
        let text = |key| request.string_params.get(&key).cloned().unwrap_or_default();
        let (Ok(guest), Some(server)) = (text(Key::Guest).parse(), self.options.images) else {
            return Outcome::Skipped { reason: "it names no guest".into() };
        };
        let image = requests::ImageSource { id: text(Key::Image), host: text(Key::Host), port: server.port(), size: 0 };
        let finished = step.updates.last().is_some_and(|last| last.success && last.bool_params.get(&Key::Enable) == Some(&true));
        match (self.core.create_disk_image(self.cell, guest, &image, |_| {}).await, finished) {
            (Ok(_), true) => Outcome::Equal,
            (Ok(size), false) => {
                Outcome::Different { differences: vec![format!("it succeeded with {size} bytes; in the capture it failed")] }
            }
            (Err(error), true) => Outcome::Different { differences: vec![format!("it failed: {error}")] },
            (Err(_), false) => Outcome::Equal,
        }
    }
}

/// Waits for an event that followed in the capture. Events of the captured step may come in any order.
async fn await_event(events: &Events, expected: &Message, mapping: &Mapping) -> Result<(), String> {
    let captured = expected.string_params.get(&Key::Instance).or_else(|| expected.string_params.get(&Key::Guest));
    let Some(guest) = captured.and_then(|id| mapping.guest(id)) else { return Ok(()) }; // about a guest that is none of ours
    let mut from_here = events.clone();
    let found = from_here.wait(EVENT_PATIENCE, |event| is_same(event, expected.id, guest)).await;
    found.map(drop).map_err(|_| format!("no {} followed", expected.id))
}

fn is_same(event: &Event, id: MessageId, guest: GuestId) -> bool {
    let same = match id {
        MessageId::GUEST_CREATED_EVENT => matches!(event, Event::GuestCreated { .. }),
        MessageId::GUEST_STARTED_EVENT => matches!(event, Event::GuestStarted { .. }),
        MessageId::GUEST_STOPPED_EVENT => matches!(event, Event::GuestStopped { .. }),
        MessageId::GUEST_DELETED_EVENT => matches!(event, Event::GuestDeleted { .. }),
        MessageId::GUEST_UPDATED_EVENT => matches!(event, Event::GuestProgress { .. } | Event::GuestCreated { .. }),
        MessageId::SYSTEM_RESET_EVENT => matches!(event, Event::SystemReset { failure: None, .. }),
        MessageId::MEDIA_ATTACHED_EVENT => matches!(event, Event::MediaAttached { .. }),
        MessageId::MEDIA_DETACHED_EVENT => matches!(event, Event::MediaDetached { .. }),
        MessageId::ADDRESS_CHANGED_EVENT => matches!(event, Event::GuestAddress { .. }),
        _ => false,
    };
    same && event.guest() == Some(guest)
}

async fn clean_up(core: &Core, cell: &str, mapping: &Mapping) {
    for guest in mapping.guests() {
        if core.guest(cell, guest).is_some_and(|guest| guest.running) {
            let mut events = core.events();
            if core.stop_guest(cell, guest, StopMode::Force).await.is_ok() {
                let _ = events.wait(EVENT_PATIENCE, |event| event.is_stopped(guest)).await;
                // the deletion will tell
            }
        }
        if core.guest(cell, guest).is_some() {
            if let Err(error) = core.delete_guest(cell, guest).await {
                tracing::warn!("guest {guest} of the replay is left over: {error}");
            }
        }
    }
    let pool = requests::pool_ready(&core.config().pool, true);
    if let Err(error @ (RequestError::Timeout { .. } | RequestError::Gone { .. })) = core.exchange(cell, pool).await {
        tracing::warn!("the Cell was not told of its own pool again: {error}");
    }
}
