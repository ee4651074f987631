//! Everything that happens in the domain, in order, for whoever wants to wait for it.
//!
//! Contract: every event has a number. An [`Events`] begins at the moment it is taken (or at the beginning of all) and misses nothing from there on,
//! unless it falls more than 16384 events behind; so take it *before* doing what shall be observed.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Message, MessageId};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::answers::StatusReport;
use crate::error::WaitError;

/// How many events are kept.
const KEPT: usize = 16_384;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A Cell is connected.
    CellConnected {
        /// Its name.
        cell: String,
        /// Where it is.
        address: SocketAddrV4,
    },
    /// A second connection under a connected Cell's name was taken and will not be served.
    CellSwallowed {
        /// Its name.
        cell: String,
        /// Where the second connection comes from.
        address: SocketAddrV4,
    },
    /// A Cell took its pool and listed its guests.
    CellReady {
        /// Its name.
        cell: String,
        /// How many guests it has.
        guests: usize,
    },
    /// A Cell did not take its pool.
    CellRefused {
        /// Its name.
        cell: String,
        /// Why.
        reason: String,
    },
    /// A Cell is silent.
    CellLost {
        /// Its name.
        cell: String,
    },
    /// A silent Cell is heard again.
    CellRecovered {
        /// Its name.
        cell: String,
    },
    /// A Cell is no longer connected.
    CellLeft {
        /// Its name.
        cell: String,
        /// It said so; otherwise it failed.
        graceful: bool,
        /// Why.
        reason: String,
    },
    /// A Cell's report of its host.
    StatusReport {
        /// Its name.
        cell: String,
        /// What it reports.
        report: StatusReport,
    },
    /// A guest is ready for use.
    GuestCreated {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
        /// TCP port of VNC or SPICE.
        monitor_port: u64,
        /// MAC address.
        hardware_address: String,
    },
    /// A guest's disk is being filled.
    GuestProgress {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
        /// 0..=100.
        percent: u64,
    },
    /// A guest could not be created; it is out of the books.
    GuestFailed {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
        /// Why.
        reason: String,
    },
    /// A guest runs.
    GuestStarted {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
    },
    /// A guest stopped.
    GuestStopped {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
    },
    /// A guest is gone.
    GuestDeleted {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
    },
    /// A guest uses this address.
    GuestAddress {
        /// On which Cell.
        cell: String,
        /// Which one.
        guest: GuestId,
        /// The address.
        address: String,
    },
    /// A media image was put into a guest's drive.
    MediaAttached {
        /// On which Cell.
        cell: String,
        /// Which guest.
        guest: GuestId,
        /// Which image.
        media: String,
    },
    /// A guest's drive was emptied.
    MediaDetached {
        /// On which Cell.
        cell: String,
        /// Which guest.
        guest: GuestId,
    },
    /// A guest's system disk was filled anew, or could not be.
    SystemReset {
        /// On which Cell.
        cell: String,
        /// Which guest.
        guest: GuestId,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// Another message without a session; tests look into it.
    Other {
        /// From which Cell.
        cell: String,
        /// The whole message.
        message: Message,
    },
    /// A message that the real Core would ignore.
    Ignored {
        /// From which Cell.
        cell: String,
        /// Which message, where that could be read.
        id: Option<MessageId>,
        /// Why it does not count.
        reason: String,
    },
}

impl Event {
    /// The Cell that it is about.
    pub fn cell(&self) -> &str {
        match self {
            Self::CellConnected { cell, .. }
            | Self::CellSwallowed { cell, .. }
            | Self::CellReady { cell, .. }
            | Self::CellRefused { cell, .. }
            | Self::CellLost { cell }
            | Self::CellRecovered { cell }
            | Self::CellLeft { cell, .. }
            | Self::StatusReport { cell, .. }
            | Self::GuestCreated { cell, .. }
            | Self::GuestProgress { cell, .. }
            | Self::GuestFailed { cell, .. }
            | Self::GuestStarted { cell, .. }
            | Self::GuestStopped { cell, .. }
            | Self::GuestDeleted { cell, .. }
            | Self::GuestAddress { cell, .. }
            | Self::MediaAttached { cell, .. }
            | Self::MediaDetached { cell, .. }
            | Self::SystemReset { cell, .. }
            | Self::Other { cell, .. }
            | Self::Ignored { cell, .. } => cell,
        }
    }

    /// The guest that it is about.
    pub fn guest(&self) -> Option<GuestId> {
        match self {
            Self::GuestCreated { guest, .. }
            | Self::GuestProgress { guest, .. }
            | Self::GuestFailed { guest, .. }
            | Self::GuestStarted { guest, .. }
            | Self::GuestStopped { guest, .. }
            | Self::GuestDeleted { guest, .. }
            | Self::GuestAddress { guest, .. }
            | Self::MediaAttached { guest, .. }
            | Self::MediaDetached { guest, .. }
            | Self::SystemReset { guest, .. } => Some(*guest),
            _ => None,
        }
    }

    /// This guest was created.
    pub fn is_created(&self, id: GuestId) -> bool {
        matches!(self, Self::GuestCreated { guest, .. } if *guest == id)
    }

    /// This guest was started.
    pub fn is_started(&self, id: GuestId) -> bool {
        matches!(self, Self::GuestStarted { guest, .. } if *guest == id)
    }

    /// This guest stopped.
    pub fn is_stopped(&self, id: GuestId) -> bool {
        matches!(self, Self::GuestStopped { guest, .. } if *guest == id)
    }

    /// This guest was deleted.
    pub fn is_deleted(&self, id: GuestId) -> bool {
        matches!(self, Self::GuestDeleted { guest, .. } if *guest == id)
    }
}

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recorded {
    /// Since the start of the Core.
    #[serde(rename = "t", serialize_with = "seconds")]
    pub at: Duration,
    /// Name of the guest that it is about, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

fn seconds<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((at.as_secs_f64() * 1e6).round() / 1e6)
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of the first event of `events`.
    first: u64,
    events: VecDeque<Recorded>,
}

/// The record itself.
#[derive(Clone, Debug)]
pub(crate) struct EventLog {
    kept: Arc<Mutex<Kept>>,
    /// How many events there were; every change wakes the waiting.
    count: Arc<watch::Sender<u64>>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { kept: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn push(&self, recorded: Recorded) {
        let mut kept = self.kept.lock();
        if kept.events.len() == KEPT {
            kept.events.pop_front();
            kept.first += 1;
        }
        kept.events.push_back(recorded);
        self.count.send_modify(|count| *count += 1);
    }

    /// From now on.
    pub(crate) fn now(&self) -> Events {
        let count = self.count.subscribe();
        let next = *count.borrow();
        Events { kept: self.kept.clone(), count, next }
    }

    /// From the start of the Core.
    pub(crate) fn start(&self) -> Events {
        Events { next: 0, ..self.now() }
    }
}

/// A place in the stream of events; cloning it keeps the place.
#[derive(Clone, Debug)]
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    count: watch::Receiver<u64>,
    next: u64,
}

impl Events {
    /// The next event, if it has happened already.
    pub fn try_next(&mut self) -> Option<Recorded> {
        let kept = self.kept.lock();
        self.next = self.next.max(kept.first);
        let index = usize::try_from(self.next - kept.first).ok()?;
        let event = kept.events.get(index)?.clone();
        self.next += 1;
        Some(event)
    }

    /// The next event; `None` when the Core is closed and all was told.
    pub async fn next(&mut self) -> Option<Recorded> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            if self.count.wait_for(|count| *count > self.next).await.is_err() {
                return self.try_next();
            }
        }
    }

    /// The first event from here on that fits; those before it are passed over.
    pub async fn wait(&mut self, timeout: Duration, mut fits: impl FnMut(&Event) -> bool) -> Result<Recorded, WaitError> {
        self.find(timeout, |event| fits(&event.event).then(|| event.clone())).await
    }

    /// The first result that `find` gives for an event from here on.
    pub async fn find<T>(&mut self, timeout: Duration, mut find: impl FnMut(&Recorded) -> Option<T>) -> Result<T, WaitError> {
        let search = async {
            while let Some(event) = self.next().await {
                if let Some(found) = find(&event) {
                    return Ok(found);
                }
            }
            Err(WaitError::Closed)
        };
        tokio::time::timeout(timeout, search).await.unwrap_or(Err(WaitError::Timeout(timeout)))
    }
}

#[cfg(test)]
mod tests;
