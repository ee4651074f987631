//! A change of one setting of a guest: on the host, then in the books; both or neither.

use std::sync::Arc;

use crate::host::Applied;
use crate::model::{Guest, GuestConfig, GuestId, PowerState};
use crate::proto::message::Message;
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::setting::Setting;
use crate::txn::undo::{Step, Undo};
use crate::txn::{Context, Failure, Node};

/// Takes the guest's turn for a change of its settings. A guest that libvirt lost has none that could be changed; those of a guest that another host
/// has taken over are that host's.
pub(super) async fn begin(context: &Context, id: GuestId) -> Result<(JobGuard, Guest), Failure> {
    let job = context.job(id, Job::Configure).await?;
    context.check()?;
    let guest = context.node.books.guest(id)?;
    if guest.power == PowerState::Lost {
        return Err(Failure::refused(format!(
            "guest '{}' can't be changed: its libvirt domain is missing; it can only be deleted",
            guest.config.name
        )));
    }
    context.node.hold(id).await?;
    Ok((job, guest))
}

/// Refuses a request that would change nothing: the Core expects a failure then (contract §6.3).
pub(super) fn refuse_same<T: PartialEq>(guest: &Guest, name: &str, present: &T, wanted: &T) -> Result<(), Failure> {
    if present == wanted {
        return Err(Failure::refused(format!("guest '{}' has this {name} already", guest.config.name)));
    }
    Ok(())
}

/// Makes the setting of `guest`, whose job the caller holds, as it is in `wanted`, and answers.
pub(super) async fn change(
    context: &Arc<Context>,
    guest: &Guest,
    wanted: GuestConfig,
    setting: Setting,
    answer: Message,
) -> Result<(), Failure> {
    let mut undo = Undo::new(context, &[guest.config.id]);
    match steps(context, &guest.config, &wanted, setting, answer, &mut undo).await {
        Ok(applied) => {
            undo.finish().await;
            if applied == Applied::AtNextStart {
                tracing::info!(guest = %guest.config.id, "the new {} of guest '{}' takes effect when it is started next", setting.name(), guest.config.name);
            }
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(
    context: &Context,
    before: &GuestConfig,
    wanted: &GuestConfig,
    setting: Setting,
    answer: Message,
    undo: &mut Undo,
) -> Result<Applied, Failure> {
    let node = &context.node;
    let config = || Box::new(before.clone());
    undo.plan(vec![Step::Configured { setting, config: config() }, Step::Written { setting, config: config() }]).await?;
    let applied = setting.apply(node.host.hypervisor.as_ref(), wanted).await?;
    context.check()?;
    write_down(node, wanted, setting).await?;
    undo.complete(answer).await?;
    Ok(applied)
}

/// Enters a setting in the books and makes them durable.
pub(super) async fn write_down(node: &Node, wanted: &GuestConfig, setting: Setting) -> Result<(), Failure> {
    node.books.lock().update(wanted.id, |config| setting.copy(wanted, config))?;
    node.save(&[DataFile::Instance]).await
}
