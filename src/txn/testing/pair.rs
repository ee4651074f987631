//! Two nodes with one shared pool.

use super::*;
use crate::host::sim::SimShare;
use crate::host::NfsSource;
use crate::txn::guard;

/// The pool's name and where it is mounted.
pub(in crate::txn) const POOL: &str = "nas";
pub(in crate::txn) const MOUNT: &str = "/pools/nas";

pub(in crate::txn) struct Pair {
    pub(in crate::txn) share: SimShare,
    /// Cell_a.
    pub(in crate::txn) a: Rig,
    /// Cell_b.
    pub(in crate::txn) b: Rig,
}

impl Pair {
    /// Both have attached the pool.
    pub(in crate::txn) async fn new() -> Self {
        let share = SimShare::new();
        let mut pair = Self { a: with_export("Cell_a", &share).await, b: with_export("Cell_b", &share).await, share };
        for rig in [&mut pair.a, &mut pair.b] {
            let answer = rig.ask(ready_request(POOL)).await;
            assert!(answer.success, "{}", answer.error);
            rig.settle().await;
        }
        pair
    }

    /// A guest on b that runs.
    pub(in crate::txn) async fn running_on_b(&mut self, number: u8) -> GuestId {
        let id = self.b.with_guest(number).await;
        let answer = self.b.ask(start_request(id)).await;
        assert!(answer.success, "{}", answer.error);
        self.b.settle().await;
        self.b.take_host_events().await;
        self.b.sent();
        id
    }
}

/// A node that can mount the export and has not done so.
pub(in crate::txn) async fn with_export(name: &str, share: &SimShare) -> Rig {
    let rig = Rig::named(name).await;
    rig.sim.put_export(&export(), share);
    rig
}

pub(in crate::txn) fn export() -> NfsSource {
    NfsSource { host: "10.0.0.1".into(), path: "/share".into() }
}

/// The compute pool is ready, with this storage pool on [`export`], "" for local storage.
pub(in crate::txn) fn ready_request(storage: &str) -> Message {
    let request = Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "compute").string(Key::Network, "");
    let request = request.string(Key::Storage, storage);
    if storage.is_empty() {
        return request;
    }
    request.string(Key::Type, "nfs").string(Key::Host, export().host).string(Key::Target, export().path)
}

fn list(request: MessageId, ids: &[GuestId]) -> Message {
    Message::new(request).strings(Key::Instance, ids.iter().map(GuestId::to_string).collect::<Vec<_>>())
}

pub(in crate::txn) fn attach_request(ids: &[GuestId]) -> Message {
    list(MessageId::ATTACH_INSTANCE_REQUEST, ids).bool(Key::Immediate, false)
}

/// A failover from `source`; comes from nobody's session.
pub(in crate::txn) fn failover_request(ids: &[GuestId], source: &str) -> Message {
    list(MessageId::ATTACH_INSTANCE_REQUEST, ids).bool(Key::Immediate, true).string(Key::Cell, source)
}

pub(in crate::txn) fn migrate_request(ids: &[GuestId], session: u32) -> Message {
    list(MessageId::MIGRATE_INSTANCE_REQUEST, ids).string(Key::Migration, "move-1").from_session(77).to_session(session)
}

pub(in crate::txn) fn detach_request(ids: &[GuestId]) -> Message {
    list(MessageId::DETACH_INSTANCE_REQUEST, ids)
}

/// Lets the guard of a node look at its shared pools once.
pub(in crate::txn) async fn look(rig: &mut Rig) -> bool {
    rig.take_host_events().await;
    let pools = rig.node.books.lock().shared_pools();
    let mut fine = true;
    for pool in pools {
        fine &= guard::look(&rig.node, &pool, true).await;
    }
    rig.take_host_events().await;
    fine
}
