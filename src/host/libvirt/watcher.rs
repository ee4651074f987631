//! Watches the connection to libvirt, tells events, and reconnects.
//!
//! Contract: the stream starts with [`HostEvent::Connected`] and a full list. After the connection broke it says so once, tries every
//! [`BACK_OFF`] and lists everything anew. Events that arrive while the list is made are told after it: the last one about a domain is then
//! never older than the list, so the receiver always ends up with the truth.

use std::collections::HashMap;
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

/// A libvirtd that has just started lists guests as running whose QEMU processes it has yet to look for, and tells no event when it
/// finds one gone (seen with 9.0). So it is asked again this long after connecting.
const SECOND_LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

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
    let (connected, (mut subscription, domains)) = (Instant::now(), session);
    let mut told = powers(&domains);
    out.send(HostEvent::Connected(domains)).await.map_err(|_| NobodyListens)?;
    let mut looks = SECOND_LOOKS.into_iter().map(|after| connected + after);
    let mut look = looks.next();
    let broken = loop {
        let notice = match look {
            None => subscription.next().await,
            Some(time) => tokio::select! {
                notice = subscription.next() => notice,
                () = tokio::time::sleep_until(time) => {
                    look = looks.next();
                    let (listed, back) = list_again(subscription).await;
                    subscription = back;
                    let Ok(domains) = listed else { break subscription };
                    for (id, power) in powers(&domains) {
                        if told.insert(id, power).is_some_and(|before| before != power) {
                            out.send(HostEvent::Power { id, power }).await.map_err(|_| NobodyListens)?;
                        }
                    }
                    continue;
                }
            },
        };
        let event = match notice {
            Some(Notice::Closed) => break subscription,
            Some(Notice::Lifecycle(id, what)) => event(id, what),
            None => {
                tracing::warn!("libvirt's events came faster than they were used; listing all domains anew");
                let (listed, back) = list_again(subscription).await;
                subscription = back;
                match listed {
                    Ok(domains) => {
                        told = powers(&domains);
                        HostEvent::Connected(domains)
                    }
                    Err(_) => break subscription,
                }
            }
        };
        if let HostEvent::Power { id, power } = &event {
            told.insert(*id, *power);
        }
        out.send(event).await.map_err(|_| NobodyListens)?;
    };
    // Closing waits for libvirtd's answer when there still is one.
    blocking(move || drop(broken)).await;
    Ok(())
}

fn powers(domains: &[DomainStatus]) -> HashMap<GuestId, PowerState> {
    domains.iter().map(|domain| (domain.id, domain.power)).collect()
}

async fn list_again(subscription: Subscription) -> (Result<Vec<DomainStatus>>, Subscription) {
    blocking(move || (list(subscription.connection()), subscription)).await
}

fn event(id: GuestId, what: Lifecycle) -> HostEvent {
    match what {
        Lifecycle::Defined => HostEvent::Defined(id),
        Lifecycle::Undefined => HostEvent::Undefined(id),
        Lifecycle::Running => HostEvent::Power { id, power: PowerState::Running },
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
    let starting: std::collections::HashSet<_> = starting.iter().filter_map(|domain| domain.get_uuid().ok()).collect();
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
