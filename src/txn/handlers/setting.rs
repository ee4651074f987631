//! A change of one setting of a guest: on the host, then in the books; both or neither.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::host::{Applied, DomainEdit, ErrorKind, HostError, Hypervisor};
use crate::model::{Guest, GuestConfig, GuestId, PowerState};
use crate::proto::message::Message;
use crate::store::DataFile;
use crate::txn::node::jobs::{Job, JobGuard};
use crate::txn::undo::Undo;
use crate::txn::{Context, Failure, Node};

type HostWork = Pin<Box<dyn Future<Output = Result<Applied, HostError>> + Send>>;

/// A part of a guest's configuration.
pub(super) struct Field {
    /// For messages, as in "the new memory size".
    pub(super) name: &'static str,
    /// Takes it over into another configuration of the same guest.
    pub(super) copy: fn(&GuestConfig, &mut GuestConfig),
}

/// What a setting is, in the books and on the host.
pub(super) struct Setting {
    /// In the books.
    pub(super) field: Field,
    /// Makes the host as this configuration says.
    pub(super) host: fn(Arc<dyn Hypervisor>, Arc<GuestConfig>) -> HostWork,
}

/// A setting that is a part of the domain's definition.
pub(super) fn reconfigure(hypervisor: Arc<dyn Hypervisor>, id: GuestId, edit: DomainEdit) -> HostWork {
    Box::pin(async move { hypervisor.reconfigure(id, &edit).await })
}

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
    setting: &'static Setting,
    answer: Message,
) -> Result<(), Failure> {
    let mut undo = Undo::default();
    match steps(context, guest.config.clone(), Arc::new(wanted), setting, answer, &mut undo).await {
        Ok(applied) => {
            undo.disarm();
            if applied == Applied::AtNextStart {
                tracing::info!(guest = %guest.config.id, "the new {} of guest '{}' takes effect when it is started next", setting.field.name, guest.config.name);
            }
            Ok(())
        }
        Err(cause) => Err(undo.run(cause).await),
    }
}

async fn steps(
    context: &Arc<Context>,
    before: Arc<GuestConfig>,
    wanted: Arc<GuestConfig>,
    setting: &'static Setting,
    answer: Message,
    undo: &mut Undo,
) -> Result<Applied, Failure> {
    let node = &context.node;
    let id = before.id;
    let (hypervisor, back) = (node.host.hypervisor.clone(), before.clone());
    undo.push(
        format!("new {} of guest {id} in libvirt", setting.field.name),
        async move { (setting.host)(hypervisor, back).await.map(drop) },
    );
    let applied = (setting.host)(node.host.hypervisor.clone(), wanted.clone()).await?;
    context.check()?;
    write_down(node, before, wanted, &setting.field, undo).await?;
    context.respond(answer)?;
    Ok(applied)
}

/// Enters a field in the books and makes them durable; the way back does the same with the field as it was.
pub(super) async fn write_down(
    node: &Arc<Node>,
    before: Arc<GuestConfig>,
    wanted: Arc<GuestConfig>,
    field: &'static Field,
    undo: &mut Undo,
) -> Result<(), Failure> {
    let (back, id) = (node.clone(), before.id);
    undo.push(format!("new {} of guest {id} in data/", field.name), async move {
        let restored = enter(&back, &before, field).await;
        restored.map_err(|failure| HostError::new(ErrorKind::Failed, failure.to_string()))
    });
    enter(node, &wanted, field).await
}

async fn enter(node: &Node, from: &GuestConfig, field: &Field) -> Result<(), Failure> {
    node.books.lock().update(from.id, |config| (field.copy)(from, config))?;
    node.save(&[DataFile::Instance]).await
}
