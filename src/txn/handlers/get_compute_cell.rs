//! GetComputePoolCellRequest (contract §6.1): state of the shared storage pools; local pools are not listed.

use std::sync::Arc;

use crate::model::PoolMode;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let names: Vec<String> = {
        let books = context.node.books.lock();
        books.storage.pools.values().filter(|pool| pool.mode == PoolMode::Nfs).map(|pool| pool.name.clone()).collect()
    };
    let (mut attached, mut errors) = (Vec::new(), Vec::new());
    for name in &names {
        match context.node.host.storage.pool(name).await {
            Ok(_) => {
                attached.push(1);
                errors.push(String::new());
            }
            Err(error) => {
                attached.push(0);
                errors.push(Failure::Host(error).to_string());
            }
        }
    }
    context.respond(context.success().strings(Key::Storage, names).strings(Key::Error, errors).uints(Key::Attach, attached))
}
