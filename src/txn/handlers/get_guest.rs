//! GetGuestRequest (contract §6.2): the configuration of one guest, from memory.

use std::sync::Arc;

use super::answers::with_config;
use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let guest = context.node.books.guest(id)?;
    context.respond(with_config(context.success(), &guest))
}
