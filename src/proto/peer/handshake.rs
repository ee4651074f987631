//! The first message of either side (contract §2.3).

use super::config::{Role, ServiceKind};
use crate::proto::message::{Key, Message, MessageId};

/// Longest name that we take: the real ones have 17 bytes.
const MAX_NAME: usize = 256;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Introduction {
    pub(super) name: String,
    pub(super) kind: ServiceKind,
}

/// Our introduction.
pub(super) fn introduce(name: &str, kind: ServiceKind) -> Message {
    Message::new(MessageId::CONNECTION_OPENED_EVENT).string(Key::Name, name).uint(Key::Type, kind.number())
}

/// Reads the other end's introduction; the reason says what is wrong with it.
pub(super) fn read(message: &Message, our_role: Role) -> Result<Introduction, String> {
    if message.id != MessageId::CONNECTION_OPENED_EVENT {
        return Err(format!("the other end began with {} instead of its introduction", message.id));
    }
    let name = message.string_params.get(&Key::Name).ok_or_else(|| missing(Key::Name))?;
    let number = *message.uint_params.get(&Key::Type).ok_or_else(|| missing(Key::Type))?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("the other end's name has {} bytes or control characters", name.len()));
    }
    let kind = ServiceKind::from_number(number).ok_or_else(|| format!("the other end has the unknown type {number}"))?;
    match (our_role, kind) {
        (Role::Cell, ServiceKind::Core) => {}
        (Role::Core, ServiceKind::Cell | ServiceKind::ImageServer | ServiceKind::Router) => {}
        _ => return Err(format!("{name:?} introduced itself as {kind:?} to a {our_role:?}")),
    }
    Ok(Introduction { name: name.clone(), kind })
}

fn missing(key: Key) -> String {
    format!("the other end's introduction lacks {key}")
}
