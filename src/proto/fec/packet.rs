//! The header of a packet (transport §2): `seq u32, kind u16`, and in data packets `length u16`, little-endian.

use super::{DATA_HEADER, DATA_SHARDS, GROUP_U32, MAX_DATAGRAM, SEQUENCE_END, SHARD_OFFSET};

const DATA: u16 = 0x00f1;
const PARITY: u16 = 0x00f2;

/// What a packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// KCP segments.
    Data,
    /// Reed–Solomon parity of its group.
    Parity,
}

/// A packet as it stands in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Sequence number, below [`SEQUENCE_END`].
    pub sequence: u32,
    /// Data or parity; agrees with the sequence number's place in its group.
    pub kind: Kind,
    /// The bytes that parity covers: everything from offset 6.
    pub shard: &'a [u8],
}

/// Why a datagram is no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    /// Too short for a header and one byte.
    #[error("{0} bytes are too few for a packet")]
    Short(usize),
    /// Longer than any packet can be.
    #[error("{0} bytes are more than the {MAX_DATAGRAM} that a packet may have")]
    Long(usize),
    /// Neither data nor parity.
    #[error("packet kind 0x{0:04x} is neither data (0x00f1) nor parity (0x00f2)")]
    UnknownKind(u16),
    /// Data where parity must stand or the other way round, or a number past the counter's end.
    #[error("sequence number {sequence} does not belong to a {kind:?} packet")]
    Misplaced {
        /// Number in the header.
        sequence: u32,
        /// Kind in the header.
        kind: Kind,
    },
    /// The length field of a data packet contradicts the datagram.
    #[error("the length field says {field}, but {actual} bytes are there (cut or padded on the way)")]
    Length {
        /// What the field says.
        field: u16,
        /// What is there, counted as the field counts.
        actual: usize,
    },
}

impl Kind {
    fn tag(self) -> u16 {
        match self {
            Kind::Data => DATA,
            Kind::Parity => PARITY,
        }
    }
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, PacketError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(PacketError::Long(datagram.len()));
        }
        let Some((&[s0, s1, s2, s3, k0, k1], shard @ [_, ..])) = datagram.split_first_chunk::<SHARD_OFFSET>() else {
            return Err(PacketError::Short(datagram.len()));
        };
        let sequence = u32::from_le_bytes([s0, s1, s2, s3]);
        let kind = match u16::from_le_bytes([k0, k1]) {
            DATA => Kind::Data,
            PARITY => Kind::Parity,
            other => return Err(PacketError::UnknownKind(other)),
        };
        let packet = Packet { sequence, kind, shard };
        if sequence >= SEQUENCE_END || (packet.index() < DATA_SHARDS) != (kind == Kind::Data) {
            return Err(PacketError::Misplaced { sequence, kind });
        }
        if kind == Kind::Data {
            let field = length_field(shard).ok_or(PacketError::Short(datagram.len()))?;
            if usize::from(field) != shard.len() {
                return Err(PacketError::Length { field, actual: shard.len() });
            }
        }
        Ok(packet)
    }

    /// Number of the packet's group.
    pub fn group(&self) -> u32 {
        self.sequence / GROUP_U32
    }

    /// Place in the group: 0–9 data, 10–12 parity.
    pub fn index(&self) -> usize {
        usize::try_from(self.sequence % GROUP_U32).unwrap_or_default()
    }

    /// The KCP segments of a data packet; nothing for parity.
    pub fn payload(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Data => unpad(self.shard),
            Kind::Parity => None,
        }
    }
}

/// Cuts the padding off a data shard by its own length field and takes the field off; `None` if the field is impossible.
pub(super) fn unpad(shard: &[u8]) -> Option<&[u8]> {
    let length = usize::from(length_field(shard)?);
    shard.get(2..length)
}

fn length_field(shard: &[u8]) -> Option<u16> {
    shard.first_chunk::<2>().map(|field| u16::from_le_bytes(*field))
}

/// Writes the header of a data packet into the eight bytes that its datagram begins with.
pub(super) fn write_data_header(header: &mut [u8; DATA_HEADER], sequence: u32, shard_length: u16) {
    let [s0, s1, s2, s3] = sequence.to_le_bytes();
    let [k0, k1] = Kind::Data.tag().to_le_bytes();
    let [l0, l1] = shard_length.to_le_bytes();
    *header = [s0, s1, s2, s3, k0, k1, l0, l1];
}

/// Appends a whole parity packet.
pub(super) fn write_parity(out: &mut Vec<u8>, sequence: u32, shard: &[u8]) {
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&Kind::Parity.tag().to_le_bytes());
    out.extend_from_slice(shard);
}
