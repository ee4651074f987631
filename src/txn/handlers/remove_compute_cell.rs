//! ComputeCellRemovedEvent (contract §6.1): this cell left its pool. Shared storage is detached, local storage stays as it is; the addresses of the pool's
//! network are not ours to give any more.

use std::sync::Arc;

use crate::model::AddressMode;
use crate::store::DataFile;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    super::shared_storage::detach(&context).await?;
    {
        let mut books = context.node.books.lock();
        books.network.gateway.clear();
        books.network.dns.clear();
        books.network.allocation_mode = AddressMode::None;
    }
    context.node.save(&[DataFile::Network]).await
}
