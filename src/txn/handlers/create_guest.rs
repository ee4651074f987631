//! CreateGuestRequest (contract §6.2, flow 7.2): a guest with blank disks, or with a system disk that is cloned from an image.
//!
//! A create that fails at any step, or that gets done only after the Core has given up (§13.7), leaves nothing behind:
//! no volume, no port, no domain, no filter, no line in `data/`. A clone goes on after the answer: until its disk is complete the guest is
//! marked as unfinished in `data/` (§14 B13), and a failure takes all of it back and tells the Core so (§14 B1).

pub(super) mod plan;

use std::sync::Arc;

use self::plan::Plan;
use super::reset_system::tell_progress;
use super::start_instance::{announce_started, power_on};
use crate::host::{ImageLocation, VolumeInfo};
use crate::model::{Guest, GuestConfig, GuestId, PowerState, Resource, Volume, VolumeGroup};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::DataFile;
use crate::txn::addresses::seeds;
use crate::txn::node::jobs::Job;
use crate::txn::transfer::carry;
use crate::txn::undo::Undo;
use crate::txn::{secrets, Context, Failure};

const FILES: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];

pub(super) async fn handle(context: Arc<Context>) -> Result<(), Failure> {
    let plan = Plan::read(context.params())?;
    let id = plan.id;
    let mut job = context.job(id, Job::Create).await?;
    let layout = context.node.layout.read().await;
    context.check()?;
    let mut undo = Undo::default();
    let config = match build(&context, &plan, &mut undo).await {
        Ok(config) => config,
        Err(cause) => return Err(undo.run(cause).await),
    };
    drop(layout);
    if let Some(image) = &plan.image {
        job.becomes(Job::Clone);
        if let Err(cause) = fill(&context, &plan, image, &mut undo).await {
            let failure = undo.run(cause).await;
            // The Core strikes the guest from its books (§13.6).
            let event = Message::new(MessageId::GUEST_UPDATED_EVENT).failed(failure.to_string());
            context.event(event.string(Key::Instance, id.to_string()));
            return Err(failure);
        }
    }
    undo.disarm();
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

/// The steps up to the answer, each with its way back registered before it is done: a step whose outcome is unknown is taken back too.
async fn build(context: &Arc<Context>, plan: &Plan, undo: &mut Undo) -> Result<GuestConfig, Failure> {
    let node = &context.node;
    let resource = reserve(context, plan, undo)?;
    let (pool, address_mode, shared) = {
        let books = node.books.lock();
        (books.storage.current_pool.clone(), books.network.allocation_mode, books.current_shared().is_some())
    };
    let mut volumes = create_volumes(context, plan, &pool, undo).await?;
    let mut config = GuestConfig {
        monitor_port: resource.monitor_port,
        monitor_secret: secrets::password(secrets::MONITOR_SECRET_LENGTH)?,
        storage_pool: pool,
        storage_volumes: volumes.volumes().map(|volume| volume.name.clone()).collect(),
        network_source: node.settings.bridge.clone(),
        hardware_address: resource.hardware_address,
        address_allocation: address_mode,
        create_time: chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string(),
        ..plan.config()
    };
    if config.cloud_init_available {
        config.boot_image = create_seed(context, &config, undo).await?;
        volumes.boot_image.clone_from(&config.boot_image);
    }
    let hypervisor = node.host.hypervisor.clone();
    let id = plan.id;
    undo.push(format!("domain and filter of guest {id}"), async move { hypervisor.undefine(id).await.map(|_| ()) });
    node.host.hypervisor.define(&config).await?;
    // A host that restarts in the middle of a clone must not start a guest without a system, and none of a shared pool.
    if config.auto_start && !config.unfinished && !shared {
        node.host.hypervisor.set_autostart(id, true).await?;
    }
    context.check()?;
    enter(context, &config, volumes, undo).await?;
    context.respond(context.success().string(Key::Instance, id.to_string()).bool(Key::Enable, false))?;
    Ok(config)
}

fn reserve(context: &Context, plan: &Plan, undo: &mut Undo) -> Result<Resource, Failure> {
    let (books, id) = (context.node.books.clone(), plan.id);
    let resource = books.lock().reserve(id, &plan.name, &plan.internal_address, &plan.external_address)?;
    undo.push(format!("reservation of guest {id}"), async move {
        books.lock().cancel(id);
        Ok(())
    });
    Ok(resource)
}

/// The steps after the answer: brings the image to the system disk and makes the guest a created one.
async fn fill(context: &Arc<Context>, plan: &Plan, image: &ImageLocation, undo: &mut Undo) -> Result<(), Failure> {
    let (node, id) = (&context.node, plan.id);
    let images = &node.host.images;
    let disk = node.books.lock().system_disk(id);
    let disk = disk.ok_or_else(|| Failure::Internal(format!("guest {id} has no system disk")))?;
    let capacity = plan.disks.first().copied().unwrap_or_default();
    let (back, path) = (images.clone(), disk.path.clone());
    undo.push(format!("an image beside {}", disk.path), async move { back.discard(&path).await.map(drop) });
    let path = &disk.path;
    let fetch = |transfer| async move { images.fetch(image, path, capacity, &transfer).await };
    carry(context, id, &disk.pool, fetch, |percent| tell_progress(context, id, percent)).await?;
    images.install(&disk.path).await?;
    if plan.auto_start && node.shared_directory(id).is_none() {
        node.host.hypervisor.set_autostart(id, true).await?;
    }
    if let Some(guest) = node.books.lock().guests.get_mut(&id) {
        guest.config = Arc::new(GuestConfig { unfinished: false, ..(*guest.config).clone() });
        (guest.created, guest.progress) = (true, 0);
    }
    node.save(&[DataFile::Instance]).await
}

async fn create_volumes(context: &Arc<Context>, plan: &Plan, pool: &str, undo: &mut Undo) -> Result<VolumeGroup, Failure> {
    let mut volumes = Vec::with_capacity(plan.disks.len());
    for (index, capacity) in plan.disks.iter().enumerate() {
        context.check()?;
        let name = volume_name(plan.id, index);
        let (storage, back_pool, back_name) = (context.node.host.storage.clone(), pool.to_owned(), name.clone());
        undo.push(format!("volume {name} in pool {pool}"), async move { storage.delete_volume(&back_pool, &back_name).await.map(|_| ()) });
        let info = context.node.host.storage.create_volume(pool, &name, *capacity).await?;
        volumes.push(volume(name, pool, info));
    }
    let mut volumes = volumes.into_iter();
    // The plan has at least one disk.
    let system = volumes.next().unwrap_or_default();
    Ok(VolumeGroup { system, data: volumes.collect(), ..VolumeGroup::default() })
}

/// Makes the image that tells cloud-init where to ask.
async fn create_seed(context: &Arc<Context>, config: &GuestConfig, undo: &mut Undo) -> Result<String, Failure> {
    context.check()?;
    let node = &context.node;
    let path = seeds::path(node, &config.storage_pool, config.id)?;
    let (storage, back) = (node.host.storage.clone(), path.clone());
    undo.push(format!("cloud-init image {path}"), async move { storage.remove_file(&back).await.map(|_| ()) });
    seeds::write(node, &GuestConfig { boot_image: path.clone(), ..config.clone() }).await?;
    Ok(path)
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

/// Enters the guest in the books and makes them durable; the way back strikes it and makes that durable.
async fn enter(context: &Arc<Context>, config: &GuestConfig, volumes: VolumeGroup, undo: &mut Undo) -> Result<(), Failure> {
    let node = context.node.clone();
    let id = config.id;
    node.books.lock().insert(Guest { power: PowerState::Stopped, ..Guest::new(config.clone()) }, volumes);
    let back = node.clone();
    undo.push(format!("entry of guest {id} in data/"), async move {
        back.books.lock().remove(id);
        let kept = back.save(FILES).await;
        kept.map_err(|failure| crate::host::HostError::new(crate::host::ErrorKind::Failed, failure.to_string()))
    });
    node.save(FILES).await
}
