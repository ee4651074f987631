//! The table of running transactions: numbers 1..=1024, handed out round robin (contract §2.7), and some beyond for those that change nothing.

use crate::model::SessionId;

/// How many transactions run at once.
pub(super) const SESSIONS: u32 = 1024;
/// How many more, when all those are taken, as long as they change nothing: a thousand transactions that hang must not keep the Core from asking how things
/// are. The Core looks at no number of these.
const SPARE: u32 = 128;

/// Nobody's number. Answers to what never became a transaction bear it, because the Core wants one other than 0 (contract §5.1).
pub(super) const NO_SESSION: u32 = SESSIONS + SPARE + 1;

/// Free and taken numbers.
pub(super) struct SessionTable {
    taken: Vec<bool>,
    last: u32,
    active: usize,
}

impl SessionTable {
    /// Everything free; the first number handed out is 2, as in the reference.
    pub(super) fn new() -> Self {
        Self { taken: vec![false; (SESSIONS + SPARE) as usize], last: 1, active: 0 }
    }

    /// The next free number, or `None` when all are taken that a transaction may have which `changes` something or does not.
    pub(super) fn allocate(&mut self, changes: bool) -> Option<SessionId> {
        let usual = (1..=SESSIONS).map(|step| (self.last - 1 + step) % SESSIONS + 1);
        let spare = (SESSIONS + 1..=SESSIONS + SPARE).take_while(|_| !changes);
        let number = usual.chain(spare).find(|number| self.taken.get(slot(*number)) == Some(&false))?;
        *self.taken.get_mut(slot(number))? = true;
        if number <= SESSIONS {
            self.last = number;
        }
        self.active += 1;
        Some(SessionId(number))
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
        let numbers: Vec<u32> = (0..SESSIONS).map(|_| table.allocate(true).unwrap().0).collect();
        assert_eq!(&numbers[..3], &[2, 3, 4]);
        assert_eq!(numbers[1022], 1024);
        assert_eq!(numbers[1023], 1);
        assert_eq!(table.allocate(true), None);
        assert_eq!(table.active(), 1024);
    }

    #[test]
    fn a_released_number_comes_back_only_after_the_round() {
        let mut table = SessionTable::new();
        let first = table.allocate(true).unwrap();
        table.release(first);
        assert_eq!(table.active(), 0);
        assert_eq!(table.allocate(true).unwrap().0, 3);
        table.release(first);
        assert_eq!(table.active(), 1, "a second release changes nothing");
    }
    #[test]
    fn what_changes_nothing_still_finds_a_number_when_all_are_taken() {
        let mut table = SessionTable::new();
        while table.allocate(true).is_some() {}
        let spare: Vec<u32> = std::iter::from_fn(|| table.allocate(false)).map(|session| session.0).collect();
        assert_eq!(spare, (SESSIONS + 1..=SESSIONS + SPARE).collect::<Vec<_>>());
        table.release(SessionId(7));
        assert_eq!(table.allocate(false), Some(SessionId(7)), "the usual ones come first");
        table.release(SessionId(SESSIONS + 1));
        assert_eq!(table.allocate(true), None);
    }
}
