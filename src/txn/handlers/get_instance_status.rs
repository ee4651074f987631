//! GetInstanceStatusRequest (contract §6.2): configuration, state and figures of one guest.

use std::sync::Arc;

use super::answers::with_config;
use crate::model::PowerState;
use crate::proto::message::Key;
use crate::txn::usage::Usage;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Instance)?;
    let guest = context.node.books.guest(id)?;
    let usage = if guest.power == PowerState::Running { context.node.usage.get(id).await } else { Usage::default() };
    let sample = usage.sample;
    let mut answer = with_config(context.success(), &guest)
        .bool(Key::Media, guest.config.media.is_some())
        .float(Key::Usage, usage.cpu_percent)
        .uints(Key::Available, [sample.memory_available, sample.disk_available])
        .uints(Key::IO, [sample.disk_read, sample.disk_written, sample.net_received, sample.net_sent]);
    if let Some(media) = &guest.config.media {
        answer = answer.string(Key::Source, &media.id);
    }
    context.respond(answer)
}
