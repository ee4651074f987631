//! The steps of transactions as data: what is announced in the journal before it is done.
//!
//! Contract: a step names everything that taking it back, or carrying it out, needs; nothing is looked up that a crash could have taken along.
//! Both are idempotent and right also for a step that was never begun.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::moves::{Arriving, Leaving};
use crate::host::NfsSource;
use crate::model::{GuestConfig, GuestId, InstanceBook, Media, StorageBook, VolumeGroup};
use crate::store::journal;
use crate::txn::handlers::change_address_pool::AddressPool;
use crate::txn::setting::Setting;
use crate::txn::Failure;

/// One step. The first group is taken back when its transaction fails, the second is carried out when it has succeeded.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(in crate::txn) enum Step {
    /// Name, port and MAC are set aside in memory.
    Reservation { guest: GuestId },
    /// A new volume.
    Volume { pool: String, name: String },
    /// A new small file beside the volumes.
    File { path: String },
    /// A new image.
    Image { path: String },
    /// An image that is being fetched beside a disk.
    Fetched { disk: String },
    /// The image at `path` got the name `aside`, and perhaps `new` its place.
    Aside { path: String, new: Option<String>, aside: String },
    /// Another image is merged into this one.
    Merge { path: String },
    /// The image had so many bytes.
    Size { path: String, capacity: u64 },
    /// A new domain and its filter.
    Domain { guest: GuestId },
    /// Volumes in a domain's definition, as (former, new) names.
    Volumes { guest: GuestId, names: Vec<(String, String)> },
    /// A setting of a domain, which was as in this configuration.
    Configured { setting: Setting, config: Box<GuestConfig> },
    /// The drive of a running guest, which held this file.
    Drive { guest: GuestId, file: Option<String> },
    /// The password of an account in a running guest, which was as in this configuration if it was that account's.
    Password { config: Box<GuestConfig>, user: String },
    /// A new pool.
    Pool { name: String },
    /// A local pool that is moved from here.
    LocalPool { name: String, target: String },
    /// A shared pool that is detached.
    SharedPool { name: String, source: NfsSource, target: String },
    /// What a shared pool's directory is told about a new guest.
    Copy { guest: GuestId, directory: String },
    /// A new guest in the books.
    Entry { guest: GuestId },
    /// A guest leaves for another host.
    Leave(Box<Leaving>),
    /// What the books held of a guest's disks.
    Disks { guest: GuestId, group: Box<VolumeGroup>, sizes: Vec<u64>, volumes: Vec<String> },
    /// A setting in the books, which was as in this configuration.
    Written { setting: Setting, config: Box<GuestConfig> },
    /// Whether a guest in the books had its first-boot data.
    Initialized { guest: GuestId, initialized: bool },
    /// Where new guests went, and the pools.
    Layout { storage: Box<StorageBook>, instance: Box<InstanceBook> },
    /// libvirt was to start the guest with the host, and is not to while its disks are half-way; in this boot of the host. The mark comes back either way.
    Autostart { guest: GuestId, boot: String },

    /// An image that is of no use any more.
    Needless { path: String },
    /// An image of a guest that is of no use once no book and no image needs it.
    Obsolete { guest: GuestId, path: String },
    /// A merge that stands.
    Merged { path: String },
    /// The fetched image takes the place of the disk.
    Install { disk: String },
    /// QEMU goes on with other images, as (present, new) paths.
    Switch { guest: GuestId, images: Vec<(String, String)> },
    /// File systems of a running guest are thawed.
    Thaw { guest: GuestId },
    /// A disk of a running guest grows, and the books say so when it has.
    Grown { guest: GuestId, index: usize, path: String, capacity: u64 },
    /// Media that a guest was started with, and the books say so when it was.
    Started { guest: GuestId, media: Media },
    /// A guest goes with all that it has.
    Delete { guest: GuestId, group: Box<VolumeGroup>, directory: Option<String> },
    /// A guest that was moved elsewhere, and may run, goes from here.
    Purge { guest: GuestId, directory: Option<String>, running: bool },
    /// A guest comes here. Before the Core has ordered that, it can be taken back as well.
    Arrive(Box<Arriving>),
    /// A shared pool without guests goes.
    DropPool { name: String },
    /// The address pool changes.
    Addresses { pool: AddressPool },
}

impl Step {
    /// As a record holds it.
    pub(super) fn written(&self) -> Result<journal::Step, Failure> {
        journal::Step::new(self.to_string(), self).map_err(|error| Failure::Internal(format!("{self} can't be announced: {error}")))
    }

    /// From a record. One of another version may hold steps that this one does not know.
    pub(super) fn read(step: &journal::Step) -> Result<Self, Failure> {
        step.data()
            .map_err(|error| Failure::refused(format!("the journal's step '{}' is of another version of the cell: {error}", step.about)))
    }

    /// Whether it says which images a guest's disks are, or needs them whole: these follow each other.
    pub(super) fn is_of_disks(&self) -> bool {
        matches!(self, Self::Aside { .. } | Self::Merge { .. } | Self::Size { .. } | Self::Install { .. } | Self::Autostart { .. })
    }

    /// The guest that it is about; none where it names files or pools alone.
    pub(super) fn guest(&self) -> Option<GuestId> {
        match self {
            Self::Reservation { guest }
            | Self::Domain { guest }
            | Self::Volumes { guest, .. }
            | Self::Drive { guest, .. }
            | Self::Copy { guest, .. }
            | Self::Entry { guest }
            | Self::Disks { guest, .. }
            | Self::Initialized { guest, .. }
            | Self::Autostart { guest, .. }
            | Self::Obsolete { guest, .. }
            | Self::Switch { guest, .. }
            | Self::Thaw { guest }
            | Self::Grown { guest, .. }
            | Self::Started { guest, .. }
            | Self::Delete { guest, .. }
            | Self::Purge { guest, .. } => Some(*guest),
            Self::Configured { config, .. } | Self::Password { config, .. } | Self::Written { config, .. } => Some(config.id),
            Self::Leave(guest) => Some(guest.config.id),
            Self::Arrive(guest) => Some(guest.config.id),
            _ => None,
        }
    }

    /// A file or pool that it works on: whoever serves that may be silent.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        match self {
            Self::File { path }
            | Self::Image { path }
            | Self::Merge { path }
            | Self::Size { path, .. }
            | Self::Aside { path, .. }
            | Self::Fetched { disk: path }
            | Self::Needless { path }
            | Self::Obsolete { path, .. }
            | Self::Merged { path }
            | Self::Install { disk: path }
            | Self::Grown { path, .. } => Some(Place::File(path)),
            Self::Copy { directory, .. } => Some(Place::File(directory)),
            Self::Arrive(guest) => Some(Place::File(&guest.directory)),
            Self::Leave(guest) => Some(Place::File(&guest.directory)),
            Self::Volume { pool, .. } => Some(Place::Pool(pool)),
            Self::Delete { group, .. } => Some(Place::Pool(&group.system.pool)),
            Self::Pool { name } | Self::LocalPool { name, .. } | Self::SharedPool { name, .. } | Self::DropPool { name } => {
                Some(Place::Pool(name))
            }
            _ => None,
        }
    }
}

/// See [`Step::place`].
pub(super) enum Place<'a> {
    /// A path.
    File(&'a str),
    /// A pool's name.
    Pool(&'a str),
}

impl fmt::Display for Step {
    /// What stays behind when it can't be taken back, or carried out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reservation { guest } => write!(f, "reservation of guest {guest}"),
            Self::Volume { pool, name } => write!(f, "volume {name} in pool {pool}"),
            Self::File { path } => write!(f, "cloud-init image {path}"),
            Self::Image { path } => write!(f, "file {path}"),
            Self::Fetched { disk } => write!(f, "an image beside {disk}"),
            Self::Aside { path, aside, .. } => write!(f, "{aside}, which was {path}"),
            Self::Merge { path } => write!(f, "content of {path}"),
            Self::Size { path, capacity } => write!(f, "size of {path}, which had {capacity} bytes"),
            Self::Domain { guest } => write!(f, "domain and filter of guest {guest}"),
            Self::Volumes { guest, .. } => write!(f, "volumes in the definition of guest {guest}"),
            Self::Configured { setting, config } => write!(f, "new {} of guest {} in libvirt", setting.name(), config.id),
            Self::Drive { guest, file: Some(_) } => write!(f, "the empty drive of guest {guest}"),
            Self::Drive { guest, file: None } => write!(f, "media in the drive of guest {guest}"),
            Self::Password { config, user } => write!(f, "new password of '{user}' in guest {}", config.id),
            Self::Pool { name } => write!(f, "storage pool {name}"),
            Self::LocalPool { name, target } => write!(f, "pool {name} at {target}"),
            Self::SharedPool { name, source, .. } => write!(f, "storage pool {name} of {}:{}", source.host, source.path),
            Self::Copy { guest, directory } => write!(f, "description of guest {guest} in {directory}"),
            Self::Entry { guest } => write!(f, "entry of guest {guest} in data/"),
            Self::Leave(guest) => write!(f, "departure of guest {}", guest.config.id),
            Self::Disks { guest, .. } => write!(f, "entry of the volumes of guest {guest} in data/"),
            Self::Written { setting, config } => write!(f, "new {} of guest {} in data/", setting.name(), config.id),
            Self::Initialized { guest, .. } => write!(f, "the mark of guest {guest} that it was initialized"),
            Self::Layout { .. } => f.write_str("storage pools in data/"),
            Self::Autostart { guest, .. } => write!(f, "the automatic start of guest {guest}, which is off"),
            Self::Needless { path } | Self::Obsolete { path, .. } => write!(f, "{path}, which is of no use any more"),
            Self::Merged { path } => write!(f, "what {path} was before a merge"),
            Self::Install { disk } => write!(f, "the new image of {disk}"),
            Self::Switch { guest, .. } => write!(f, "the new images of the running guest {guest}"),
            Self::Thaw { guest } => write!(f, "frozen file systems of guest {guest}"),
            Self::Grown { guest, index, .. } => write!(f, "new size of disk {index} of guest {guest} in data/"),
            Self::Started { guest, media } => write!(f, "media {} of guest {guest} in data/", media.id),
            Self::Delete { guest, .. } => write!(f, "rest of guest {guest}, which is being deleted"),
            Self::Purge { guest, .. } => write!(f, "rest of guest {guest}, which was moved to another cell"),
            Self::Arrive(guest) => write!(f, "arrival of guest {}", guest.config.id),
            Self::DropPool { name } => write!(f, "storage pool {name}, which is not used any more"),
            Self::Addresses { .. } => f.write_str("the new address pool in data/"),
        }
    }
}
#[cfg(test)]
mod tests;
