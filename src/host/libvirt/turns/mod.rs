//! One operation at a time for each guest.
//!
//! Contract: operations of one guest follow each other; those of different guests do not know of each other. An operation that is past its
//! deadline and has not come back (its QEMU hangs) makes later ones fail at once, instead of letting each of them wait for nothing.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout_at, Instant};

use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestId;

/// The guests that have an operation under way or waiting. A guest without one takes no room.
#[derive(Default)]
pub(super) struct Turns {
    places: Mutex<HashMap<GuestId, Arc<Place>>>,
}

struct Place {
    gate: Arc<Semaphore>,
    current: Mutex<Option<Current>>,
}

/// The operation under way.
#[derive(Clone)]
struct Current {
    what: String,
    started: Instant,
    deadline: Instant,
}

/// The right to operate on a guest, until it is dropped.
pub(super) struct Turn {
    // Dropped in this order: whoever waits is let in before the place may be forgotten.
    _permit: OwnedSemaphorePermit,
    seat: Seat,
}

/// A reference to a guest's place that is counted.
struct Seat {
    turns: Arc<Turns>,
    id: GuestId,
    place: Arc<Place>,
}

impl Turns {
    /// Waits for the guest's turn, at longest until the deadline, by which the operation `what` wants to be done itself.
    pub(super) async fn take(self: &Arc<Self>, id: GuestId, what: &str, deadline: Instant) -> Result<Turn> {
        let seat = self.seat(id);
        if let Some(current) = seat.place.current().filter(|current| current.deadline < Instant::now()) {
            return Err(busy(what, &current));
        }
        let Ok(Ok(permit)) = timeout_at(deadline, seat.place.gate.clone().acquire_owned()).await else {
            return Err(seat.place.current().map_or_else(
                || HostError::new(ErrorKind::Busy, format!("{what}: other operations on this guest came first; try again")),
                |current| busy(what, &current),
            ));
        };
        *seat.place.current.lock() = Some(Current { what: what.to_owned(), started: Instant::now(), deadline });
        Ok(Turn { _permit: permit, seat })
    }

    fn seat(self: &Arc<Self>, id: GuestId) -> Seat {
        let place = self.places.lock().entry(id).or_insert_with(Place::new).clone();
        Seat { turns: self.clone(), id, place }
    }
}

impl Place {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Arc::new(Semaphore::new(1)), current: Mutex::new(None) })
    }

    fn current(&self) -> Option<Current> {
        self.current.lock().clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.seat.place.current.lock() = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.turns.places.lock();
        // References are added under this lock only: the map's and ours are the last two.
        if Arc::strong_count(&self.place) <= 2 {
            places.remove(&self.id);
        }
    }
}

fn busy(what: &str, current: &Current) -> HostError {
    let seconds = current.started.elapsed().as_secs();
    let Current { what: other, .. } = current;
    HostError::new(ErrorKind::Busy, format!("{what}: '{other}' has been under way for {seconds} s; if the guest hangs, force it to stop"))
}

#[cfg(test)]
mod tests;
