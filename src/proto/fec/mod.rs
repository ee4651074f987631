//! Forward error correction: one UDP datagram is one FEC packet (transport §2).
//!
//! Contract: packets go out numbered, in groups of 13: ten of data, then three of Reed–Solomon parity over the bytes from offset 6,
//! each shard padded with zeros to the longest of its group. Any ten packets of a group give the missing data back. Parity is
//! computed when a group fills and at no other time; a group that never fills costs nothing. What a stranger sends can neither grow the decoder's
//! memory nor push the live groups out of it.

mod decoder;
mod encoder;
mod packet;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use reed_solomon_erasure::galois_8::ReedSolomon;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use packet::{Kind, Packet, PacketError};

/// Data packets of a group.
pub const DATA_SHARDS: usize = 10;
/// Parity packets of a group.
pub const PARITY_SHARDS: usize = 3;
/// Packets of a group.
pub const GROUP: usize = DATA_SHARDS + PARITY_SHARDS;
/// Where the bytes begin that parity covers: behind sequence number and kind.
pub const SHARD_OFFSET: usize = 6;
/// Bytes in front of the KCP segments of a data packet: sequence number, kind and length.
pub const DATA_HEADER: usize = 8;
/// Longest datagram that is looked at; the protocol's own limit is 1400, an Ethernet frame carries no more than this.
pub const MAX_DATAGRAM: usize = 1500;

const GROUP_U32: u32 = 13;
/// The counter's end, where it goes on with 0: the largest multiple of 13 that fits u32 (transport §2).
pub const SEQUENCE_END: u32 = u32::MAX / GROUP_U32 * GROUP_U32;

/// The one codec of the process; its matrix never changes and its cache of inverted matrices serves every connection.
///
/// 10 + 3 shards are always legal, so it is always there; were it not, packets would go without parity.
fn codec() -> Option<&'static ReedSolomon> {
    static CODEC: LazyLock<Option<ReedSolomon>> = LazyLock::new(|| ReedSolomon::new(DATA_SHARDS, PARITY_SHARDS).ok());
    CODEC.as_ref()
}
