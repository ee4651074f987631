//! From the capture's guests and Cell to the live ones.

use std::collections::BTreeMap;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};

/// Which live guest stands for which of the capture.
#[derive(Debug)]
pub(super) struct Mapping {
    cell: String,
    /// Keeps the names of two replays apart.
    mark: String,
    guests: BTreeMap<String, GuestId>,
}

impl Mapping {
    pub(super) fn new(cell: &str) -> Self {
        let mark = GuestId::random().to_string().chars().take(6).collect();
        Self { cell: cell.into(), mark, guests: BTreeMap::new() }
    }

    /// The live guest for an id of the capture.
    pub(super) fn guest(&self, captured: &str) -> Option<GuestId> {
        self.guests.get(captured).copied()
    }

    /// Every live guest that was asked for.
    pub(super) fn guests(&self) -> Vec<GuestId> {
        self.guests.values().copied().collect()
    }

    /// The request for the live Cell, or why it cannot be sent.
    pub(super) fn translate(&mut self, captured: &Message) -> Result<Message, String> {
        if captured.string_params.contains_key(&Key::Host) && captured.id != MessageId::COMPUTE_POOL_READY_EVENT {
            return Err("it needs the capture's image server".into());
        }
        let mut message = captured.clone();
        let id = message.id;
        if let (MessageId::CREATE_GUEST_REQUEST, Some(guest)) = (id, captured.string_params.get(&Key::Instance)) {
            self.guests.insert(guest.clone(), GuestId::random());
        }
        for (key, text) in &mut message.string_params {
            match *key {
                Key::Instance | Key::Guest => *text = self.live(text)?.to_string(),
                Key::Cell => text.clone_from(&self.cell),
                Key::Name if matches!(id, MessageId::CREATE_GUEST_REQUEST | MessageId::MODIFY_GUEST_NAME_REQUEST) => {
                    *text = format!("{text}-{}", self.mark);
                }
                _ => {}
            }
        }
        if let Some(guests) = message.string_array_params.get_mut(&Key::Instance) {
            for guest in guests {
                *guest = self.live(guest)?.to_string();
            }
        }
        Ok(message)
    }

    fn live(&self, captured: &str) -> Result<GuestId, String> {
        self.guest(captured).ok_or_else(|| format!("the capture does not create its guest {captured}"))
    }
}
