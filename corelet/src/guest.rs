//! A guest in the Core's books, and how it gets there from a Cell's list (contract §6.1).

use std::collections::BTreeMap;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use serde::Serialize;

/// What the Core knows of a guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guest {
    /// Full name `<group>.<name>`.
    pub name: String,
    /// Its id.
    pub id: GuestId,
    /// Owner.
    pub owner: String,
    /// Owner's group.
    pub group: String,
    /// Virtual CPUs.
    pub cores: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk sizes in bytes, system disk first.
    pub disks: Vec<u64>,
    /// Starts with the host.
    pub auto_start: bool,
    /// False until the Cell says so.
    pub created: bool,
    /// Percent while not created.
    pub progress: u64,
    /// A QEMU process exists.
    pub running: bool,
    /// TCP port of VNC or SPICE, 0 while unknown.
    pub monitor_port: u64,
    /// Password of VNC or SPICE.
    pub monitor_secret: String,
    /// MAC address.
    pub hardware_address: String,
    /// Address that the guest was seen to use, empty while unknown.
    pub address: String,
    /// CPU priority: 0 high, 1 medium, 2 low.
    pub priority: u64,
    /// Read B/s, write B/s, read IOPS, write IOPS, receive B/s, send B/s; 0 = unlimited.
    pub limits: [u64; 6],
    /// When it was created, local time of the Cell.
    pub create_time: String,
    /// Id of the media image in its drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
}

impl Guest {
    /// The guest that a request asks for; `None` for any other request, or one without a readable id.
    pub(crate) fn asked_for(request: &Message) -> Option<Self> {
        if request.id != MessageId::CREATE_GUEST_REQUEST {
            return None;
        }
        let text = |key| request.string_params.get(&key).cloned().unwrap_or_default();
        let number = |key| request.uint_params.get(&key).copied().unwrap_or_default();
        let list = |key| request.uint_array_params.get(&key).cloned().unwrap_or_default();
        Some(Self {
            name: text(Key::Name),
            id: text(Key::Instance).parse().ok()?,
            owner: text(Key::User),
            group: text(Key::Group),
            cores: number(Key::Core),
            memory: number(Key::Memory),
            disks: list(Key::Disk),
            auto_start: request.bool_params.get(&Key::Option).copied().unwrap_or_default(),
            created: false,
            progress: 0,
            running: false,
            monitor_port: 0,
            monitor_secret: String::new(),
            hardware_address: String::new(),
            address: String::new(),
            priority: number(Key::Priority),
            limits: list(Key::Limit).try_into().unwrap_or_default(),
            create_time: String::new(),
            media: None,
        })
    }
}

/// Why a Cell's list of guests cannot be taken. The real Core would throw it away or crash on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A list is not there at all.
    #[error("{0} is missing")]
    Missing(Key),
    /// A list does not fit the number of guests.
    #[error("{key} has {found} values where {expected} belong")]
    Length {
        /// Which list.
        key: Key,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// An id is not a UUID.
    #[error("{0}")]
    Id(String),
}

/// Reads the guests out of a `ComputeCellReadyEvent`.
pub(crate) fn import(message: &Message) -> Result<BTreeMap<GuestId, Guest>, ImportError> {
    let count = *message.uint_params.get(&Key::Count).ok_or(ImportError::Missing(Key::Count))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 {
        return Ok(BTreeMap::new());
    }
    let lists = Lists { message, count };
    lists.check_those_that_are_not_kept()?;
    let disk_counts = lists.numbers(Key::Count)?;
    let disks = disks(message, disk_counts)?;
    let limits = limits(message, count)?;
    let mut guests = BTreeMap::new();
    let strings = [Key::Name, Key::Instance, Key::User, Key::Group, Key::Secret, Key::Address, Key::Create, Key::Hardware];
    let numbers = [Key::Core, Key::Memory, Key::Option, Key::Enable, Key::Progress, Key::Status, Key::Monitor, Key::Priority];
    let texts: Vec<&[String]> = strings.into_iter().map(|key| lists.texts(key)).collect::<Result<_, _>>()?;
    let values: Vec<&[u64]> = numbers.into_iter().map(|key| lists.numbers(key)).collect::<Result<_, _>>()?;
    for (index, (disks, limits)) in disks.into_iter().zip(limits).enumerate() {
        let text = |column: usize| texts.get(column).and_then(|list| list.get(index)).cloned().unwrap_or_default();
        let value = |column: usize| values.get(column).and_then(|list| list.get(index)).copied().unwrap_or_default();
        let id: GuestId = text(1).parse().map_err(|error: cell::model::InvalidGuestId| ImportError::Id(error.to_string()))?;
        let guest = Guest {
            name: text(0),
            id,
            owner: text(2),
            group: text(3),
            monitor_secret: text(4),
            address: text(5),
            create_time: text(6),
            hardware_address: text(7),
            cores: value(0),
            memory: value(1),
            auto_start: value(2) != 0,
            created: value(3) != 0,
            progress: value(4),
            running: value(5) != 0,
            monitor_port: value(6),
            priority: value(7),
            disks,
            limits,
            media: None,
        };
        guests.insert(id, guest);
    }
    Ok(guests)
}

/// The lists of a ready event, each with one value a guest.
struct Lists<'a> {
    message: &'a Message,
    count: usize,
}

impl<'a> Lists<'a> {
    fn texts(&self, key: Key) -> Result<&'a [String], ImportError> {
        let list = self.message.string_array_params.get(&key).ok_or(ImportError::Missing(key))?;
        self.fitting(key, list)
    }

    fn numbers(&self, key: Key) -> Result<&'a [u64], ImportError> {
        let list = self.message.uint_array_params.get(&key).ok_or(ImportError::Missing(key))?;
        self.fitting(key, list)
    }

    fn fitting<T>(&self, key: Key, list: &'a [T]) -> Result<&'a [T], ImportError> {
        match list.len() {
            found if found != self.count => Err(ImportError::Length { key, found, expected: self.count }),
            _ => Ok(list),
        }
    }

    /// The real Core reads these too, without asking for their length.
    fn check_those_that_are_not_kept(&self) -> Result<(), ImportError> {
        [Key::System, Key::Internal, Key::External].into_iter().try_for_each(|key| self.texts(key).map(drop))
    }
}

/// The sizes of all guests' disks stand in one list.
fn disks(message: &Message, counts: &[u64]) -> Result<Vec<Vec<u64>>, ImportError> {
    let sizes = message.uint_array_params.get(&Key::Disk).ok_or(ImportError::Missing(Key::Disk))?;
    let expected = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let expected = usize::try_from(expected).unwrap_or(usize::MAX);
    if sizes.len() != expected {
        return Err(ImportError::Length { key: Key::Disk, found: sizes.len(), expected });
    }
    let mut sizes = sizes.iter().copied();
    Ok(counts.iter().map(|count| sizes.by_ref().take(usize::try_from(*count).unwrap_or(usize::MAX)).collect()).collect())
}

fn limits(message: &Message, count: usize) -> Result<Vec<[u64; 6]>, ImportError> {
    let list = message.uint_array_params.get(&Key::Limit).ok_or(ImportError::Missing(Key::Limit))?;
    let expected = count.saturating_mul(6);
    if list.len() != expected {
        return Err(ImportError::Length { key: Key::Limit, found: list.len(), expected });
    }
    Ok(list.chunks_exact(6).filter_map(|six| six.try_into().ok()).collect())
}

#[cfg(test)]
mod tests;
