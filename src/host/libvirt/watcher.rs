//! Watches the connection to libvirt, tells events, and reconnects.
//!
//! Contract: the stream starts with [`HostEvent::Connected`] and a full list. After the connection broke it says so once, tries every
//! [`BACK_OFF`] and lists everything anew. Events that arrive while the list is made are told after it: the last one about a domain is then
//! never older than the list, so the receiver always ends up with the truth.
//!
//! A libvirtd that has just started lists a domain as running until it finds its QEMU gone, and then tells nobody. So after a (re)connect the
//! list is made a few times more ([`SETTLING`]), and what differs is told as events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use virt::sys;

use crate::host::{DomainStatus, ErrorKind, HostError, HostEvent, Result};
use crate::model::{GuestId, PowerState};

use super::connection::Connection;
use super::error::failed;
use super::events::{Lifecycle, Notice, Subscription};
use super::Shared;

/// Pause between two attempts to reconnect.
const BACK_OFF: Duration = Duration::from_millis(250);

/// When, after a (re)connect, the list is checked again: libvirtd looks after its guests one by one.
const SETTLING: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];

/// The receiver of the events is gone: there is nobody left to watch for.
struct NobodyListens;

/// The watching task's state.
pub(super) struct Watcher {
    uri: Arc<str>,
    out: mpsc::Sender<HostEvent>,
    shared: Arc<Shared>,
    first: Session,
}

/// A connection with its events and what was there when they began.
type Session = (Subscription, Vec<DomainStatus>);

impl Watcher {
    /// Makes the first connection.
    pub(super) async fn connect(uri: Arc<str>, out: mpsc::Sender<HostEvent>, shared: Arc<Shared>, timeout: Duration) -> Result<Self> {
        let first = tokio::time::timeout(timeout, subscribe(uri.clone())).await.map_err(|_| {
            HostError::new(
                ErrorKind::Unavailable,
                format!("libvirt at {uri} does not answer; see that libvirtd (or virtqemud) runs and is not stuck"),
            )
        })??;
        Ok(Self { uri, out, shared, first })
    }

    /// Tells events until nobody listens any more.
    pub(super) async fn run(self) {
        let Self { uri, out, shared, first } = self;
        let mut session = first;
        while let Ok(()) = tell(&out, session).await {
            shared.forget_machine();
            tracing::warn!("lost the connection to libvirt at {uri}; reconnecting");
            if out.send(HostEvent::Disconnected(format!("the connection to libvirt at {uri} broke"))).await.is_err() {
                return;
            }
            session = reconnect(&uri).await;
            tracing::info!("connected to libvirt at {uri} again; {} domains", session.1.len());
        }
    }
}

/// Tells what one connection says, until it breaks.
async fn tell(out: &mpsc::Sender<HostEvent>, session: Session) -> std::result::Result<(), NobodyListens> {
    let (mut subscription, domains) = session;
    let connected = Instant::now();
    let mut checks = SETTLING.into_iter();
    let mut check = checks.next();
    let mut known = powers(&domains);
    out.send(HostEvent::Connected(domains)).await.map_err(|_| NobodyListens)?;
    loop {
        let due = async {
            match check {
                Some(after) => tokio::time::sleep_until(connected + after).await,
                None => std::future::pending().await,
            }
        };
        let told = tokio::select! {
            told = subscription.next() => Some(told),
            () = due => None,
        };
        let listed = match told {
            Some(Some(Notice::Closed)) => break,
            Some(Some(Notice::Lifecycle(id, what))) => {
                note(&mut known, id, what);
                out.send(event(id, what)).await.map_err(|_| NobodyListens)?;
                continue;
            }
            Some(None) | None => {
                let (listed, back) = blocking(move || (list(subscription.connection()), subscription)).await;
                subscription = back;
                listed
            }
        };
        // A connection that can't list is of no use any more.
        let Ok(domains) = listed else { break };
        let now = powers(&domains);
        if told.is_some() {
            tracing::warn!("libvirt's events came faster than they were used; all domains were listed anew");
            out.send(HostEvent::Connected(domains)).await.map_err(|_| NobodyListens)?;
        } else {
            check = checks.next();
            for event in differences(&known, &now) {
                out.send(event).await.map_err(|_| NobodyListens)?;
            }
        }
        known = now;
    }
    // Closing waits for libvirtd's answer when there still is one.
    blocking(move || drop(subscription)).await;
    Ok(())
}

/// Power states by domain.
type Powers = HashMap<GuestId, PowerState>;

fn powers(domains: &[DomainStatus]) -> Powers {
    domains.iter().map(|domain| (domain.id, domain.power)).collect()
}

fn note(known: &mut Powers, id: GuestId, what: Lifecycle) {
    match what {
        Lifecycle::Running | Lifecycle::Held => known.insert(id, PowerState::Running),
        Lifecycle::Stopped => known.insert(id, PowerState::Stopped),
        Lifecycle::Undefined => known.remove(&id),
        Lifecycle::Defined => Some(*known.entry(id).or_insert(PowerState::Stopped)),
    };
}

/// What happened between two lists.
fn differences(before: &Powers, now: &Powers) -> Vec<HostEvent> {
    let gone = before.keys().filter(|id| !now.contains_key(id)).map(|id| HostEvent::Undefined(*id));
    let new = now.keys().filter(|id| !before.contains_key(id)).map(|id| HostEvent::Defined(*id));
    let changed = now.iter().filter(|(id, power)| before.get(id).unwrap_or(&PowerState::Stopped) != *power);
    gone.chain(new).chain(changed.map(|(id, power)| HostEvent::Power { id: *id, power: *power })).collect()
}

fn event(id: GuestId, what: Lifecycle) -> HostEvent {
    match what {
        Lifecycle::Defined => HostEvent::Defined(id),
        Lifecycle::Undefined => HostEvent::Undefined(id),
        Lifecycle::Running => HostEvent::Power { id, power: PowerState::Running },
        Lifecycle::Held => HostEvent::Held(id),
        Lifecycle::Stopped => HostEvent::Power { id, power: PowerState::Stopped },
    }
}

async fn reconnect(uri: &Arc<str>) -> Session {
    loop {
        match subscribe(uri.clone()).await {
            Ok(session) => return session,
            Err(error) => tracing::debug!("{error}"),
        }
        tokio::time::sleep(BACK_OFF).await;
    }
}

/// Connects, asks for events, and only then lists what is there.
async fn subscribe(uri: Arc<str>) -> Result<Session> {
    blocking(move || {
        let connection = Connection::open(&uri)?;
        let subscription =
            Subscription::new(connection).map_err(|error| failed(format!("cannot ask libvirt at {uri} for its events"), &error))?;
        let domains = list(subscription.connection())?;
        Ok((subscription, domains))
    })
    .await
}

/// Runs on a thread for blocking work, which does not panic: should it be gone, the runtime is ending, and this never comes back.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => std::future::pending().await,
    }
}

/// All domains of the host. libvirt has no call for state and autostart together, but lists by either.
pub(super) fn list(connection: &Connection) -> Result<Vec<DomainStatus>> {
    let failed = |error: virt::error::Error| failed("cannot list the domains of this host", &error);
    let all = connection.list_all_domains(0).map_err(failed)?;
    let starting = connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART).map_err(failed)?;
    let starting: HashSet<_> = starting.iter().filter_map(|domain| domain.get_uuid().ok()).collect();
    let status = |domain: &virt::domain::Domain| {
        let uuid = domain.get_uuid().ok()?;
        Some(DomainStatus {
            id: GuestId::from_bytes(uuid.into_bytes()),
            name: domain.get_name().ok()?,
            power: power(domain),
            autostart: starting.contains(&uuid),
        })
    };
    Ok(all.iter().filter_map(status).collect())
}

/// Whether the domain had a QEMU process when it was looked up; asks nobody.
pub(super) fn power(domain: &virt::domain::Domain) -> PowerState {
    match domain.get_id() {
        Some(_) => PowerState::Running,
        None => PowerState::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_two_lists_is_told() {
        let id = |byte| GuestId::from_bytes([byte; 16]);
        let before = Powers::from([(id(1), PowerState::Running), (id(2), PowerState::Running), (id(3), PowerState::Stopped)]);
        let now = Powers::from([(id(1), PowerState::Running), (id(2), PowerState::Stopped), (id(4), PowerState::Running)]);
        let told = differences(&before, &now);
        assert_eq!(told.len(), 4);
        assert!(told.contains(&HostEvent::Power { id: id(2), power: PowerState::Stopped }));
        assert!(told.contains(&HostEvent::Undefined(id(3))));
        assert!(told.contains(&HostEvent::Defined(id(4))));
        assert!(told.contains(&HostEvent::Power { id: id(4), power: PowerState::Running }));
        assert_eq!(differences(&now, &now), []);
    }

    #[test]
    fn events_keep_what_is_known_up_to_date() {
        let id = GuestId::from_bytes([1; 16]);
        let mut known = Powers::new();
        note(&mut known, id, Lifecycle::Defined);
        assert_eq!(known.get(&id), Some(&PowerState::Stopped));
        note(&mut known, id, Lifecycle::Running);
        note(&mut known, id, Lifecycle::Defined);
        assert_eq!(known.get(&id), Some(&PowerState::Running));
        note(&mut known, id, Lifecycle::Undefined);
        assert!(known.is_empty());
    }
}
