//! QuerySnapshotRequest (contract §6.6): all snapshots of a guest, oldest first.

use std::sync::Arc;

use crate::proto::message::Key;
use crate::txn::{volumes, Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let guest = context.node.books.guest(id)?;
    let group = volumes::group(&context.node, &guest)?;
    let snapshots = group.snapshots_by_time();
    // The Core reads the four lists by the same index.
    let names: Vec<String> = snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    let backing: Vec<String> = snapshots.iter().map(|snapshot| snapshot.backing.clone()).collect();
    let roots: Vec<u64> = snapshots.iter().map(|snapshot| u64::from(snapshot.is_root)).collect();
    let current: Vec<u64> = snapshots.iter().map(|snapshot| u64::from(snapshot.is_current)).collect();
    let answer = context.success().strings(Key::Name, names).strings(Key::Previous, backing);
    context.respond(answer.uints(Key::Source, roots).uints(Key::Current, current))
}
