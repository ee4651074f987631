//! What taking a step back, and carrying one out, is.

use std::sync::Arc;

use super::step::Step;
use super::{autostart, moves};
use crate::host::{self, ErrorKind};
use crate::model::{GuestId, PowerState};
use crate::store::DataFile;
use crate::txn::handlers::change_address_pool::apply;
use crate::txn::handlers::{modify_auth, remains};
use crate::txn::volumes::live;
use crate::txn::{missed, thaws, Failure, Node};

/// What a guest's entry is in.
pub(super) const ALL: &[DataFile] = &[DataFile::Instance, DataFile::Storage, DataFile::Network];
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
        Step::Password { config, user } => match modify_auth::restore(hypervisor.as_ref(), config, user).await {
            // Nobody is there to be told. A guest that can't be started again because of this would be worse.
            Err(error) if error.kind == ErrorKind::Busy || error.kind == ErrorKind::NotFound => {
                tracing::warn!(guest = %config.id, "it does not run any more: whether '{user}' has the former password there or the new one is not known");
            }
            other => other?,
        },
        Step::Pool { name } => drop(storage.remove_pool(name).await?),
        Step::LocalPool { name, target } => {
            storage.remove_pool(name).await?;
            storage.ensure_local_pool(name, target).await?;
        }
        Step::SharedPool { name, source, target } => drop(storage.ensure_nfs_pool(name, source, target).await?),
        Step::Copy { guest, directory } => node.erase_leftover_copy(directory, *guest).await?,
        Step::Entry { guest } => {
            node.books.lock().remove(*guest);
            node.save(ALL).await?;
            // A handler that still runs tells more of it. After a crash the Core may have been told that the guest is being made.
            node.missed.keep(missed::broken_off(*guest));
        }
        Step::Leave(guest) => moves::stay(node, guest).await?,
        Step::Arrive(guest) => moves::decide(node, guest).await?,
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
        Step::Autostart { guest, boot } => autostart::give_back(node, *guest, boot).await?,
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
        Step::Arrive(guest) => moves::arrive(node, guest).await?,
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
        Step::Autostart { guest, boot } => autostart::give_back(node, *guest, boot).await?,
        _ => return Err(Failure::Internal(format!("{step} can't be carried out"))),
    }
    Ok(())
}

/// None instead of an error when what it is about is gone.
pub(super) fn there<T>(result: host::Result<T>) -> Result<Option<T>, Failure> {
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

/// What libvirt says; false when it does not know the guest.
pub(super) async fn runs(node: &Node, id: GuestId) -> Result<bool, Failure> {
    let status = there(node.host.hypervisor.domain(id).await)?;
    Ok(status.is_some_and(|status| status.power == PowerState::Running))
}
