//! Gives lost data packets back from the parity of their group.

use super::packet::unpad;
use super::{codec, Kind, Packet, DATA_SHARDS, GROUP, GROUP_U32, SEQUENCE_END};

/// Groups that are remembered at a time; packets that come later than this many groups are of no use to recovery.
const WINDOW: usize = 8;
const WINDOW_U32: u32 = 8;
const GROUPS: u32 = SEQUENCE_END / GROUP_U32;
const ALL_DATA: u16 = (1 << DATA_SHARDS) - 1;

/// The receiver's half of the layer.
///
/// It remembers the groups touched last, not a range of numbers: a packet from far away takes one place and moves nothing. Parity, which carries
/// no connection id, opens a group only near one that has data.
#[derive(Debug, Default)]
pub struct Decoder {
    groups: Vec<Group>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Group {
    number: u32,
    touched: u64,
    /// A bit for each packet that has come.
    present: u16,
    /// All data is there, came back from parity, or never will.
    done: bool,
    shards: [Vec<u8>; GROUP],
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a packet and gives the payloads (KCP segments) of the data packets that it brought back: at most three, once in a group.
    ///
    /// A payload is only as trustworthy as its parity: it is checked like one from the wire. Data packets should be offered only after
    /// their own payload has proved to belong to the connection.
    pub fn receive(&mut self, packet: &Packet<'_>) -> impl Iterator<Item = &[u8]> {
        let (group, recovered) = match self.group_for(packet) {
            Some(group) => {
                let recovered = group.insert(packet);
                (Some(&*group), recovered)
            }
            None => (None, 0),
        };
        let shards = group.map_or(&[] as &[Vec<u8>], |group| &group.shards);
        shards.iter().enumerate().filter(move |(index, _)| recovered & (1 << index) != 0).filter_map(|(_, shard)| unpad(shard))
    }

    /// Bytes of shards held; bounded, whatever comes.
    pub fn held_bytes(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.shards).map(Vec::capacity).sum()
    }

    fn group_for(&mut self, packet: &Packet<'_>) -> Option<&mut Group> {
        self.clock += 1;
        let number = packet.group();
        let slot = match self.groups.iter().position(|group| group.number == number) {
            Some(slot) => slot,
            None if packet.kind == Kind::Parity && !self.is_near(number) => return None,
            None => self.open(number),
        };
        let group = self.groups.get_mut(slot)?;
        group.touched = self.clock;
        Some(group)
    }

    fn is_near(&self, number: u32) -> bool {
        let mut with_data = self.groups.iter().filter(|group| group.present & ALL_DATA != 0).peekable();
        with_data.peek().is_none() || with_data.any(|group| distance(group.number, number) <= WINDOW_U32)
    }

    /// Gives a group a place, that of the one untouched for longest if there is no free one.
    fn open(&mut self, number: u32) -> usize {
        if self.groups.len() < WINDOW {
            self.groups.push(Group { number, ..Group::default() });
            return self.groups.len() - 1;
        }
        let oldest = self.groups.iter().enumerate().min_by_key(|(_, group)| group.touched).map_or(0, |(slot, _)| slot);
        if let Some(group) = self.groups.get_mut(oldest) {
            group.number = number;
            group.present = 0;
            group.done = false;
        }
        oldest
    }
}

/// How far two groups lie apart on the ring of their numbers.
fn distance(a: u32, b: u32) -> u32 {
    let difference = a.abs_diff(b);
    difference.min(GROUPS - difference)
}

impl Group {
    /// Keeps the packet's shard; gives a bit for each data shard that it brought back.
    fn insert(&mut self, packet: &Packet<'_>) -> u16 {
        let bit = 1 << packet.index();
        if self.done || self.present & bit != 0 {
            return 0;
        }
        if let Some(shard) = self.shards.get_mut(packet.index()) {
            shard.clear();
            shard.extend_from_slice(packet.shard);
            self.present |= bit;
        }
        let missing = ALL_DATA & !self.present;
        if missing == 0 {
            self.done = true;
        } else if usize::try_from(self.present.count_ones()).is_ok_and(|count| count >= DATA_SHARDS) {
            self.done = true;
            if self.reconstruct() {
                return missing;
            }
        }
        0
    }

    /// Fills in the missing data shards; false if the packets contradict each other, which honest ones never do.
    fn reconstruct(&mut self) -> bool {
        let present = self.present;
        let is_present = |index: usize| present & (1 << index) != 0;
        // Some parity is there, for data is missing; all parity shards of a group have the length of its longest data shard.
        let Some(length) = (DATA_SHARDS..GROUP).find(|&index| is_present(index)).and_then(|index| self.shards.get(index)).map(Vec::len)
        else {
            return false;
        };
        let fits = |(index, shard): (usize, &Vec<u8>)| match (is_present(index), index < DATA_SHARDS) {
            (true, true) => shard.len() <= length,
            (true, false) => shard.len() == length,
            (false, _) => true,
        };
        if !self.shards.iter().enumerate().all(fits) {
            return false;
        }
        let mut shards: Vec<(&mut Vec<u8>, bool)> = Vec::with_capacity(GROUP);
        for (index, shard) in self.shards.iter_mut().enumerate() {
            shard.resize(length, 0);
            shards.push((shard, is_present(index)));
        }
        codec().is_some_and(|codec| codec.reconstruct_data(&mut shards).is_ok())
    }
}
