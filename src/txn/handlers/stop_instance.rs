//! StopInstanceRequest (contract §6.2): shutdown, power off, reboot or reset. The answer goes out when the guest was asked; that it
//! stopped is told when libvirt says so.

use std::sync::Arc;
use std::time::Duration;

use crate::model::lifecycle::{self, Operation};
use crate::model::{GuestId, PowerState};
use crate::proto::message::Key;
use crate::txn::node::jobs::Job;
use crate::txn::{Context, Failure};

/// How long before the deadline a power off that still goes on is answered.
const MARGIN: Duration = Duration::from_secs(1);

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let id = params.guest(Key::Instance)?;
    let flags = params.exact_uints::<2>(Key::Option)?;
    let operation = match flags {
        [1, 1] => Operation::Reset,
        [1, 0] => Operation::Reboot,
        [0, 1] => Operation::ForceStop,
        [0, 0] => Operation::Shutdown,
        [reboot, force] => return Err(params.bad(Key::Option, format!("is [{reboot}, {force}], two values of 0 or 1 are expected"))),
    };
    // Power off is the way out of everything, so it waits for no other job on the guest; and none that a guest runs through for hours
    // keeps its buttons from being pressed.
    let job = match operation {
        Operation::ForceStop => None,
        _ if context.node.jobs.current(id).is_some_and(Job::leaves_power_alone) => None,
        _ => Some(context.job(id, Job::Stop).await?),
    };
    context.check()?;
    let guest = context.node.books.guest(id)?;
    lifecycle::next(guest.phase(), operation)
        .map_err(|refusal| Failure::refused(format!("guest '{}' can't be stopped: {refusal}", guest.config.name)))?;
    if operation == Operation::ForceStop {
        return power_off(&context, id).await;
    }
    let hypervisor = &context.node.host.hypervisor;
    match operation {
        Operation::Reset => hypervisor.reset(id).await?,
        Operation::Reboot => hypervisor.reboot(id).await?,
        _ => hypervisor.shutdown(id).await?,
    }
    let answered = context.respond(context.success());
    if let Some(job) = job {
        drop(job);
        tell_if_stopped(&context, id, guest.power);
    }
    answered
}

/// Ends the guest's process. A process that hangs takes its time to end; the Core is answered before its patience does, and told by the
/// event when it has ended.
async fn power_off(context: &Context, id: GuestId) -> Result<(), Failure> {
    let node = &context.node;
    let mut ending = node.host.hypervisor.destroy(id);
    let answered = match tokio::time::timeout_at(context.deadline() - MARGIN, &mut ending).await {
        Ok(ended) => {
            ended?;
            context.respond(context.success())
        }
        Err(_) => {
            tracing::warn!(guest = %id, "the guest's process takes its time to end");
            let answered = context.respond(context.success());
            ending.await?;
            answered
        }
    };
    if node.set_power(id, PowerState::Stopped) {
        node.announce_power(id, PowerState::Stopped, context.session.0);
    }
    answered
}

/// The monitor leaves the telling to us while our job runs: a guest that stopped at once is told here.
fn tell_if_stopped(context: &Context, id: GuestId, before: PowerState) {
    let now = context.node.books.guest(id).map(|guest| guest.power);
    if before == PowerState::Running && now.is_ok_and(|power| power != PowerState::Running) {
        context.node.announce_power(id, PowerState::Stopped, context.session.0);
    }
}
