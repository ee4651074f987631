//! What taking a step back, and carrying one out, is.

use std::sync::Arc;

use super::step::Step;
use crate::host::{self, ErrorKind};
use crate::model::{Guest, GuestConfig, GuestId, PowerState, Resource, VolumeGroup};
use crate::store::DataFile;
use crate::txn::handlers::change_address_pool::apply;
use crate::txn::handlers::{modify_auth, remains};
use crate::txn::volumes::live;
use crate::txn::{missed, thaws, Failure, Node};

/// What a guest's entry is in.
const ALL: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];
const DISKS: &[DataFile] = &[DataFile::Storage, DataFile::Instance];

/// Makes it as if the step had never been begun.
pub(super) async fn take_back(node: &Arc<Node>, step: &Step) -> Result<(), Failure> {
    let (hypervisor, storage, disks) = (&node.host.hypervisor, &node.host.storage, &node.host.disks);
    match step {
        Step::Reservation { guest } => node.books.lock().cancel(*guest),
        Step::Volume { pool, name } => drop(storage.delete_volume(pool, name).await?),
        Step::File { path } => drop(storage.remove_file(path).await?),
        Step::Image { path } => drop(disks.remove(path).await?),
        Step::Fetched { disk } => drop(node.host.images.discard(disk).await?),
        Step::Aside { path, new, aside } => drop(disks.put_back(path, new.as_deref(), aside).await?),
        Step::Merge { path } => drop(there(disks.unmerge(path).await)?),
        Step::Size { path, capacity } => drop(disks.resize(path, *capacity).await?),
        Step::Domain { guest } => drop(hypervisor.undefine(*guest).await?),
        Step::Undefined { config } => defined(node, config).await?,
        Step::Ended { guest, boot } => run_again(node, *guest, boot).await?,
        Step::Volumes { guest, names } => {
            let back: Vec<(String, String)> = names.iter().map(|(present, new)| (new.clone(), present.clone())).collect();
            there(hypervisor.change_volumes(*guest, &back).await)?;
        }
        Step::Configured { setting, config } => drop(there(setting.apply(hypervisor.as_ref(), config).await)?),
        Step::Drive { guest, file } => match hypervisor.set_media(*guest, file.as_deref()).await {
            // A guest that does not run has nothing in its drive.
            Err(error) if error.kind == ErrorKind::Busy || error.kind == ErrorKind::NotFound => {}
            other => drop(other?),
        },
        Step::Password { config, user } => modify_auth::restore(hypervisor.as_ref(), config, user).await?,
        Step::Pool { name } => drop(storage.remove_pool(name).await?),
        Step::LocalPool { name, target } => {
            storage.remove_pool(name).await?;
            storage.ensure_local_pool(name, target).await?;
        }
        Step::SharedPool { name, source, target } => drop(storage.ensure_nfs_pool(name, source, target).await?),
        Step::Claim { guest } => claimed(node, *guest).await?,
        Step::Copy { guest, directory } => node.erase_leftover_copy(directory, *guest).await?,
        Step::Entry { guest } => {
            node.books.lock().remove(*guest);
            node.save(ALL).await?;
            // A handler that still runs tells more of it. After a crash the Core may have been told that the guest is being made.
            node.missed.keep(missed::not_created(*guest, "its creation broke off, and was taken back"));
        }
        Step::Struck { config, group, resource } => {
            let guest = Guest { power: PowerState::Stopped, ..Guest::new(config.as_ref().clone()) };
            node.books.lock().restore_guest(guest, group, resource.clone());
            node.save(ALL).await?;
        }
        Step::Disks { guest, group, sizes, volumes } => {
            let known = {
                let mut books = node.books.lock();
                let changed = books.update(*guest, |config| {
                    config.disks.clone_from(sizes);
                    config.storage_volumes.clone_from(volumes);
                });
                if changed.is_ok() {
                    books.replace_volumes(*guest, group.as_ref().clone());
                }
                changed
            };
            saved(node, known, DISKS).await?;
        }
        Step::Written { setting, config } => {
            let known = node.books.lock().update(config.id, |present| setting.copy(config, present));
            saved(node, known, &[DataFile::Instance]).await?;
        }
        Step::Initialized { guest, initialized } => {
            let known = node.books.lock().update(*guest, |config| config.initialized = *initialized);
            saved(node, known, &[DataFile::Instance]).await?;
        }
        Step::Layout { storage, instance } => {
            node.books.lock().restore_layout(storage, instance);
            node.save(DISKS).await?;
        }
        _ => return Err(Failure::Internal(format!("there is no way back from {step}"))),
    }
    Ok(())
}

/// Does the step.
pub(super) async fn carry_out(node: &Arc<Node>, step: &Step) -> Result<(), Failure> {
    let (hypervisor, disks) = (&node.host.hypervisor, &node.host.disks);
    match step {
        Step::Needless { path } => drop(disks.remove(path).await?),
        Step::Obsolete { guest, path } => live::remove_obsolete(node, *guest, path).await?,
        Step::Merged { path } => drop(there(disks.settle(path).await)?),
        // No image beside the disk: it is in its place already.
        Step::Install { disk } => drop(there(node.host.images.install(disk).await)?),
        Step::Switch { guest, images } => match hypervisor.switch_disks(*guest, images, false).await {
            // When it is started it uses them.
            Err(_) if !runs(node, *guest).await? => {}
            other => drop(other?),
        },
        Step::Thaw { guest } => {
            if let Err(failure) = thaws::thaw(node, *guest).await {
                tracing::warn!("{step} stay for now: {failure}");
                node.thaws.owe(*guest);
            }
        }
        Step::Initialized { guest, initialized } => {
            let known = node.books.lock().update(*guest, |config| config.initialized = *initialized);
            saved(node, known, &[DataFile::Instance]).await?;
        }
        Step::Grown { guest, index, path, capacity } => {
            let grown = there(disks.inspect(path).await)?.is_some_and(|image| image.capacity >= *capacity);
            if grown {
                let known = node.books.lock().update(*guest, |config| {
                    if let Some(size) = config.disks.get_mut(*index) {
                        *size = (*size).max(*capacity);
                    }
                });
                saved(node, known, DISKS).await?;
            }
        }
        Step::Started { guest, media } => {
            if runs(node, *guest).await? && hypervisor.media(*guest).await?.as_deref() == Some(media.file.as_str()) {
                let known = node.books.lock().update(*guest, |config| config.media = Some(media.clone()));
                saved(node, known, &[DataFile::Instance]).await?;
            }
        }
        Step::Delete { guest, group, directory } => {
            let known = node.books.guest(*guest).is_ok();
            remains::delete(node, *guest, group).await?;
            if known {
                // It was told that this has failed.
                node.announce_end(missed::deleted(*guest));
            }
            if let Some(directory) = directory {
                node.erase_leftover_copy(directory, *guest).await?;
            }
        }
        Step::Purge { guest, directory, running } => {
            remains::purge(node, *guest, directory.as_deref(), *running).await?;
            node.save(ALL).await?;
        }
        Step::Arrive { config, group, directory, generation } => arrive(node, config, group, directory, *generation).await?,
        Step::DropPool { name } => {
            let unused = node.books.lock().is_unused(name);
            if unused {
                node.host.storage.remove_pool(name).await?;
                node.books.lock().storage.pools.remove(name);
                node.save(DISKS).await?;
            }
        }
        Step::Addresses { pool } => {
            let changed = apply(&mut node.books.lock(), pool);
            node.save(changed).await?;
        }
        _ => return Err(Failure::Internal(format!("{step} can't be carried out"))),
    }
    Ok(())
}

/// None instead of an error when what it is about is gone.
fn there<T>(result: host::Result<T>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes the books down, unless the guest was not in them.
async fn saved(node: &Node, known: Result<(), Failure>, files: &[DataFile]) -> Result<(), Failure> {
    match known {
        Err(Failure::NoSuchGuest(_)) => Ok(()),
        Err(failure) => Err(failure),
        Ok(()) => node.save(files).await,
    }
}

async fn runs(node: &Node, id: GuestId) -> Result<bool, Failure> {
    let status = there(node.host.hypervisor.domain(id).await)?;
    Ok(status.is_some_and(|status| status.power == PowerState::Running))
}

/// Defines the domain again. One that is there was never removed and stays as it is.
async fn defined(node: &Node, config: &GuestConfig) -> Result<(), Failure> {
    if there(node.host.hypervisor.domain(config.id).await)?.is_none() {
        node.host.hypervisor.define(config).await?;
        node.set_power(config.id, PowerState::Stopped);
    }
    Ok(())
}

/// Starts a guest that was ended. What another host has meanwhile, and what ended with the host itself, stays ended.
async fn run_again(node: &Node, id: GuestId, boot: &str) -> Result<(), Failure> {
    if node.host.shared.boot() != boot || node.lost_to(id).await.is_some() {
        return Ok(());
    }
    node.hold(id).await?;
    node.host.hypervisor.start(id).await?;
    node.set_power(id, PowerState::Running);
    node.usage.started(id);
    Ok(())
}

/// Takes the claim of a guest again that was let go of, unless another host has it now.
async fn claimed(node: &Node, id: GuestId) -> Result<(), Failure> {
    match node.lost_to(id).await {
        Some(owner) => tracing::warn!(guest = %id, "it is {owner}'s now"),
        None => drop(node.hold(id).await?),
    }
    Ok(())
}

/// A guest that the Core has given us is ours, unless its claim was changed since: then somebody else has been given it.
async fn arrive(
    node: &Arc<Node>,
    config: &GuestConfig,
    group: &VolumeGroup,
    directory: &str,
    generation: Option<u64>,
) -> Result<(), Failure> {
    let id = config.id;
    let claim = node.host.shared.claim(directory, id).await?.unwrap_or_default();
    let ours = claim.owner == node.settings.name;
    if !ours && !claim.owner.is_empty() && Some(claim.generation) != generation {
        tracing::warn!(guest = %id, "it is {}'s now and does not come here", claim.owner);
        node.host.hypervisor.undefine(id).await?;
        node.books.lock().remove(id);
        return node.save(ALL).await;
    }
    defined(node, config).await?;
    let ran = if ours { claim.running } else { node.take_claim(directory, id).await? };
    let resource = Resource {
        monitor_port: config.monitor_port,
        hardware_address: config.hardware_address.clone(),
        internal_address: config.internal_address.clone(),
        external_address: config.external_address.clone(),
    };
    let guest = Guest { power: PowerState::Stopped, ..Guest::new(config.clone()) };
    node.books.lock().restore_guest(guest, group, Some(resource));
    node.save(ALL).await?;
    if ran || config.auto_start {
        node.arrived.lock().push(id);
    }
    Ok(())
}
