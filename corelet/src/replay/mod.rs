//! A captured Core's requests, sent again to a live Cell, and the answers compared by meaning.
//!
//! Contract: requests go in the order of the capture, each after the answer and the events that followed the one before. Guests that the capture creates
//! get ids and names of their own; requests about any other guest, and those that need the capture's image server, are skipped and named. Answers are
//! compared by id, success, keys of each map (which are also the types) and lengths of lists; values differ from host to host. What differs on
//! purpose is listed in [`DELIBERATE`].

mod capture;
mod compare;
mod mapping;
#[cfg(test)]
mod tests;

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

/// Replays a capture against a Cell that has joined; `tell` gets each result at once. `skip` names requests that are not to be sent.
///
/// Guests that are left over are removed, and the Cell is told of our own pool again, also when `stop` calls it off.
pub async fn run(
    core: &Core,
    cell: &str,
    steps: &[Step],
    skip: &[MessageId],
    stop: &CancellationToken,
    tell: &mut dyn FnMut(&Replayed),
) -> Vec<Replayed> {
    let mut mapping = Mapping::new(cell);
    let mut results = Vec::new();
    for step in steps {
        let translated = match skip.contains(&step.request.id) {
            true => Err("left out on request".into()),
            false => mapping.translate(&step.request),
        };
        let outcome = match translated {
            Err(reason) => Outcome::Skipped { reason },
            Ok(request) => match stop.run_until_cancelled(repeat(core, cell, step, request, &mapping)).await {
                Some(outcome) => outcome,
                None => break,
            },
        };
        let request = step.request.id.name().map_or_else(|| step.request.id.to_string(), str::to_owned);
        let result = Replayed { t: step.t, request, outcome };
        tell(&result);
        results.push(result);
    }
    clean_up(core, cell, &mapping).await;
    results
}

/// Sends one request again and compares what comes.
async fn repeat(core: &Core, cell: &str, step: &Step, request: Message, mapping: &Mapping) -> Outcome {
    let events = core.events();
    let Some(expected) = &step.answer else {
        return match core.send(cell, request) {
            Ok(()) => Outcome::Equal,
            Err(error) => Outcome::Different { differences: vec![error.to_string()] },
        };
    };
    let sent = request.id;
    let mut comparison = match core.exchange(cell, request).await {
        Ok(answer) if !answer.success && answer.error.contains(UNSUPPORTED) => return Outcome::Unsupported { reason: answer.error },
        Ok(answer) => compare::answers(sent, expected, &answer),
        Err(error) => compare::Comparison::failed(error.to_string()),
    };
    if comparison.differences.is_empty() {
        for event in &step.events {
            if let Err(difference) = await_event(&events, event, mapping).await {
                comparison.differences.push(difference);
            }
        }
    }
    comparison.outcome()
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
