//! What a Core's own requests change in its books: a guest that is asked for is pending at once, the rest follows the Cell's success (contract §6.3).

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};

use super::Domain;
use crate::guest::Guest;

impl Domain {
    /// A request is about to leave. True when it put a guest into the books, which a failure has to take out again.
    pub(crate) fn asked(&mut self, cell: &str, request: &Message) -> bool {
        let Some(guest) = Guest::asked_for(request) else { return false };
        let Some(cell) = self.cells.get_mut(cell) else { return false };
        match cell.guests.contains_key(&guest.id) {
            true => false, // the Cell will refuse it, and the one in the books stays
            false => cell.guests.insert(guest.id, guest).is_none(),
        }
    }

    /// A request that put a guest into the books came to nothing.
    pub(crate) fn abandoned(&mut self, cell: &str, request: &Message) {
        if let (Some(cell), Some(guest)) = (self.cells.get_mut(cell), guest_of(request)) {
            cell.guests.remove(&guest);
        }
    }

    /// A request succeeded.
    pub(crate) fn succeeded(&mut self, cell: &str, request: &Message, answer: &Message) {
        let entry = guest_of(request).and_then(|id| self.cells.get_mut(cell)?.guests.get_mut(&id));
        let Some(guest) = entry else { return };
        let number = |key| request.uint_params.get(&key).copied();
        match request.id {
            MessageId::RESET_SYSTEM_REQUEST => guest.created = false,
            MessageId::MODIFY_GUEST_NAME_REQUEST => set(&mut guest.name, request.string_params.get(&Key::Name).cloned()),
            MessageId::MODIFY_CORE_REQUEST => set(&mut guest.cores, number(Key::Core)),
            MessageId::MODIFY_MEMORY_REQUEST => set(&mut guest.memory, number(Key::Memory)),
            MessageId::MODIFY_PRIORITY_REQUEST => set(&mut guest.priority, number(Key::Priority)),
            MessageId::MODIFY_AUTO_START_REQUEST => set(&mut guest.auto_start, request.bool_params.get(&Key::Enable).copied()),
            MessageId::MODIFY_DISK_THRESHOLD_REQUEST | MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST => limit(guest, request),
            MessageId::RESET_SECRET_REQUEST => set(&mut guest.monitor_secret, answer.string_params.get(&Key::Secret).cloned()),
            MessageId::RESIZE_DISK_REQUEST => {
                let disk = number(Key::Disk).and_then(|index| guest.disks.get_mut(usize::try_from(index).ok()?));
                if let (Some(disk), Some(size)) = (disk, number(Key::Size)) {
                    *disk = size;
                }
            }
            _ => {}
        }
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The first four limits are the disks', the last two the network's.
fn limit(guest: &mut Guest, request: &Message) {
    let Some(values) = request.uint_array_params.get(&Key::Limit) else { return };
    let first = if request.id == MessageId::MODIFY_DISK_THRESHOLD_REQUEST { 0 } else { 4 };
    for (field, value) in guest.limits.iter_mut().skip(first).zip(values) {
        *field = *value;
    }
}

/// The guest that a request is about: it stands under one of two keys.
fn guest_of(request: &Message) -> Option<GuestId> {
    let id = request.string_params.get(&Key::Instance).or_else(|| request.string_params.get(&Key::Guest));
    id.and_then(|id| id.parse().ok())
}
