//! The messages of the domain: one JSON object each (contract §1), cut out of the connection's byte stream.
//!
//! Contract: [`Message`] is what both sides exchange. Reading is strict where the Core is strict (types, ranges)
//! and lenient where it is lenient (unknown fields, `null` for an empty list or map). Writing always gives an object that the Core can
//! decode; what it cannot decode would make its connection deaf (contract §1).

mod boundary;
mod decoder;
mod encoder;
mod id;
mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use decoder::{Decoder as MessageDecoder, MessageError, MESSAGE_LIMIT};
pub use encoder::{EncodeError, Encoder as MessageEncoder, SEND_LIMIT};
pub use id::MessageId;
pub use key::Key;

/// A parameter map; an ordered map, so that the same message always gives the same bytes.
pub type Params<T> = BTreeMap<Key, T>;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// What it is.
    pub id: MessageId,
    /// Result flag of responses and of some events (contract §5.2).
    #[serde(default, skip_serializing_if = "is_default")]
    pub success: bool,
    /// Sender's session.
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: u32,
    /// Receiver's session; 0 = start a new transaction.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: u32,
    /// Batch correlation inside the Core; a Cell ignores it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transaction: u32,
    /// Reason of a failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Booleans.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub bool_params: Params<bool>,
    /// Texts.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub string_params: Params<String>,
    /// Unsigned integers.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub uint_params: Params<u64>,
    /// Signed integers.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub int_params: Params<i64>,
    /// Floating point numbers; never NaN or infinite on the wire.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub float_params: Params<f64>,
    /// Lists of unsigned integers.
    #[serde(default, deserialize_with = "nullable_lists", skip_serializing_if = "BTreeMap::is_empty")]
    pub uint_array_params: Params<Vec<u64>>,
    /// Lists of texts.
    #[serde(default, deserialize_with = "nullable_lists", skip_serializing_if = "BTreeMap::is_empty")]
    pub string_array_params: Params<Vec<String>>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn nullable_lists<'de, D, T>(deserializer: D) -> Result<Params<Vec<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let map = Option::<Params<Option<Vec<T>>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(map.into_iter().map(|(key, list)| (key, list.unwrap_or_default())).collect())
}

impl Message {
    /// A message without parameters, from and to nobody.
    pub fn new(id: MessageId) -> Self {
        Self {
            id,
            success: false,
            from: 0,
            to: 0,
            transaction: 0,
            error: String::new(),
            bool_params: Params::new(),
            string_params: Params::new(),
            uint_params: Params::new(),
            int_params: Params::new(),
            float_params: Params::new(),
            uint_array_params: Params::new(),
            string_array_params: Params::new(),
        }
    }

    /// Marks it successful.
    #[must_use]
    pub fn succeeded(mut self) -> Self {
        self.success = true;
        self
    }

    /// Marks it failed with a reason; an empty reason is replaced, for the Core shows nothing else (contract §5.1).
    #[must_use]
    pub fn failed(mut self, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        self.success = false;
        self.error = if reason.is_empty() { "unknown error".into() } else { reason };
        self
    }

    /// Sets the sender's session.
    #[must_use]
    pub fn from_session(mut self, session: u32) -> Self {
        self.from = session;
        self
    }

    /// Sets the receiver's session.
    #[must_use]
    pub fn to_session(mut self, session: u32) -> Self {
        self.to = session;
        self
    }

    /// Adds a boolean.
    #[must_use]
    pub fn bool(mut self, key: Key, value: bool) -> Self {
        self.bool_params.insert(key, value);
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn string(mut self, key: Key, value: impl Into<String>) -> Self {
        self.string_params.insert(key, value.into());
        self
    }

    /// Adds an unsigned integer.
    #[must_use]
    pub fn uint(mut self, key: Key, value: u64) -> Self {
        self.uint_params.insert(key, value);
        self
    }

    /// Adds a signed integer.
    #[must_use]
    pub fn int(mut self, key: Key, value: i64) -> Self {
        self.int_params.insert(key, value);
        self
    }

    /// Adds a number; what JSON cannot carry (NaN, infinity) becomes 0.
    #[must_use]
    pub fn float(mut self, key: Key, value: f64) -> Self {
        self.float_params.insert(key, if value.is_finite() { value } else { 0.0 });
        self
    }

    /// Adds a list of unsigned integers; the key is written for an empty list too (contract §1).
    #[must_use]
    pub fn uints(mut self, key: Key, values: impl Into<Vec<u64>>) -> Self {
        self.uint_array_params.insert(key, values.into());
        self
    }

    /// Adds a list of texts; the key is written for an empty list too (contract §1).
    #[must_use]
    pub fn strings(mut self, key: Key, values: impl Into<Vec<String>>) -> Self {
        self.string_array_params.insert(key, values.into());
        self
    }
}
