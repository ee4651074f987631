//! The table of running transactions: numbers 1..=1024, handed out round robin (contract §2.7).

use crate::model::SessionId;

/// How many transactions run at once.
pub(super) const SESSIONS: u32 = 1024;

/// Free and taken numbers.
pub(super) struct SessionTable {
    taken: Vec<bool>,
    last: u32,
    active: usize,
}

impl SessionTable {
    /// Everything free; the first number handed out is 2, as in the reference.
    pub(super) fn new() -> Self {
        Self { taken: vec![false; SESSIONS as usize], last: 1, active: 0 }
    }

    /// The next free number, or `None` when all are taken.
    pub(super) fn allocate(&mut self) -> Option<SessionId> {
        for step in 1..=SESSIONS {
            let number = (self.last - 1 + step) % SESSIONS + 1;
            let slot = self.taken.get_mut(slot(number))?;
            if !*slot {
                *slot = true;
                self.last = number;
                self.active += 1;
                return Some(SessionId(number));
            }
        }
        None
    }

    /// Gives a number back.
    pub(super) fn release(&mut self, session: SessionId) {
        if let Some(slot) = self.taken.get_mut(slot(session.0)) {
            if std::mem::take(slot) {
                self.active -= 1;
            }
        }
    }

    /// How many are taken.
    pub(super) fn active(&self) -> usize {
        self.active
    }
}

fn slot(number: u32) -> usize {
    number.wrapping_sub(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_number_is_two_then_round_robin_through_one() {
        let mut table = SessionTable::new();
        let numbers: Vec<u32> = (0..SESSIONS).map(|_| table.allocate().unwrap().0).collect();
        assert_eq!(&numbers[..3], &[2, 3, 4]);
        assert_eq!(numbers[1022], 1024);
        assert_eq!(numbers[1023], 1);
        assert_eq!(table.allocate(), None);
        assert_eq!(table.active(), 1024);
    }

    #[test]
    fn a_released_number_comes_back_only_after_the_round() {
        let mut table = SessionTable::new();
        let first = table.allocate().unwrap();
        table.release(first);
        assert_eq!(table.active(), 0);
        assert_eq!(table.allocate().unwrap().0, 3);
        table.release(first);
        assert_eq!(table.active(), 1, "a second release changes nothing");
    }
}
