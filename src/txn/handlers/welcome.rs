//! Guests that have come here from another host: the Core is told, and those that ran there, or are always started, are started.
//!
//! Contract: who has come is in the books until the Core was told and the start was tried, so that a crash in between changes nothing. The Core counts a guest
//! as its former host's until it hears of the move. It is told before it gets our list of guests, which it can't make sense of otherwise: it would
//! forget the guest as soon as the former host's next list lacks it. A Core that has given up on the move passes the event over, and takes the list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, Instant};

use super::start_instance::power_on_until;
use crate::model::{GuestId, Origin, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::node::jobs::Job;
use crate::txn::{Failure, Node};

/// How long a guest that ran before is tried to be started: QEMU's locks keep it from its disks while another copy runs.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(3);

/// All guests that the Core does not know of.
pub(in crate::txn) fn unknown(node: &Node) -> Vec<GuestId> {
    node.books.lock().arrivals.keys().copied().collect()
}

/// Tells the Core which of these guests have come, one event for each origin.
pub(in crate::txn) fn tell(node: &Node, ids: &[GuestId], session: u32) {
    let mut origins: BTreeMap<(String, String), Vec<(GuestId, u16)>> = BTreeMap::new();
    {
        let books = node.books.lock();
        for (id, Origin { source, migration, .. }) in books.arrivals.iter().filter(|(id, _)| ids.contains(id)) {
            let Some(guest) = books.guests.get(id) else { continue };
            origins.entry((source.clone(), migration.clone())).or_default().push((*id, guest.config.monitor_port));
        }
    }
    for ((source, migration), guests) in origins {
        let event = Message::new(MessageId::INSTANCE_MIGRATED_EVENT)
            .succeeded()
            .strings(Key::Instance, guests.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>())
            .uints(Key::Monitor, guests.iter().map(|(_, port)| u64::from(*port)).collect::<Vec<_>>());
        let event = match (source.as_str(), migration.as_str()) {
            // Without either the Core knows no name for it.
            ("", "") => continue,
            // To the Core it is as a failover then: what it says of that holds for a move that it still waits for.
            (source, "") => event.bool(Key::Immediate, true).string(Key::Cell, source),
            (_, migration) => event.bool(Key::Immediate, false).string(Key::Migration, migration),
        };
        node.outbox.send(None, event.from_session(session));
    }
}

/// Starts those of these guests that are to run, and strikes all of them off the list of those that the Core does not know of: it was told.
pub(in crate::txn) async fn start(node: &Arc<Node>, ids: &[GuestId], session: u32) {
    let starting: Vec<GuestId> = {
        let books = node.books.lock();
        let runs = |id: &GuestId, origin: &Origin| {
            books.guests.get(id).is_some_and(|guest| (origin.ran || guest.config.auto_start) && guest.power != PowerState::Running)
        };
        let starting = books.arrivals.iter().filter(|(id, origin)| ids.contains(id) && runs(id, origin));
        starting.map(|(id, _)| *id).collect()
    };
    join_all(starting.into_iter().map(|id| start_one(node, id, session))).await;
    let struck = {
        let mut books = node.books.lock();
        let before = books.arrivals.len();
        books.arrivals.retain(|id, _| !ids.contains(id));
        before != books.arrivals.len()
    };
    if struck {
        if let Err(failure) = node.save(&[DataFile::Instance]).await {
            // Then it is told once more.
            tracing::warn!("that the Core was told of guests that have come can't be written down: {failure}");
        }
    }
}

/// Starts a guest as soon as nothing stands against it, and tells the Core how that ended.
async fn start_one(node: &Arc<Node>, id: GuestId, session: u32) {
    let give_up = Instant::now() + START_PATIENCE;
    loop {
        let started = async {
            let job = node.jobs.acquire(id, Job::Start, give_up).await?;
            power_on_until(node, id, give_up).await?;
            Ok::<_, Failure>(job)
        };
        match started.await {
            Ok(_job) => {
                node.announce_power(id, PowerState::Running, session);
                if node.books.guest(id).is_ok_and(|guest| guest.power != PowerState::Running) {
                    node.announce_power(id, PowerState::Stopped, session);
                }
                return;
            }
            Err(Failure::NoSuchGuest(_)) => return,
            Err(failure) if Instant::now() + RETRY < give_up => tracing::warn!(guest = %id, "it can't be started yet: {failure}"),
            Err(failure) => {
                tracing::error!(guest = %id, "it is here now, but it can't be started: {failure}");
                return node.announce_power(id, PowerState::Stopped, session);
            }
        }
        sleep(RETRY).await;
    }
}
