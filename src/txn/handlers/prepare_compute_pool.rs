//! ComputePoolReadyEvent (contract §6.1): this cell belongs to a pool. Everything is validated before anything is switched (§14 A4, B17).

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::answers::power_to_wire;
use super::change_address_pool::{self, AddressPool};
use super::{shared_storage, welcome};
use crate::model::Guest;
use crate::proto::message::{Key, Message};
use crate::txn::{Context, Failure};

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let params = context.params();
    let pool = params.string(Key::Pool)?;
    let storage = shared_storage::read(params)?;
    let addresses = if params.string(Key::Network)?.is_empty() { None } else { Some(AddressPool::read(params)?) };
    match &storage {
        Some(wanted) => shared_storage::attach(&context, wanted).await?,
        None => shared_storage::detach(&context).await?,
    }
    match &addresses {
        Some(addresses) => change_address_pool::change(&context, addresses).await?,
        None => change_address_pool::clear(&context).await?,
    }
    let answer = {
        let books = context.node.books.lock();
        ready(context.success(), books.guests.values().collect())
    };
    tracing::info!(pool, guests = answer.uint_params.get(&Key::Count), "joined the compute pool");
    context.node.missed.lead().await;
    let node = &context.node;
    node.core_has_spoken.store(true, Ordering::Relaxed);
    welcome::tell(node, &welcome::unknown(node), context.session.0);
    let answered = context.respond(answer);
    shared_storage::start_after_boot(&context).await;
    answered
}

/// The report of all guests. Every list has one entry a guest (disks: all concatenated; limits: six each): the Core
/// reads beyond the end of a shorter one.
fn ready(answer: Message, guests: Vec<&Guest>) -> Message {
    let answer = answer.uint(Key::Count, count(guests.len()));
    if guests.is_empty() {
        return answer;
    }
    let texts = |of: fn(&Guest) -> String| guests.iter().map(|guest| of(guest)).collect::<Vec<_>>();
    let numbers = |of: fn(&Guest) -> u64| guests.iter().map(|guest| of(guest)).collect::<Vec<_>>();
    answer
        .strings(Key::Name, texts(|guest| guest.config.name.clone()))
        .strings(Key::Instance, texts(|guest| guest.config.id.to_string()))
        .strings(Key::User, texts(|guest| guest.config.user.clone()))
        .strings(Key::Group, texts(|guest| guest.config.group.clone()))
        .strings(Key::Secret, texts(|guest| guest.config.monitor_secret.reveal().to_owned()))
        .strings(Key::Address, texts(|guest| guest.address.map(|address| address.to_string()).unwrap_or_default()))
        .strings(Key::System, texts(|guest| guest.config.operating_system().to_owned()))
        .strings(Key::Create, texts(|guest| guest.config.create_time.clone()))
        .strings(Key::Internal, texts(|guest| guest.config.internal_address.clone()))
        .strings(Key::External, texts(|guest| guest.config.external_address.clone()))
        .strings(Key::Hardware, texts(|guest| guest.config.hardware_address.clone()))
        .uints(Key::Core, numbers(|guest| u64::from(guest.config.cores)))
        .uints(Key::Option, numbers(|guest| u64::from(guest.config.auto_start)))
        .uints(Key::Enable, numbers(|guest| u64::from(guest.created)))
        .uints(Key::Progress, numbers(|guest| if guest.created { 0 } else { u64::from(guest.progress) }))
        .uints(Key::Status, numbers(|guest| power_to_wire(guest.power)))
        .uints(Key::Monitor, numbers(|guest| u64::from(guest.config.monitor_port)))
        .uints(Key::Memory, numbers(|guest| guest.config.memory))
        .uints(Key::Count, numbers(|guest| count(guest.config.disks.len())))
        .uints(Key::Disk, guests.iter().flat_map(|guest| guest.config.disks.iter().copied()).collect::<Vec<_>>())
        .uints(Key::Priority, numbers(|guest| u64::from(guest.config.cpu_priority)))
        .uints(Key::Limit, guests.iter().flat_map(|guest| guest.config.limits()).collect::<Vec<_>>())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
