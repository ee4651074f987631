//! ResetSecretRequest (contract §6.3): a new password of the remote console, at once and for good. It has 8 characters, because VNC uses no more
//! (§14 F3), of the system's random generator (F2).

use std::sync::Arc;

use super::setting::{begin, change};
use crate::model::GuestConfig;
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{secrets, Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let id = context.params().guest(Key::Guest)?;
    let (_job, guest) = begin(&context, id).await?;
    let monitor_secret = secrets::password(secrets::MONITOR_SECRET_LENGTH)?;
    let answer = context.success().string(Key::Secret, monitor_secret.reveal());
    let wanted = GuestConfig { monitor_secret, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::MonitorSecret, answer).await
}
