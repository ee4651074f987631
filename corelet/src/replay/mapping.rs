//! From the capture's guests, Cell and image server to the live ones, and from its answers to those that are expected.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};

/// The image that stands for those of the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveImage {
    pub(super) server: SocketAddr,
    pub(super) id: String,
    pub(super) size: u64,
}

/// It names an image server.
pub(super) fn about_images(request: &Message) -> bool {
    request.string_params.contains_key(&Key::Host) && request.id != MessageId::COMPUTE_POOL_READY_EVENT
}

/// What stands for what.
#[derive(Debug)]
pub(super) struct Mapping {
    cell: String,
    /// Keeps the names of two replays apart.
    mark: String,
    guests: BTreeMap<String, GuestId>,
    image: Option<LiveImage>,
}

impl Mapping {
    pub(super) fn new(cell: &str) -> Self {
        let mark = GuestId::random().to_string().chars().take(6).collect();
        Self { cell: cell.into(), mark, guests: BTreeMap::new(), image: None }
    }

    /// Requests about images are about this one.
    pub(super) fn use_image(&mut self, image: LiveImage) {
        self.image = Some(image);
    }

    /// The live guest for an id of the capture.
    pub(super) fn guest(&self, captured: &str) -> Option<GuestId> {
        self.guests.get(captured).copied()
    }

    /// Every live guest that was asked for.
    pub(super) fn guests(&self) -> Vec<GuestId> {
        self.guests.values().copied().collect()
    }

    /// A guest of the capture is asked for: the id of the live one.
    pub(super) fn enter(&mut self, captured: &str) -> GuestId {
        let id = GuestId::random();
        self.guests.insert(captured.into(), id);
        id
    }

    /// The name of a live guest or image.
    pub(super) fn name(&self, captured: &str) -> String {
        format!("{captured}-{}", self.mark)
    }

    /// The request for the live Cell, or why it cannot be sent.
    pub(super) fn translate(&mut self, captured: &Message) -> Result<Message, String> {
        let mut message = captured.clone();
        let id = message.id;
        if about_images(captured) {
            self.translate_image(&mut message)?;
        }
        if let (MessageId::CREATE_GUEST_REQUEST, Some(guest)) = (id, captured.string_params.get(&Key::Instance)) {
            self.enter(guest);
        }
        for (key, text) in &mut message.string_params {
            match *key {
                Key::Instance | Key::Guest => *text = self.live(text)?.to_string(),
                Key::Cell => text.clone_from(&self.cell),
                Key::Name if matches!(id, MessageId::CREATE_GUEST_REQUEST | MessageId::MODIFY_GUEST_NAME_REQUEST) => {
                    *text = self.name(text)
                }
                _ => {}
            }
        }
        self.translate_list(&mut message)?;
        Ok(message)
    }

    fn translate_image(&self, message: &mut Message) -> Result<(), String> {
        let live = self.image.as_ref().ok_or("it needs the capture's image server")?;
        message.string_params.insert(Key::Host, live.server.ip().to_string());
        message.uint_params.insert(Key::Port, live.server.port().into());
        let upload = message.id == MessageId::CREATE_DISK_IMAGE_REQUEST;
        if let Some(image) = message.string_params.get_mut(&Key::Image) {
            *image = if upload { self.name(image) } else { live.id.clone() };
            if !upload {
                message.uint_params.insert(Key::Size, live.size);
            }
        }
        Ok(())
    }

    fn translate_list(&self, message: &mut Message) -> Result<(), String> {
        for guest in message.string_array_params.get_mut(&Key::Instance).into_iter().flatten() {
            *guest = self.live(guest)?.to_string();
        }
        Ok(())
    }

    /// The captured answer as it is expected of the live Cell.
    pub(super) fn expect(&self, captured: &Message) -> Message {
        let mut message = captured.clone();
        for key in [Key::Instance, Key::Guest] {
            if let (Some(text), Some(id)) = (message.string_params.get_mut(&key), captured.string_params.get(&key)) {
                if let Some(guest) = self.guest(id) {
                    *text = guest.to_string();
                }
            }
        }
        if message.string_params.contains_key(&Key::Instance) {
            if let Some(name) = message.string_params.get_mut(&Key::Name) {
                *name = self.name(name);
            }
        }
        message
    }

    fn live(&self, captured: &str) -> Result<GuestId, String> {
        self.guest(captured).ok_or_else(|| format!("the capture does not create its guest {captured}"))
    }
}
