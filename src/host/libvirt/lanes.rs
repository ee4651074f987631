//! Where blocking calls run: lanes of connections, each call with a deadline.
//!
//! Contract: libvirtd works on at most five requests of one connection at a time, and a call that touches the monitor of a hanging QEMU never
//! comes back. So calls are kept apart:
//!
//! - *quick* ones, which never touch a monitor, share one connection;
//! - *guest* ones (start, shut down, reset) and *samples* share up to [`GUEST_LINKS`] connections with [`CALLS_PER_LINK`] calls each, opened as
//!   they are needed; samples may take half of the places, so that they never keep a guest from being started;
//! - *kill* has a connection of its own and waits for nobody, because it is what ends a hanging guest.
//!
//! All bounds together stay below the 20 workers that libvirtd has for everybody. A call past its deadline is reported as
//! [`ErrorKind::Unknown`]; its thread and its guest's turn stay taken until it comes back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout_at, Instant};

use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestId;

use super::connection::{Connection, Link};
use super::turns::Turns;

/// One less than what libvirtd works on at a time for one connection, so that signs of life get through.
const CALLS_PER_LINK: usize = 4;

/// Connections for calls that may touch a monitor.
const GUEST_LINKS: usize = 3;

/// How many of those calls may be samples.
const SAMPLES: usize = GUEST_LINKS * CALLS_PER_LINK / 2;

/// Which calls a call must not be held up by, and whose turn it takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    /// Never touches a monitor.
    Quick,
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
            Self::Quick | Self::Kill => None,
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
    quick: Road,
    guest: Road,
    kill: Road,
    samples: Arc<Semaphore>,
    turns: Arc<Turns>,
    timeout: Duration,
    kill_timeout: Duration,
}

/// Connections that share their calls.
struct Road {
    links: Vec<(Arc<Link>, Arc<Semaphore>)>,
    places: Arc<Semaphore>,
}

/// What a call holds until it came back.
type Held = Vec<OwnedSemaphorePermit>;

impl Road {
    fn new(uri: &Arc<str>, links: usize) -> Self {
        let link = |_| (Arc::new(Link::new(uri.clone())), Arc::new(Semaphore::new(CALLS_PER_LINK)));
        Self { links: (0..links).map(link).collect(), places: Arc::new(Semaphore::new(links * CALLS_PER_LINK)) }
    }

    /// Waits for a place on the first connection that has one.
    async fn enter(&self, held: &mut Held) -> Option<Arc<Link>> {
        held.push(self.places.clone().acquire_owned().await.ok()?);
        let (link, place) = self.links.iter().find_map(|(link, places)| Some((link, places.clone().try_acquire_owned().ok()?)))?;
        // The place on the link is given back first, so that whoever is let in finds one.
        held.insert(0, place);
        Some(link.clone())
    }
}

impl Lanes {
    /// Lanes that open their connections when they are first used.
    pub(super) fn new(uri: &Arc<str>, timeout: Duration, kill_timeout: Duration) -> Self {
        Self {
            quick: Road::new(uri, 1),
            guest: Road::new(uri, GUEST_LINKS),
            kill: Road::new(uri, 1),
            samples: Arc::new(Semaphore::new(SAMPLES)),
            turns: Arc::default(),
            timeout,
            kill_timeout,
        }
    }

    /// Runs `work` on a connection of the lane. `what` names the operation and its object in errors.
    pub(super) async fn run<T, F>(&self, lane: Lane, effect: Effect, what: String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let deadline = Instant::now() + if matches!(lane, Lane::Kill) { self.kill_timeout } else { self.timeout };
        let turn = match lane.guest() {
            Some(id) => Some(self.turns.take(id, &what, deadline).await?),
            None => None,
        };
        let (link, held) = self.enter(lane, &what, deadline).await?;
        let call = tokio::task::spawn_blocking(move || {
            // Moved in here: they are free when the call is back, not when its caller gave up.
            let _held = (held, turn);
            let connection = link.connection()?;
            work(&connection).map_err(|error| broken_off(error, &connection, effect))
        });
        match timeout_at(deadline, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(ended)) => Err(HostError::with_source(ErrorKind::Unknown, format!("{what}: the call ended early"), ended)),
            Err(_) => Err(HostError::new(ErrorKind::Unknown, format!("{what}: libvirt has not answered in time; it may still happen"))),
        }
    }

    async fn enter(&self, lane: Lane, what: &str, deadline: Instant) -> Result<(Arc<Link>, Held)> {
        let mut held = Held::new();
        let entered = timeout_at(deadline, async {
            if matches!(lane, Lane::Sample(_)) {
                held.push(self.samples.clone().acquire_owned().await.ok()?);
            }
            self.road(lane).enter(&mut held).await
        });
        match entered.await {
            Ok(Some(link)) => Ok((link, held)),
            _ => Err(HostError::new(
                ErrorKind::Unavailable,
                format!("{what}: too many calls to libvirt are under way and none has come back"),
            )),
        }
    }

    fn road(&self, lane: Lane) -> &Road {
        match lane {
            Lane::Quick | Lane::Definition(_) => &self.quick,
            Lane::Guest(_) | Lane::Sample(_) => &self.guest,
            Lane::Kill => &self.kill,
        }
    }
}

/// An error of a call whose connection broke says nothing about what libvirtd did.
fn broken_off(error: HostError, connection: &Connection, effect: Effect) -> HostError {
    if connection.works() {
        return error;
    }
    let (kind, why) = match effect {
        Effect::Reads => (ErrorKind::Unavailable, "the connection to libvirt broke"),
        Effect::Changes => (ErrorKind::Unknown, "the connection to libvirt broke; it may have happened"),
    };
    HostError { kind, context: format!("{}: {why}", error.context), source: error.source }
}
