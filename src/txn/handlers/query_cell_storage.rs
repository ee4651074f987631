//! QueryCellStorageRequest (contract §6.1): where disks are kept.

use std::sync::Arc;

use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let (nfs, system, data) = {
        let books = context.node.books.lock();
        let storage = &books.storage;
        (storage.mode == "nfs", storage.system_paths.clone(), storage.data_paths.clone())
    };
    let answer = context.success().uint(Key::Mode, u64::from(nfs)).strings(Key::System, system).strings(Key::Data, data);
    context.respond(answer)
}
