//! What Cells tell unasked (contract §5.2), and what that changes in the books.

use std::time::Duration;

use cell::model::{GuestId, InvalidGuestId};
use cell::proto::message::{Key, Message, MessageId};

use super::Domain;
use crate::answers::{number, text, AnswerError, StatusReport};
use crate::events::{Event, Recorded};
use crate::guest::Guest;

/// Why the real Core would ignore it.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Id(#[from] InvalidGuestId),
    #[error("no guest {0} of this Cell is in the books")]
    UnknownGuest(GuestId),
    #[error("the guest {0} was confirmed before")]
    Confirmed(GuestId),
    #[error("the guest {0} is marked created; the answer to its reset must be handled first")]
    NotResetting(GuestId),
}

impl Domain {
    /// Takes a message without a session.
    pub(super) fn news(&mut self, now: Duration, cell: String, message: Message) {
        let id = message.id;
        let name = self.name_of_guest(&cell, &message); // before the news takes it out of the books
        let event = match self.interpret(&cell, message) {
            Ok(event) => event,
            Err(flaw) => Event::Ignored { cell, id: Some(id), reason: flaw.to_string() },
        };
        self.log.push(Recorded { at: now, name, event });
    }

    fn name_of_guest(&self, cell: &str, message: &Message) -> Option<String> {
        let id = message.string_params.get(&Key::Instance).or_else(|| message.string_params.get(&Key::Guest))?;
        self.cells.get(cell)?.guests.get(&id.parse().ok()?).map(|guest| guest.name.clone())
    }

    fn interpret(&mut self, cell: &str, message: Message) -> Result<Event, Flaw> {
        let name = cell.to_owned();
        Ok(match message.id {
            MessageId::CELL_STATUS_REPORT_EVENT => {
                let report = StatusReport::from_message(&message)?;
                if let Some(cell) = self.cells.get_mut(cell) {
                    cell.report = Some(report);
                }
                Event::StatusReport { cell: name, report }
            }
            MessageId::GUEST_CREATED_EVENT => return self.created(cell, &message),
            MessageId::GUEST_UPDATED_EVENT => return self.updated(cell, &message),
            MessageId::GUEST_DELETED_EVENT => {
                let guest = self.known(cell, &message, Key::Instance)?.id;
                self.remove_guest(cell, guest);
                Event::GuestDeleted { cell: name, guest }
            }
            MessageId::GUEST_STARTED_EVENT => {
                let guest = self.known(cell, &message, Key::Instance)?;
                guest.running = true;
                Event::GuestStarted { cell: name, guest: guest.id }
            }
            MessageId::GUEST_STOPPED_EVENT => {
                let guest = self.known(cell, &message, Key::Instance)?;
                guest.running = false;
                Event::GuestStopped { cell: name, guest: guest.id }
            }
            MessageId::ADDRESS_CHANGED_EVENT => {
                let address = text(&message, Key::Address)?;
                let guest = self.known(cell, &message, Key::Instance)?;
                guest.address.clone_from(&address);
                Event::GuestAddress { cell: name, guest: guest.id, address }
            }
            MessageId::MEDIA_ATTACHED_EVENT => {
                let media = text(&message, Key::Media)?;
                let guest = self.known(cell, &message, Key::Instance)?;
                guest.media = Some(media.clone());
                Event::MediaAttached { cell: name, guest: guest.id, media }
            }
            MessageId::MEDIA_DETACHED_EVENT => {
                let guest = self.known(cell, &message, Key::Instance)?;
                guest.media = None;
                Event::MediaDetached { cell: name, guest: guest.id }
            }
            MessageId::SYSTEM_RESET_EVENT => return self.system_reset(cell, &message),
            _ => Event::Other { cell: name, message },
        })
    }

    fn created(&mut self, cell: &str, message: &Message) -> Result<Event, Flaw> {
        let monitor_port = number(message, Key::Monitor)?;
        let monitor_secret = text(message, Key::Secret)?;
        let hardware_address = text(message, Key::Hardware)?;
        let guest = self.known(cell, message, Key::Instance)?;
        if guest.created {
            return Err(Flaw::Confirmed(guest.id));
        }
        guest.created = true;
        guest.monitor_port = monitor_port;
        guest.monitor_secret = monitor_secret;
        guest.hardware_address.clone_from(&hardware_address);
        Ok(Event::GuestCreated { cell: cell.into(), guest: guest.id, monitor_port, hardware_address })
    }

    fn updated(&mut self, cell: &str, message: &Message) -> Result<Event, Flaw> {
        let guest = self.known(cell, message, Key::Instance)?.id;
        if !message.success {
            self.remove_guest(cell, guest);
            return Ok(Event::GuestFailed { cell: cell.into(), guest, reason: message.error.clone() });
        }
        let percent = number(message, Key::Progress)?;
        let guest = self.known(cell, message, Key::Instance)?;
        guest.progress = percent;
        Ok(Event::GuestProgress { cell: cell.into(), guest: guest.id, percent })
    }

    fn system_reset(&mut self, cell: &str, message: &Message) -> Result<Event, Flaw> {
        let guest = self.known(cell, message, Key::Guest)?;
        if guest.created {
            return Err(Flaw::NotResetting(guest.id));
        }
        guest.created = message.success;
        let failure = (!message.success).then(|| message.error.clone());
        Ok(Event::SystemReset { cell: cell.into(), guest: guest.id, failure })
    }

    fn known(&mut self, cell: &str, message: &Message, key: Key) -> Result<&mut Guest, Flaw> {
        let id: GuestId = text(message, key)?.parse()?;
        self.cells.get_mut(cell).and_then(|cell| cell.guests.get_mut(&id)).ok_or(Flaw::UnknownGuest(id))
    }

    fn remove_guest(&mut self, cell: &str, guest: GuestId) {
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.guests.remove(&guest);
        }
    }
}
