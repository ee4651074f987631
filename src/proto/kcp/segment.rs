//! The segment codec (transport §2): a header of 24 bytes, little-endian, and the payload.

use super::{Header, HEADER};

/// What a segment is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Carries payload.
    Push,
    /// Acknowledges one segment and, by `una`, all before.
    Ack,
    /// Asks for the receiver's window.
    WindowAsk,
    /// Tells the receiver's window.
    WindowTell,
}

/// A segment as it stands in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Connection.
    pub conv: u32,
    /// What it is for.
    pub command: Command,
    /// Fragment number: always 0 from a Core and from us, and ignored (transport §3).
    pub fragment: u8,
    /// Free places in its sender's receive window.
    pub window: u16,
    /// Push: its sender's clock in ms. Ack: the clock of the push that it acknowledges.
    pub ts: u32,
    /// Segment number.
    pub sn: u32,
    /// All before this number have arrived at its sender.
    pub una: u32,
    /// Payload.
    pub data: &'a [u8],
}

/// Why a payload is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    /// It ends inside a segment.
    #[error("a segment needs {need} bytes, {have} are there")]
    Truncated {
        /// Bytes that the segment needs.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// No known command.
    #[error("segment command {0} is none of 81 to 84")]
    UnknownCommand(u8),
    /// It belongs to another connection.
    #[error("segment of connection {found:#010x} on connection {expected:#010x}")]
    ForeignConv {
        /// Our connection.
        expected: u32,
        /// The segment's.
        found: u32,
    },
    /// It acknowledges segments that were never sent.
    #[error("everything before segment {una} is acknowledged, but {next} has not been sent yet")]
    NeverSent {
        /// What the segment claims.
        una: u32,
        /// The next number that we shall send.
        next: u32,
    },
}

impl Command {
    fn parse(byte: u8) -> Result<Self, SegmentError> {
        match byte {
            81 => Ok(Command::Push),
            82 => Ok(Command::Ack),
            83 => Ok(Command::WindowAsk),
            84 => Ok(Command::WindowTell),
            other => Err(SegmentError::UnknownCommand(other)),
        }
    }

    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Command::Push => 81,
            Command::Ack => 82,
            Command::WindowAsk => 83,
            Command::WindowTell => 84,
        }
    }
}

impl<'a> Segment<'a> {
    /// Reads the segment that `bytes` begins with, and gives what is behind it.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SegmentError> {
        let truncated = |need| SegmentError::Truncated { need, have: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| truncated(HEADER))?;
        #[rustfmt::skip]
        let [c0, c1, c2, c3, command, fragment, w0, w1, t0, t1, t2, t3, s0, s1, s2, s3, u0, u1, u2, u3, l0, l1, l2, l3] = *header;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let (data, rest) = rest.split_at_checked(length).ok_or_else(|| truncated(HEADER.saturating_add(length)))?;
        let segment = Segment {
            conv: u32::from_le_bytes([c0, c1, c2, c3]),
            command: Command::parse(command)?,
            fragment,
            window: u16::from_le_bytes([w0, w1]),
            ts: u32::from_le_bytes([t0, t1, t2, t3]),
            sn: u32::from_le_bytes([s0, s1, s2, s3]),
            una: u32::from_le_bytes([u0, u1, u2, u3]),
            data,
        };
        Ok((segment, rest))
    }

    /// Appends the segment.
    pub fn write(&self, out: &mut Vec<u8>) {
        let [c0, c1, c2, c3] = self.conv.to_le_bytes();
        let [w0, w1] = self.window.to_le_bytes();
        let [t0, t1, t2, t3] = self.ts.to_le_bytes();
        let [s0, s1, s2, s3] = self.sn.to_le_bytes();
        let [u0, u1, u2, u3] = self.una.to_le_bytes();
        let [l0, l1, l2, l3] = u32::try_from(self.data.len()).unwrap_or(u32::MAX).to_le_bytes();
        let command = self.command.number();
        #[rustfmt::skip]
        let header: [u8; HEADER] =
            [c0, c1, c2, c3, command, self.fragment, w0, w1, t0, t1, t2, t3, s0, s1, s2, s3, u0, u1, u2, u3, l0, l1, l2, l3];
        out.extend_from_slice(&header);
        out.extend_from_slice(self.data);
    }

    pub(super) fn new(header: &Header, command: Command, sn: u32, data: &'a [u8]) -> Self {
        let Header { conv, window, una, ts } = *header;
        Segment { conv, command, fragment: 0, window, ts, sn, una, data }
    }
}

/// The segments of a payload, in order; ends after the first error.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// The segments of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match Segment::parse(self.rest) {
            Ok((segment, rest)) => {
                self.rest = rest;
                Some(Ok(segment))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}
