//! Where blocking calls run: lanes of connections, each call with a deadline.
//!
//! Contract: a connection serves one call at a time. libvirtd would take five, but a thread that waits for the answer of a hanging QEMU keeps
//! the others of its connection waiting (libvirt 9 loses their wake-up until the next sign of life), and a call that touches the monitor of
//! a hanging QEMU never comes back. So calls are kept apart:
//!
//! - *quick* ones touch neither a monitor nor a file;
//! - *files* work on local pools and their volumes, and calls on a shared pool have a lane of that pool's own, for they hang with a dead
//!   NFS server;
//! - *guest* ones (start, shut down, reset) and *samples* may; samples get [`SAMPLES`] of their places, so that they never keep a guest from
//!   being started;
//! - *kill* waits for nobody, because it is what ends a hanging guest.
//!
//! Connections are opened when they are needed, kept for the next call, and closed when more of them are idle than are usual. All bounds together
//! stay below the 20 workers that libvirtd has for everybody. A call past its deadline is reported as [`ErrorKind::Unknown`]; its thread, its
//! connection and its guest's turn stay taken until it comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout_at, Instant};

use crate::faults;
use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestId;

use super::connection::Connection;
use super::turns::Turns;

/// Calls at a time that touch neither a monitor nor a file, and connections kept for them. More than there are cores to answer gains nothing.
const QUICK: (usize, usize) = (2, 2);

/// Calls at a time that touch a file system.
const FILES: (usize, usize) = (2, 2);

/// Calls at a time on one shared pool: one that hangs holds up the others of its pool anyway, in libvirtd.
const SHARED_POOL: (usize, usize) = (1, 1);

/// Calls at a time that may touch a monitor.
const GUEST: (usize, usize) = (11, 2);

/// How many of those may be samples.
const SAMPLES: usize = 8;

/// Guests that are ended at the same time.
const KILL: (usize, usize) = (4, 0);

/// Which calls a call must not be held up by, and whose turn it takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    /// Touches neither a monitor nor a file.
    Quick,
    /// Works on pools and volumes.
    Files,
    /// Quick, in the guest's turn.
    Definition(GuestId),
    /// May touch the guest's monitor.
    Guest(GuestId),
    /// May touch the guest's monitor, and can be done without.
    Sample(GuestId),
    /// Ends the guest's QEMU, whatever else is under way.
    Kill,
}

impl Lane {
    fn guest(self) -> Option<GuestId> {
        match self {
            Self::Definition(id) | Self::Guest(id) | Self::Sample(id) => Some(id),
            Self::Quick | Self::Files | Self::Kill => None,
        }
    }
}

/// Whether a call that broke off may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only reads.
    Reads,
    /// It changes something.
    Changes,
}

/// All lanes to one libvirtd.
pub(super) struct Lanes {
    quick: Arc<Road>,
    files: Arc<Road>,
    guest: Arc<Road>,
    kill: Arc<Road>,
    /// Of shared pools, by the pool's name.
    shared: Mutex<HashMap<String, Arc<Road>>>,
    samples: Arc<Semaphore>,
    turns: Arc<Turns>,
    timeout: Duration,
    kill_timeout: Duration,
}

/// Connections of one lane.
struct Road {
    uri: Arc<str>,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    keep: usize,
}

impl Road {
    fn new(uri: &Arc<str>, (places, keep): (usize, usize)) -> Arc<Self> {
        Arc::new(Self { uri: uri.clone(), places: Arc::new(Semaphore::new(places)), idle: Mutex::default(), keep })
    }

    /// Lends a connection to `work`. Blocks.
    fn lend<T>(&self, work: impl FnOnce(&Connection) -> Result<T>, effect: Effect) -> Result<T> {
        let idle = self.idle.lock().pop();
        let connection = match idle.filter(Connection::works) {
            Some(connection) => connection,
            None => Connection::open(&self.uri)?,
        };
        let result = work(&connection);
        if !connection.works() {
            return result.map_err(|error| broken_off(error, effect));
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.keep {
            idle.push(connection);
        }
        result
    }
}

impl Lanes {
    /// Lanes that open their connections when they are first used.
    pub(super) fn new(uri: &Arc<str>, timeout: Duration, kill_timeout: Duration) -> Self {
        Self {
            quick: Road::new(uri, QUICK),
            files: Road::new(uri, FILES),
            guest: Road::new(uri, GUEST),
            kill: Road::new(uri, KILL),
            shared: Mutex::default(),
            samples: Arc::new(Semaphore::new(SAMPLES)),
            turns: Arc::default(),
            timeout,
            kill_timeout,
        }
    }

    /// Gives a shared pool a lane of its own, for good.
    pub(super) fn set_apart(&self, pool: &str) {
        self.shared.lock().entry(pool.to_owned()).or_insert_with(|| Road::new(&self.files.uri, SHARED_POOL));
    }

    /// Runs `work` on the files of a pool, in its own lane if it has one.
    pub(super) async fn run_in_pool<T, F>(&self, pool: &str, effect: Effect, what: String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let own = self.shared.lock().get(pool).cloned();
        let road = own.unwrap_or_else(|| self.files.clone());
        self.run_on(road, Lane::Files, effect, what, work).await
    }

    /// Runs `work` on a connection of the lane. `what` names the operation and its object in errors.
    pub(super) async fn run<T, F>(&self, lane: Lane, effect: Effect, what: String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.run_on(self.road(lane).clone(), lane, effect, what, work).await
    }

    async fn run_on<T, F>(&self, road: Arc<Road>, lane: Lane, effect: Effect, what: String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let deadline = Instant::now() + if matches!(lane, Lane::Kill) { self.kill_timeout } else { self.timeout };
        let turn = match lane.guest() {
            Some(id) => Some(self.turns.take(id, &what, deadline).await?),
            None => None,
        };
        let held = self.enter(&road, lane, &what, deadline).await?;
        let call = tokio::task::spawn_blocking(move || {
            // Moved in here: they are free when the call is back, not when its caller gave up.
            let _held = (held, turn);
            if effect == Effect::Reads {
                return road.lend(work, effect);
            }
            faults::host();
            let result = road.lend(work, effect);
            faults::host();
            result
        });
        match timeout_at(deadline, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(ended)) => Err(HostError::with_source(ErrorKind::Unknown, format!("{what}: the call ended early"), ended)),
            Err(_) => Err(HostError::new(ErrorKind::Unknown, format!("{what}: libvirt has not answered in time; it may still happen"))),
        }
    }

    /// Waits for a place.
    async fn enter(&self, road: &Road, lane: Lane, what: &str, deadline: Instant) -> Result<Vec<OwnedSemaphorePermit>> {
        let mut gates = vec![&road.places];
        if matches!(lane, Lane::Sample(_)) {
            gates.insert(0, &self.samples);
        }
        let mut held = Vec::with_capacity(gates.len());
        for gate in gates {
            let Ok(Ok(permit)) = timeout_at(deadline, gate.clone().acquire_owned()).await else {
                return Err(HostError::new(
                    ErrorKind::Unavailable,
                    format!("{what}: too many calls to libvirt are under way and none has come back"),
                ));
            };
            held.push(permit);
        }
        Ok(held)
    }

    fn road(&self, lane: Lane) -> &Arc<Road> {
        match lane {
            Lane::Quick | Lane::Definition(_) => &self.quick,
            Lane::Files => &self.files,
            Lane::Guest(_) | Lane::Sample(_) => &self.guest,
            Lane::Kill => &self.kill,
        }
    }
}

/// An error of a call whose connection broke says nothing about what libvirtd did.
fn broken_off(error: HostError, effect: Effect) -> HostError {
    let (kind, why) = match effect {
        Effect::Reads => (ErrorKind::Unavailable, "the connection to libvirt broke"),
        Effect::Changes => (ErrorKind::Unknown, "the connection to libvirt broke; it may have happened"),
    };
    HostError { kind, context: format!("{}: {why}", error.context), source: error.source }
}
