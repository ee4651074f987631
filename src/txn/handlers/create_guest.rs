//! CreateGuestRequest (contract §6.2, flow 7.2): a guest with blank disks, or with a system disk that is cloned from an image.
//!
//! A create that fails at any step, or that gets done only after the Core has given up (§13.7), leaves nothing behind:
//! no volume, no port, no domain, no filter, no line in `data/`. A clone goes on after the answer: until its disk is complete the guest is
//! marked as unfinished in `data/` (§14 B13), and a failure takes all of it back and tells the Core so (§14 B1).

pub(super) mod plan;

use std::sync::Arc;

use tokio::sync::RwLockReadGuard;

use self::plan::Plan;
use super::reset_system::tell_progress;
use super::start_instance::{announce_started, power_on};
use crate::host::{ErrorKind, ImageLocation, VolumeInfo};
use crate::model::{AddressMode, Guest, GuestConfig, GuestId, PowerState, Volume, VolumeGroup};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::addresses::seeds;
use crate::txn::node::jobs::Job;
use crate::txn::node::transfers::StopReason;
use crate::txn::transfer::carry;
use crate::txn::undo::{is_unsettled, settle_pool, Step, Undo};
use crate::txn::volumes::file_prefix;
use crate::txn::{missed, secrets, Context, Failure, Node};

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let plan = Plan::read(context.params())?;
    let id = plan.id;
    let mut job = context.job(id, Job::Create).await?;
    let layout = hold_layout(&context).await?;
    context.check()?;
    let mut undo = Undo::new(&context, &[id]);
    let config = match build(&context, &plan, &mut undo).await {
        Ok(config) => config,
        Err(cause) => return Err(undo.run(cause).await),
    };
    drop(layout);
    if let Some(image) = &plan.image {
        job.becomes(Job::Clone);
        if let Err(cause) = fill(&context, &plan, image, &mut undo).await {
            let failure = undo.run(cause).await;
            tell_failed(&context, id, &failure);
            return Err(failure);
        }
    }
    undo.finish().await;
    context.event(
        Message::new(MessageId::GUEST_CREATED_EVENT)
            .string(Key::Instance, id.to_string())
            .uint(Key::Monitor, u64::from(config.monitor_port))
            .string(Key::Secret, config.monitor_secret.reveal())
            .string(Key::Hardware, &config.hardware_address),
    );
    if plan.auto_start {
        // The guest exists by now and stays, whatever its first start does.
        match power_on(&context, id).await {
            Ok(()) => announce_started(&context, id),
            Err(failure) => tracing::error!(guest = %id, "created, but its first start failed: {failure}"),
        }
    }
    drop(job);
    Ok(())
}

/// Where new guests go stays as it is while this is held. A pool that an earlier change has left elsewhere is brought back first: volumes that are made in it
/// now would stay behind when it is.
async fn hold_layout(context: &Context) -> Result<RwLockReadGuard<'_, ()>, Failure> {
    let node = &context.node;
    let pool = || node.books.lock().storage.current_pool.clone();
    let layout = context.read_layout().await?;
    if !is_unsettled(node, &pool()) {
        return Ok(layout);
    }
    drop(layout);
    let layout = context.write_layout().await?;
    settle_pool(node, &pool()).await?;
    Ok(layout.downgrade())
}

/// Tells the Core that the guest is gone, which strikes it from its books either way (§13.6).
fn tell_failed(context: &Context, id: GuestId, failure: &Failure) {
    match failure.stopped() {
        Some(StopReason::Deletion) => context.announce_end(missed::deleted(id)),
        // It lives on elsewhere, and the Core knows.
        Some(StopReason::Moved) => {}
        Some(StopReason::Shutdown) | None => context.announce_end(missed::not_created(id, &failure.to_string())),
    }
}

/// The steps up to the answer, all of them announced before the first: a step whose outcome is unknown is taken back too.
async fn build(context: &Arc<Context>, plan: &Plan, undo: &mut Undo) -> Result<GuestConfig, Failure> {
    let (node, id) = (&context.node, plan.id);
    let place = Place::choose(node);
    check_free(node, id, &place).await?;
    let resource = node.books.lock().reserve(id, &plan.name, &plan.internal_address, &plan.external_address)?;
    let config = GuestConfig {
        monitor_port: resource.monitor_port,
        monitor_secret: secrets::password(secrets::MONITOR_SECRET_LENGTH)?,
        storage_pool: place.pool.clone(),
        storage_volumes: (0..plan.disks.len()).map(|index| volume_name(id, index)).collect(),
        network_source: node.settings.bridge.clone(),
        hardware_address: resource.hardware_address,
        address_allocation: place.address_mode,
        create_time: chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string(),
        ..plan.config()
    };
    let planned = async {
        let boot_image = if config.cloud_init_available { seeds::path(node, &place.pool, id)? } else { String::new() };
        let config = GuestConfig { boot_image, ..config };
        undo.plan(steps(&config, &place, plan.image.is_some())).await?;
        Ok(config)
    };
    let config = planned.await.inspect_err(|_: &Failure| node.books.lock().cancel(id))?;
    let mut volumes = create_volumes(context, plan, &config).await?;
    if config.cloud_init_available {
        context.check()?;
        seeds::write(node, &config).await?;
        volumes.boot_image.clone_from(&config.boot_image);
    }
    node.host.hypervisor.define(&config).await?;
    // A host that restarts in the middle must not start a guest that is half made, or without a system, and none of a shared pool.
    if config.auto_start && !config.unfinished && !place.shared {
        undo.afterwards(Step::autostart(node, id));
    }
    context.check()?;
    node.books.lock().insert(Guest { power: PowerState::Stopped, ..Guest::new(config.clone()) }, volumes);
    node.save(FILES).await?;
    let answer = context.success().string(Key::Instance, id.to_string()).bool(Key::Enable, false);
    match plan.image {
        // It goes on, and until it is done it can be taken back.
        Some(_) => context.respond(answer)?,
        None => undo.complete(answer).await?,
    }
    Ok(config)
}

/// Where a new guest goes.
struct Place {
    pool: String,
    directory: String,
    shared: bool,
    address_mode: AddressMode,
}

impl Place {
    fn choose(node: &Node) -> Self {
        let books = node.books.lock();
        let pool = books.storage.current_pool.clone();
        let directory = books.storage.pools.get(&pool).map(|pool| pool.target.clone()).unwrap_or_default();
        Self { pool, directory, shared: books.current_shared().is_some(), address_mode: books.network.allocation_mode }
    }
}

/// Refuses when there is something of a guest with this id that the books do not know: it is not ours to remove when the create fails.
async fn check_free(node: &Node, id: GuestId, place: &Place) -> Result<(), Failure> {
    if let Ok(guest) = node.books.guest(id) {
        return Err(Failure::refused(format!("guest {id} exists already: it is '{}'", guest.config.name)));
    }
    let (prefix, host) = (file_prefix(id), &node.host);
    let (domain, files) = tokio::join!(host.hypervisor.domain(id), host.disks.files(&place.directory, &prefix));
    match domain {
        Ok(domain) => {
            return Err(Failure::refused(format!(
                "guest {id} can't be created: libvirt has a domain of it already, '{}', which data/ does not know",
                domain.name
            )))
        }
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    match files?.first() {
        Some(file) => {
            let directory = &place.directory;
            Err(Failure::refused(format!("guest {id} can't be created: there is a file {directory}/{file} already; move it away")))
        }
        None => Ok(()),
    }
}

/// What is going to be done, in its order.
fn steps(config: &GuestConfig, place: &Place, clone: bool) -> Vec<Step> {
    let (id, pool) = (config.id, &place.pool);
    let mut steps = vec![Step::Reservation { guest: id }];
    steps.extend(config.storage_volumes.iter().map(|name| Step::Volume { pool: pool.clone(), name: name.clone() }));
    if config.cloud_init_available {
        steps.push(Step::File { path: config.boot_image.clone() });
    }
    steps.push(Step::Domain { guest: id });
    if place.shared {
        steps.push(Step::Copy { guest: id, directory: place.directory.clone() });
    }
    steps.push(Step::Entry { guest: id });
    if let Some(system) = config.storage_volumes.first().filter(|_| clone) {
        steps.push(Step::Fetched { disk: format!("{}/{system}", place.directory.trim_end_matches('/')) });
    }
    steps
}

/// The steps after the answer: brings the image to the system disk and makes the guest a created one.
async fn fill(context: &Arc<Context>, plan: &Plan, image: &ImageLocation, undo: &mut Undo) -> Result<(), Failure> {
    let (node, id) = (&context.node, plan.id);
    let images = &node.host.images;
    let disk = node.books.lock().system_disk(id);
    let disk = disk.ok_or_else(|| Failure::Internal(format!("guest {id} has no system disk")))?;
    let capacity = plan.disks.first().copied().unwrap_or_default();
    let path = &disk.path;
    let fetch = |transfer| async move { images.fetch(image, path, capacity, &transfer).await };
    carry(context, id, &disk.pool, fetch, |percent| tell_progress(context, id, percent)).await?;
    images.install(&disk.path).await?;
    if plan.auto_start && node.shared_directory(id).is_none() {
        undo.afterwards(Step::autostart(node, id));
    }
    if let Some(guest) = node.books.lock().guests.get_mut(&id) {
        guest.config = Arc::new(GuestConfig { unfinished: false, ..(*guest.config).clone() });
        (guest.created, guest.progress) = (true, 0);
    }
    node.save(&[DataFile::Instance]).await?;
    undo.commit().await
}

async fn create_volumes(context: &Context, plan: &Plan, config: &GuestConfig) -> Result<VolumeGroup, Failure> {
    let pool = &config.storage_pool;
    let mut volumes = Vec::with_capacity(plan.disks.len());
    for (name, capacity) in config.storage_volumes.iter().zip(&plan.disks) {
        context.check()?;
        let info = context.node.host.storage.create_volume(pool, name, *capacity).await?;
        volumes.push(volume(name.clone(), pool, info));
    }
    let mut volumes = volumes.into_iter();
    // The plan has at least one disk.
    let system = volumes.next().unwrap_or_default();
    Ok(VolumeGroup { system, data: volumes.collect(), ..VolumeGroup::default() })
}

/// `<id>_sys.qcow2`, then `<id>_0.qcow2`, `<id>_1.qcow2`, … (contract §11.1).
fn volume_name(id: GuestId, index: usize) -> String {
    match index.checked_sub(1) {
        None => format!("{id}_sys.qcow2"),
        Some(data) => format!("{id}_{data}.qcow2"),
    }
}

fn volume(name: String, pool: &str, info: VolumeInfo) -> Volume {
    Volume { name, format: "qcow2".into(), key: info.key, path: info.path, capacity: info.capacity, pool: pool.to_owned() }
}
