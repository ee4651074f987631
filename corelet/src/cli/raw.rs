//! Any message, from a line that a person can type.

use cell::proto::message::{Key, Message, MessageId};

/// Help on the parameters.
pub(crate) const HELP: &str =
    "Parameters: map.key=value, where map is b (true or false), s (text), u (number), i (signed number), f (fraction),\n\
    ua or sa (lists, separated by commas), and key is a name or number of the contract.\n\
    A text value @cell stands for the Cell's name, and the name of a guest of the Cell as @guest:NAME for its id.\n\n\
    Examples:\n  \
    raw QuerySnapshotRequest s.Instance=@guest:manager.first\n  \
    raw StopInstanceRequest s.Instance=0b5a7c7e-6f5d-4d6a-9f43-0c6a5c1d2e3f ua.Option=0,1\n  \
    raw '{\"id\":203520,\"string_params\":{\"12\":\"Cell_02fc00000001\"}}'";

/// Why a line is no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RawError {
    #[error("'{0}' is no message of the contract; give its name (such as GetGuestRequest), its number, or a whole message as JSON")]
    Id(String),
    #[error("not a message: {0}")]
    Json(String),
    #[error("'{0}' is not of the form map.key=value, such as s.Instance=…")]
    Form(String),
    #[error("'{0}' is no key of the contract; give its name (such as Instance) or number")]
    Key(String),
    #[error("'{0}' is no map; use b, s, u, i, f, ua or sa")]
    Map(String),
    #[error("'{value}' does not fit into the map {map}")]
    Value { map: String, value: String },
    #[error("a whole message takes no further parameters")]
    Surplus,
}

/// Builds the message; `lookup` gives what a text value that begins with @ stands for.
pub(crate) fn parse(message: &str, parameters: &[String], lookup: impl Fn(&str) -> Option<String>) -> Result<Message, RawError> {
    if message.trim_start().starts_with('{') {
        return match parameters {
            [] => serde_json::from_str(message).map_err(|error| RawError::Json(error.to_string())),
            _ => Err(RawError::Surplus),
        };
    }
    let id = number(message).map(MessageId).or_else(|| MessageId::from_name(message)).ok_or_else(|| RawError::Id(message.into()))?;
    parameters.iter().try_fold(Message::new(id), |message, parameter| add(message, parameter, &lookup))
}

fn add(message: Message, parameter: &str, lookup: &impl Fn(&str) -> Option<String>) -> Result<Message, RawError> {
    let form = || RawError::Form(parameter.into());
    let (place, value) = parameter.split_once('=').ok_or_else(form)?;
    let (map, key) = place.split_once('.').ok_or_else(form)?;
    let key = number(key).map(Key).or_else(|| Key::from_name(key)).ok_or_else(|| RawError::Key(key.into()))?;
    let wrong = || RawError::Value { map: map.into(), value: value.into() };
    let text = |value: &str| match value.strip_prefix('@') {
        Some(name) => lookup(name).ok_or_else(wrong),
        None => Ok(value.to_owned()),
    };
    let items = || value.split(',').filter(|item| !item.is_empty());
    Ok(match map {
        "b" => message.bool(key, value.parse().map_err(|_| wrong())?),
        "s" => message.string(key, text(value)?),
        "u" => message.uint(key, value.parse().map_err(|_| wrong())?),
        "i" => message.int(key, value.parse().map_err(|_| wrong())?),
        "f" => message.float(key, value.parse().map_err(|_| wrong())?),
        "ua" => message.uints(key, items().map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| wrong())?),
        "sa" => message.strings(key, items().map(text).collect::<Result<Vec<String>, _>>()?),
        _ => return Err(RawError::Map(map.into())),
    })
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
