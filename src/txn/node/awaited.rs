//! Guests that may be about to come here: the Core was told that they can, and their host has not let go of them yet.
//!
//! Contract: so long as a guest is awaited nobody may conclude that it does not come. Each wait ends after [`PATIENCE`]. One that was begun by a service that
//! has died goes on with the next one, from the beginning: nobody knows how long it has been.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::GuestId;

/// How long the Core may take to detach guests from their host and to order the migration: several times its own timeout (§14 A8).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When each wait ends.
#[derive(Default)]
pub struct Awaited(Mutex<HashMap<GuestId, Instant>>);

impl Awaited {
    /// Waits for these guests from now on; until when.
    pub fn begin(&self, guests: &[GuestId]) -> Instant {
        let until = Instant::now() + PATIENCE;
        self.0.lock().extend(guests.iter().map(|guest| (*guest, until)));
        until
    }

    /// True while the guest may still come. Asked for the first time, the wait begins.
    pub fn is(&self, guest: GuestId) -> bool {
        Instant::now() < *self.0.lock().entry(guest).or_insert_with(|| Instant::now() + PATIENCE)
    }

    /// The Core has something else in mind with these guests.
    pub fn give_up(&self, guests: &[GuestId]) {
        let now = Instant::now();
        self.0.lock().extend(guests.iter().map(|guest| (*guest, now)));
    }

    /// It is known what has become of the guest.
    pub fn forget(&self, guest: GuestId) {
        self.0.lock().remove(&guest);
    }
}
