//! Ends of guests that the Core may not have heard of, because no link carried the event.
//!
//! Contract: a guest that was never finished, or that was deleted, lives on in the Core's books until an event says otherwise (contract §6.2), and
//! keeps its name and addresses from others; the report of all guests does not help one that is not created yet. So these events are kept from a
//! while before a link is lost until there is another, and those of changes that a crash has left as well. They are told first thing on the new link, and the
//! report of all guests follows at a distance ([`Missed::lead`]): behind it the Core miscounts the cell's stopped guests. A Core
//! that knows a guest's end already only logs that there is no such guest.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep_until, Instant};

use super::Outbox;
use crate::model::GuestId;
use crate::proto::message::{Key, Message, MessageId};

/// What was sent for so long before a link was found to be dead may have been lost with it.
const DOUBT: Duration = Duration::from_secs(60);

/// Distance between these events and the report: a Core takes in messages every 100 ms and works on each in a task of its own.
const LEAD: Duration = Duration::from_millis(300);

/// Events that are kept; beyond that the oldest goes.
const KEPT: usize = 1024;

/// A guest was deleted.
pub(in crate::txn) fn deleted(id: GuestId) -> Message {
    Message::new(MessageId::GUEST_DELETED_EVENT).string(Key::Instance, id.to_string())
}

/// A guest is not going to be finished. The Core shows the reason to whoever wanted it.
pub(in crate::txn) fn not_created(id: GuestId, reason: &str) -> Message {
    Message::new(MessageId::GUEST_UPDATED_EVENT).failed(reason).string(Key::Instance, id.to_string())
}

/// A guest whose creation broke off, by a crash or because another version of the service left it unfinished, was removed.
pub(in crate::txn) fn broken_off(id: GuestId) -> Message {
    not_created(id, "its creation broke off, and was taken back")
}

/// The events, oldest first.
#[derive(Default)]
pub struct Missed(Mutex<State>);

#[derive(Default)]
struct State {
    events: VecDeque<(Instant, Message)>,
    told: Option<Instant>,
}

impl Missed {
    /// Keeps an event, whether it is being sent or can't be; it takes the place of an earlier one of the same guest.
    pub(in crate::txn) fn keep(&self, event: Message) {
        let events = &mut self.0.lock().events;
        events.retain(|(_, other)| other.string_params.get(&Key::Instance) != event.string_params.get(&Key::Instance));
        events.push_back((Instant::now(), event));
        if events.len() > KEPT {
            events.pop_front();
        }
    }

    /// The link is gone.
    pub(in crate::txn) fn left(&self) {
        self.0.lock().events.retain(|(at, _)| at.elapsed() < DOUBT);
    }

    /// There is a new link.
    pub(in crate::txn) fn joined(&self, outbox: &dyn Outbox) {
        let mut state = self.0.lock();
        let now = Instant::now();
        for (at, event) in &mut state.events {
            *at = now;
            outbox.send(None, event.clone());
        }
        state.told = (!state.events.is_empty()).then_some(now);
    }

    /// Waits until what was told has a lead.
    pub(in crate::txn) async fn lead(&self) {
        let told = self.0.lock().told.take();
        if let Some(told) = told {
            sleep_until(told + LEAD).await;
        }
    }
}

#[cfg(test)]
mod tests;
