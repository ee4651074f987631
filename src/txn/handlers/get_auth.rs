//! GetAuthRequest (contract §6.3): the administrator's account of a guest and its password, as far as they are known.

use std::sync::Arc;

use crate::proto::message::Key;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Guest)?;
    let guest = context.node.books.guest(id)?;
    let config = &guest.config;
    context.respond(context.success().string(Key::User, config.administrator()).string(Key::Secret, config.auth_secret.reveal()))
}
