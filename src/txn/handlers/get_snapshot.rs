//! GetSnapshotRequest (contract §6.6): one snapshot of a guest.

use std::sync::Arc;

use crate::proto::message::Key;
use crate::txn::{volumes, Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let name = volumes::snapshot_name(params)?;
    let guest = context.node.books.guest(id)?;
    let group = volumes::group(&context.node, &guest)?;
    let snapshot = group.snapshots.get(name).ok_or_else(|| volumes::no_snapshot(&guest.config, name))?;
    let answer = context.success().bool(Key::Status, snapshot.running).string(Key::Create, &snapshot.create_time);
    context.respond(answer.string(Key::Description, &snapshot.description))
}
