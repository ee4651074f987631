//! Numbers outgoing packets and gives the parity of each full group.

use super::packet::{write_data_header, write_parity};
use super::{codec, DATA_HEADER, DATA_SHARDS, GROUP, GROUP_U32, PARITY_SHARDS, SEQUENCE_END, SHARD_OFFSET};

/// The sender's half of the layer.
///
/// Every data packet goes through [`Encoder::seal`]; after each, [`Encoder::poll_parity`] is called until it gives nothing more, for parity
/// follows right behind the tenth data packet.
#[derive(Debug)]
pub struct Encoder {
    next: u32,
    /// The group's shards so far; the buffers are used again for every group.
    shards: [Vec<u8>; GROUP],
    filled: usize,
    /// Parity packets of the full group that have been given out.
    given: usize,
}

impl Encoder {
    /// An encoder whose first packet begins the group that `start` lies in; a new connection starts with 0.
    pub fn new(start: u32) -> Self {
        let aligned = start % SEQUENCE_END / GROUP_U32 * GROUP_U32;
        Self { next: aligned, shards: Default::default(), filled: 0, given: 0 }
    }

    /// Writes the header of a data packet into the first [`DATA_HEADER`] bytes of its datagram, and remembers the rest for parity.
    ///
    /// The datagram is at least that long and no longer than 64 KiB; anything else is left alone.
    pub fn seal(&mut self, datagram: &mut [u8]) {
        let Ok(shard_length) = u16::try_from(datagram.len().saturating_sub(SHARD_OFFSET)) else { return };
        let Some(header) = datagram.first_chunk_mut::<DATA_HEADER>() else { return };
        if self.has_parity() {
            self.next_group(); // the parity that nobody fetched would come too late to be of use
        }
        write_data_header(header, self.next, shard_length);
        self.next += 1;
        if let (Some(slot), Some(shard)) = (self.shards.get_mut(self.filled), datagram.get(SHARD_OFFSET..)) {
            slot.clear();
            slot.extend_from_slice(shard);
        }
        self.filled += 1;
        if self.has_parity() {
            self.compute_parity();
        }
    }

    /// Appends the next parity packet of a full group; false if there is none.
    pub fn poll_parity(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.has_parity() {
            return false;
        }
        let Some(shard) = self.shards.get(DATA_SHARDS + self.given) else { return false };
        write_parity(out, self.next, shard);
        self.next = (self.next + 1) % SEQUENCE_END;
        self.given += 1;
        if self.given == PARITY_SHARDS {
            self.next_group();
        }
        true
    }

    /// The full group's parity has not been fetched yet.
    pub fn has_parity(&self) -> bool {
        self.filled == DATA_SHARDS
    }

    /// Goes to the first number of the next group.
    fn next_group(&mut self) {
        self.next = self.next.next_multiple_of(GROUP_U32) % SEQUENCE_END;
        self.filled = 0;
        self.given = 0;
    }

    fn compute_parity(&mut self) {
        let longest = self.shards.iter().take(DATA_SHARDS).map(Vec::len).max().unwrap_or_default();
        let (data, parity) = self.shards.split_at_mut(DATA_SHARDS);
        for shard in data.iter_mut().chain(parity.iter_mut()) {
            shard.resize(longest, 0);
        }
        let done = codec().is_some_and(|codec| codec.encode_sep(data, parity).is_ok());
        if !done {
            // The shards agree in number and length, so this never happens; a group without parity is legal anyway.
            self.next_group();
        }
    }
}
