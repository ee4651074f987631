//! The messages that a Core sends to a Cell, as the real one builds them (contract §6); the tests compare them with captured ones.
//!
//! Contract: a message from here has every key that the real Core sends, also the ones that a Cell ignores, and no session number yet.

mod create;
#[cfg(test)]
mod tests;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};

pub use create::{CreateGuest, ImageSource, Policy, PolicyRule, TemplateNumbers};

use crate::config::{AddressPool, PoolConfig};

/// A media image to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Id on the image server.
    pub id: String,
    /// Address of the image server.
    pub host: String,
    /// Its HTTPS port.
    pub port: u16,
}

/// How to stop a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Press the power button and let the guest shut down.
    Graceful,
    /// Pull the plug.
    Force,
    /// Press the reset of an orderly reboot.
    Reboot,
    /// Hard reset.
    Reset,
}

/// Tells a Cell of its pool. `with_mode` as after a connect; without it as when an administrator adds the Cell (contract §13.1).
pub fn pool_ready(pool: &PoolConfig, with_mode: bool) -> Message {
    let storage = pool.storage.as_ref();
    let network = pool.network.as_ref();
    let mut message = Message::new(MessageId::COMPUTE_POOL_READY_EVENT)
        .string(Key::Pool, &pool.name)
        .string(Key::Storage, storage.map_or("", |storage| &storage.name))
        .string(Key::Network, network.map_or("", |network| &network.name));
    if let Some(storage) = storage {
        message = message.string(Key::Type, "nfs").string(Key::Host, &storage.host).string(Key::Target, &storage.target);
    }
    if let Some(network) = network {
        message = message.string(Key::Gateway, &network.gateway).strings(Key::Server, network.dns.clone());
        if with_mode {
            message = message.string(Key::Mode, &network.mode);
        }
    }
    message
}

/// Tells a Cell that it is in no pool any more; no answer follows.
pub fn cell_removed() -> Message {
    Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT)
}

/// Tells a Cell that its address pool changed; no answer follows.
pub fn address_pool_changed(pool: &AddressPool) -> Message {
    Message::new(MessageId::ADDRESS_POOL_CHANGED_EVENT)
        .string(Key::Address, &pool.name)
        .string(Key::Gateway, &pool.gateway)
        .strings(Key::Server, pool.dns.clone())
        .string(Key::Mode, &pool.mode)
}

/// Asks for the attached shared storage of the Cell of this name.
pub fn get_cell(cell: &str) -> Message {
    Message::new(MessageId::GET_COMPUTE_POOL_CELL_REQUEST).string(Key::Cell, cell)
}

/// Asks for the storage paths of the Cell of this name.
pub fn query_storage(cell: &str) -> Message {
    Message::new(MessageId::QUERY_CELL_STORAGE_REQUEST).string(Key::Cell, cell)
}

/// Asks the Cell of this name to keep new disks under `path`.
pub fn modify_storage(cell: &str, path: &str) -> Message {
    Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Cell, cell).string(Key::Path, path)
}

/// Asks for a guest's configuration. The real Core answers this from its own books; it serves tests and benches.
pub fn get_guest(guest: GuestId) -> Message {
    of_instance(MessageId::GET_GUEST_REQUEST, guest)
}

/// Asks for a guest's configuration and what it uses at present.
pub fn get_status(guest: GuestId) -> Message {
    of_instance(MessageId::GET_INSTANCE_STATUS_REQUEST, guest)
}

/// Deletes a stopped guest and its disks.
pub fn delete_guest(guest: GuestId) -> Message {
    of_instance(MessageId::DELETE_GUEST_REQUEST, guest)
}

/// Starts a guest, with a media image in its drive or without.
pub fn start_guest(guest: GuestId, media: Option<&Media>) -> Message {
    let message = of_instance(MessageId::START_INSTANCE_REQUEST, guest).uint(Key::Option, media.is_some().into());
    match media {
        None => message,
        Some(media) => message.string(Key::Source, &media.id).string(Key::Host, &media.host).uint(Key::Port, media.port.into()),
    }
}

/// Stops, reboots or resets a running guest.
pub fn stop_guest(guest: GuestId, mode: StopMode) -> Message {
    let (reboot, force) = match mode {
        StopMode::Graceful => (0, 0),
        StopMode::Force => (0, 1),
        StopMode::Reboot => (1, 0),
        StopMode::Reset => (1, 1),
    };
    of_instance(MessageId::STOP_INSTANCE_REQUEST, guest).uints(Key::Option, [reboot, force])
}

/// Fills a stopped guest's system disk anew from an image.
pub fn reset_system(guest: GuestId, image: &ImageSource) -> Message {
    Message::new(MessageId::RESET_SYSTEM_REQUEST)
        .string(Key::Guest, guest.to_string())
        .string(Key::Image, &image.id)
        .string(Key::Host, &image.host)
        .uint(Key::Port, image.port.into())
        .uint(Key::Size, image.size)
}

/// Asks for an image of a guest's system disk; the image's size is not known yet.
pub fn create_disk_image(guest: GuestId, image: &ImageSource) -> Message {
    Message::new(MessageId::CREATE_DISK_IMAGE_REQUEST)
        .string(Key::Guest, guest.to_string())
        .string(Key::Image, &image.id)
        .string(Key::Host, &image.host)
        .uint(Key::Port, image.port.into())
}

fn of_instance(id: MessageId, guest: GuestId) -> Message {
    Message::new(id).string(Key::Instance, guest.to_string())
}
