//! Writes messages as JSON and cuts them into chunks, each a segment of its own (transport §3).

use super::{Message, MESSAGE_LIMIT};

/// Longest message that we send: a Core gives up at [`MESSAGE_LIMIT`] buffered bytes, and counts whole segments.
pub const SEND_LIMIT: usize = MESSAGE_LIMIT - 4096;

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than the receiver takes.
    #[error("{id} would be {bytes} bytes long, the receiver takes no more than {SEND_LIMIT}; send it in parts")]
    TooLong {
        /// The message.
        id: super::MessageId,
        /// Its length.
        bytes: usize,
    },
    /// It has no JSON form.
    #[error("{id} cannot be written as JSON")]
    Json {
        /// The message.
        id: super::MessageId,
        /// What serde_json says.
        source: serde_json::Error,
    },
}

/// Turns messages into bytes in a buffer that it uses again and again.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
}

/// What the buffer may keep from one message to the next.
const KEEP: usize = 64 << 10;

impl Encoder {
    /// An encoder with an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The message as JSON. Cut it anywhere, but let no chunk hold parts of two messages: a Core tries to parse after every segment
    /// and starts afresh after a success.
    pub fn encode(&mut self, message: &Message) -> Result<&[u8], EncodeError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
        serde_json::to_writer(&mut self.buffer, message).map_err(|source| EncodeError::Json { id: message.id, source })?;
        match self.buffer.len() {
            bytes if bytes > SEND_LIMIT => Err(EncodeError::TooLong { id: message.id, bytes }),
            _ => Ok(&self.buffer),
        }
    }
}
