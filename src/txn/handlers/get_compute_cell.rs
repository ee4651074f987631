//! GetComputePoolCellRequest (contract §6.1): state of the shared storage pools as it is now; local pools are not listed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::proto::message::Key;
use crate::txn::{Context, Failure};

/// How long a pool may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let pools = context.node.books.lock().shared_pools();
    let storage = &context.node.host.storage;
    let names: Vec<String> = pools.into_iter().map(|pool| pool.name).collect();
    let errors = join_all(names.iter().map(|name| async move {
        match timeout(PATIENCE, storage.check_pool(name)).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => Failure::Host(error).to_string(),
            Err(_) => format!("the storage pool {name} does not answer"),
        }
    }))
    .await;
    let attached: Vec<u64> = errors.iter().map(|error| u64::from(error.is_empty())).collect();
    context.respond(context.success().strings(Key::Storage, names).strings(Key::Error, errors).uints(Key::Attach, attached))
}
