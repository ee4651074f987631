//! Cuts the byte stream of a connection into messages (transport §3).
//!
//! Contract: received chunks go in, in order; consecutive JSON objects come out, wherever chunks begin and end. An object that is JSON but no message
//! is reported with the id that it bears, and the stream goes on. Bytes that can never become a JSON object, and an object beyond
//! [`MESSAGE_LIMIT`], are fatal: nothing more comes out.

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;

use super::boundary::{Boundary, Scan};
use super::{Message, MessageId};

/// Longest message: where a Core gives up too (transport §3).
pub const MESSAGE_LIMIT: usize = 2 << 20;

/// Capacity that an empty buffer may keep.
const KEEP: usize = 64 << 10;

/// What came instead of a message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// An object that is no message; the next one may be.
    #[error("an object of the peer is no message: {reason}")]
    Invalid {
        /// Its id, if it has a readable one: a request wants a failure for an answer.
        id: Option<MessageId>,
        /// Its sender's session, 0 if it has no readable one.
        from: u32,
        /// What is wrong; holds no content of the object, which may be secret.
        reason: String,
    },
    /// The stream is broken and stays so: close the connection.
    #[error("the peer's stream is broken: {0}")]
    Fatal(String),
}

/// The receiving end of a connection's stream.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first unread object begins.
    start: usize,
    /// What the scanner has seen.
    scanned: usize,
    boundary: Boundary,
    broken: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// The start of a stream.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, boundary: Boundary::new(), broken: false }
    }

    /// Appends a chunk. Call [`Decoder::poll`] until it gives nothing before the next one.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.broken {
            return;
        }
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next message, or what came instead of one.
    pub fn poll(&mut self) -> Option<Result<Message, MessageError>> {
        if self.broken {
            return None;
        }
        if self.scanned == self.start {
            self.skip_space();
        }
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        match self.boundary.scan(fresh) {
            Scan::Between => {
                self.clear();
                None
            }
            Scan::Inside => {
                self.scanned = self.buffer.len();
                self.is_too_long(self.scanned).then(|| self.too_long())
            }
            Scan::Never(at) => {
                let place = self.scanned + at - self.start;
                Some(self.fail(format!("byte {place} of an object can stand in no JSON")))
            }
            Scan::Complete(length) => {
                let end = self.scanned + length;
                if self.is_too_long(end) {
                    return Some(self.too_long());
                }
                let event = parse(self.buffer.get(self.start..end).unwrap_or_default());
                self.start = end;
                self.scanned = end;
                Some(event)
            }
        }
    }

    /// Bytes held for an object that is not complete.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Goes on to where the next object begins.
    fn skip_space(&mut self) {
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.start += self.buffer.iter().skip(self.start).take_while(is_space).count();
        self.scanned = self.start;
    }

    fn is_too_long(&self, end: usize) -> bool {
        end - self.start > MESSAGE_LIMIT
    }

    fn too_long(&mut self) -> Result<Message, MessageError> {
        self.fail(format!("a message is longer than {MESSAGE_LIMIT} bytes"))
    }

    fn fail(&mut self, reason: String) -> Result<Message, MessageError> {
        self.broken = true;
        self.clear();
        Err(MessageError::Fatal(reason))
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
        self.start = 0;
        self.scanned = 0;
    }
}

fn parse(object: &[u8]) -> Result<Message, MessageError> {
    serde_json::from_slice(object).map_err(|error| {
        let Envelope { id, from } = serde_json::from_slice(object).unwrap_or_default();
        MessageError::Invalid { id: id.0.map(MessageId), from: from.0.unwrap_or_default(), reason: without_content(&error.to_string()) }
    })
}

/// Takes the quoted value out of an error of serde: `invalid type: string "secret", expected u64` says enough without it.
fn without_content(error: &str) -> String {
    match (error.split_once('"'), error.rsplit_once('"')) {
        (Some((before, _)), Some((_, after))) => format!("{}{after}", before.trim_end()),
        _ => error.to_owned(),
    }
}

/// What can be read of an object that is no message.
#[derive(Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    id: Number,
    #[serde(default)]
    from: Number,
}

/// A number of 32 bits, or anything else.
#[derive(Clone, Copy, Default)]
struct Number(Option<u32>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
        Ok(Number(u32::try_from(value).ok()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Number, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Number(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Number, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Number(None))
    }
}
