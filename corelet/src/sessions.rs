//! Session numbers (contract §2.7): 1..=1024, given out round robin; each waits for the first message that bears it.

use std::collections::BTreeMap;
use std::time::Duration;

use cell::proto::message::Message;
use tokio::sync::{mpsc, oneshot};

/// Greatest session number of a real Core.
pub(crate) const MAX_SESSION: u32 = 1024;

/// Why no answer will come.
#[derive(Clone, Debug)]
pub(crate) struct Gone(pub(crate) String);

/// Who waits for the answer.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A caller of the library.
    Caller(oneshot::Sender<Result<Message, Gone>>),
    /// A caller who gets every message of the session until it ends it.
    Listener(mpsc::UnboundedSender<Message>),
    /// The domain itself, which told a Cell of its pool.
    PoolReady {
        /// When it gives up.
        deadline: Duration,
    },
}

/// One session under way.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) cell: String,
    pub(crate) waiting: Waiting,
}

/// The sessions under way.
#[derive(Debug)]
pub(crate) struct Sessions {
    greatest: u32,
    last: u32,
    open: BTreeMap<u32, Session>,
}

impl Sessions {
    /// Numbers up to `greatest`; as the real Core's, the first given out is 2.
    pub(crate) fn new(greatest: u32) -> Self {
        Self { greatest, last: 1, open: BTreeMap::new() }
    }

    /// The next free number; `None` when all are taken.
    pub(crate) fn open(&mut self, cell: &str, waiting: Waiting) -> Option<u32> {
        let free = (self.last + 1..=self.greatest).chain(1..=self.last).find(|number| !self.open.contains_key(number))?;
        self.last = free;
        self.open.insert(free, Session { cell: cell.into(), waiting });
        Some(free)
    }

    /// Who listens to a session that takes more than one message.
    pub(crate) fn listener(&self, number: u32) -> Option<&mpsc::UnboundedSender<Message>> {
        match &self.open.get(&number)?.waiting {
            Waiting::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    /// Ends a session; the number is free again.
    pub(crate) fn close(&mut self, number: u32) -> Option<Session> {
        self.open.remove(&number)
    }

    /// Ends every session with this Cell.
    pub(crate) fn close_all_of(&mut self, cell: &str) -> Vec<Session> {
        let numbers: Vec<u32> = self.open.iter().filter(|(_, session)| session.cell == cell).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.close(number)).collect()
    }

    /// The earliest deadline of the domain's own sessions. Callers watch theirs themselves.
    pub(crate) fn next_deadline(&self) -> Option<(u32, Duration)> {
        let own = self.open.iter().filter_map(|(number, session)| match session.waiting {
            Waiting::PoolReady { deadline } => Some((*number, deadline)),
            Waiting::Caller(_) | Waiting::Listener(_) => None,
        });
        own.min_by_key(|(_, deadline)| *deadline)
    }
}

#[cfg(test)]
mod tests;
