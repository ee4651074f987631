//! ModifyGuestNameRequest (contract §6.3): another full name, taken as it is; the guest has to be stopped. It is written down (§14 D1).

use std::sync::Arc;

use super::create_guest::plan::read_name;
use super::setting::{begin, change, refuse_same};
use crate::model::{GuestConfig, PowerState};
use crate::proto::message::Key;
use crate::txn::setting::Setting;
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Guest)?;
    let name = read_name(params)?;
    let (_job, guest) = begin(&context, id).await?;
    refuse_same(&guest, Setting::Name.name(), &guest.config.name, &name)?;
    if guest.power == PowerState::Running {
        return Err(Failure::refused(format!("guest '{}' can't be renamed: it is running; stop it first", guest.config.name)));
    }
    if let Some(other) = context.node.books.lock().guest_named(&name) {
        return Err(Failure::refused(format!("the name '{name}' is taken by guest {other}")));
    }
    let wanted = GuestConfig { name, ..guest.config.as_ref().clone() };
    change(&context, &guest, wanted, Setting::Name, context.success()).await
}
