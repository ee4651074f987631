//! The Core's books as a state machine: which Cells there are, which guests they have, who waits for which answer.
//!
//! Contract: what the hub tells and the time go in; messages to send come out, and what happened goes to the event log. It follows the real Core
//! where a Cell could tell the difference: pool ready upon every connect, the first message with a session's number is its answer, events with missing
//! parameters or about unknown guests are ignored.

mod changes;
mod news;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::hub::HubEvent;
use cell::proto::message::{Message, MessageId};
use cell::proto::peer::ServiceKind;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::answers::StatusReport;
use crate::config::PoolConfig;
use crate::error::RequestError;
use crate::events::{Event, EventLog, Recorded};
use crate::guest::{self, Guest};
use crate::requests;
use crate::sessions::{Gone, Sessions, Waiting};

/// Where a Cell stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CellState {
    /// Connected; it has not said yet that it took its pool.
    Connected,
    /// It took its pool and listed its guests.
    Ready,
    /// It did not take its pool.
    Refused(String),
    /// Ready, but silent.
    Lost,
    /// No longer connected; its guests are kept in the books.
    Left {
        /// It said so.
        graceful: bool,
    },
}

/// A Cell in the books.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Its name.
    pub name: String,
    /// Where it is, or was last.
    pub address: SocketAddrV4,
    /// Where it stands.
    pub state: CellState,
    /// Its last report of its host.
    pub report: Option<StatusReport>,
    /// Its guests.
    pub guests: BTreeMap<GuestId, Guest>,
}

impl Cell {
    /// True while a connection serves it.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, CellState::Left { .. })
    }
}

/// The real Core flushes its connections every 100 ms, so that its first order comes a moment after its introduction. The reference Cell
/// needs that moment: what comes earlier it carries out, but it cannot answer.
const ANNOUNCEMENT_DELAY: Duration = Duration::from_millis(100);

/// A message and the Cell that it is for.
pub(crate) type Outgoing = (String, Message);

/// The books.
#[derive(Debug)]
pub(crate) struct Domain {
    pool: PoolConfig,
    announce_pool: bool,
    timeout: Duration,
    pub(crate) cells: BTreeMap<String, Cell>,
    sessions: Sessions,
    /// Cells that are to be told of their pool, and when, in order.
    announcements: VecDeque<(Duration, String)>,
    log: EventLog,
}

impl Domain {
    pub(crate) fn new(pool: PoolConfig, announce_pool: bool, timeout: Duration, sessions: u32, log: EventLog) -> Self {
        Self {
            pool,
            announce_pool,
            timeout,
            cells: BTreeMap::new(),
            sessions: Sessions::new(sessions),
            announcements: VecDeque::new(),
            log,
        }
    }

    /// Opens a session for a caller; the message gets its number.
    pub(crate) fn request(
        &mut self,
        cell: &str,
        message: &mut Message,
    ) -> Result<(u32, oneshot::Receiver<Result<Message, Gone>>), RequestError> {
        if !self.cells.get(cell).is_some_and(Cell::is_connected) {
            return Err(RequestError::NoSuchCell(cell.into()));
        }
        let (sender, answer) = oneshot::channel();
        let session = self.sessions.open(cell, Waiting::Caller(sender)).ok_or(RequestError::NoFreeSession)?;
        message.from = session;
        Ok((session, answer))
    }

    /// Opens a session that takes every message until it is forgotten; the message gets its number. The receiver ends when the Cell goes.
    pub(crate) fn listen(&mut self, cell: &str, message: &mut Message) -> Result<(u32, mpsc::UnboundedReceiver<Message>), RequestError> {
        if !self.cells.get(cell).is_some_and(Cell::is_connected) {
            return Err(RequestError::NoSuchCell(cell.into()));
        }
        let (sender, messages) = mpsc::unbounded_channel();
        let session = self.sessions.open(cell, Waiting::Listener(sender)).ok_or(RequestError::NoFreeSession)?;
        message.from = session;
        Ok((session, messages))
    }

    /// A caller waits no longer.
    pub(crate) fn forget(&mut self, session: u32) {
        self.sessions.close(session);
    }

    /// Tells a Cell of its pool, as after a connect.
    fn announce(&mut self, now: Duration, cell: &str) -> Option<Outgoing> {
        let deadline = now + self.timeout;
        match self.sessions.open(cell, Waiting::PoolReady { deadline }) {
            Some(session) => Some((cell.into(), requests::pool_ready(&self.pool, true).from_session(session))),
            None => {
                self.refused(now, cell, "all sessions are in use".into());
                None
            }
        }
    }

    /// Takes what the hub tells.
    pub(crate) fn take(&mut self, now: Duration, event: HubEvent) {
        match event {
            HubEvent::Connected { name, kind, remote } => self.connected(now, name, kind, remote),
            HubEvent::Shadowed { name, remote } => self.tell(now, Event::CellSwallowed { cell: name, address: remote }),
            HubEvent::Message { name, message } => self.message(now, name, message),
            HubEvent::Invalid { name, id, reason } => self.tell(now, Event::Ignored { cell: name, id, reason }),
            HubEvent::Lost { name } => {
                self.set_state(&name, |state| if *state == CellState::Ready { CellState::Lost } else { state.clone() });
                self.tell(now, Event::CellLost { cell: name });
            }
            HubEvent::Recovered { name } => {
                self.set_state(&name, |state| if *state == CellState::Lost { CellState::Ready } else { state.clone() });
                self.tell(now, Event::CellRecovered { cell: name });
            }
            HubEvent::Disconnected { name, graceful, reason } => self.left(now, name, graceful, reason),
        }
    }

    /// When [`Domain::handle_timeout`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        let announcement = self.announcements.front().map(|(due, _)| *due);
        let deadline = self.sessions.next_deadline().map(|(_, deadline)| deadline);
        announcement.into_iter().chain(deadline).min()
    }

    /// Gives up waiting for Cells that did not take their pool; gives what is to be sent, one message at a time.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Option<Outgoing> {
        while let Some((session, _)) = self.sessions.next_deadline().filter(|(_, deadline)| *deadline <= now) {
            if let Some(session) = self.sessions.close(session) {
                let reason = format!("no answer to {} within {} s", MessageId::COMPUTE_POOL_READY_EVENT, self.timeout.as_secs_f64());
                self.refused(now, &session.cell, reason);
            }
        }
        while self.announcements.front().is_some_and(|(due, _)| *due <= now) {
            let (_, cell) = self.announcements.pop_front()?;
            if self.cells.get(&cell).is_some_and(|cell| cell.state == CellState::Connected) {
                return self.announce(now, &cell);
            }
        }
        None
    }

    fn connected(&mut self, now: Duration, name: String, kind: ServiceKind, address: SocketAddrV4) {
        if kind != ServiceKind::Cell {
            let reason = format!("it introduced itself as {kind:?}, and only Cells are served here");
            return self.tell(now, Event::Ignored { cell: name, id: Some(MessageId::CONNECTION_OPENED_EVENT), reason });
        }
        let (report, guests) = self.cells.remove(&name).map(|old| (old.report, old.guests)).unwrap_or_default();
        let cell = Cell { name: name.clone(), address, state: CellState::Connected, report, guests };
        self.cells.insert(name.clone(), cell);
        self.tell(now, Event::CellConnected { cell: name.clone(), address });
        if self.announce_pool {
            self.announcements.retain(|(_, waiting)| *waiting != name);
            self.announcements.push_back((now + ANNOUNCEMENT_DELAY, name));
        }
    }

    fn left(&mut self, now: Duration, name: String, graceful: bool, reason: String) {
        for session in self.sessions.close_all_of(&name) {
            if let Waiting::Caller(caller) = session.waiting {
                let _ = caller.send(Err(Gone(reason.clone()))); // the caller may have given up
            }
        }
        if self.cells.contains_key(&name) {
            self.set_state(&name, |_| CellState::Left { graceful });
            self.tell(now, Event::CellLeft { cell: name, graceful, reason });
        }
    }

    fn message(&mut self, now: Duration, cell: String, message: Message) {
        if message.to == 0 {
            return self.news(now, cell, message);
        }
        if let Some(listener) = self.sessions.listener(message.to) {
            let _ = listener.send(message); // it is about to end the session
            return;
        }
        match self.sessions.close(message.to) {
            None => {
                let reason = format!("nobody waits in session {}", message.to);
                self.tell(now, Event::Ignored { cell, id: Some(message.id), reason });
            }
            Some(session) => match session.waiting {
                Waiting::Caller(caller) => {
                    let _ = caller.send(Ok(message)); // the caller may have given up
                }
                Waiting::PoolReady { .. } => self.pool_answered(now, cell, &message),
                Waiting::Listener(_) => {}
            },
        }
    }

    fn pool_answered(&mut self, now: Duration, cell: String, message: &Message) {
        let outcome = match message {
            Message { id, .. } if *id != MessageId::COMPUTE_CELL_READY_EVENT => Err(format!("it answered with {id}")),
            Message { success: false, error, .. } => Err(error.clone()),
            _ => guest::import(message).map_err(|error| format!("its list of guests cannot be taken: {error}")),
        };
        match outcome {
            Err(reason) => self.refused(now, &cell, reason),
            Ok(guests) => {
                let count = guests.len();
                if let Some(entry) = self.cells.get_mut(&cell) {
                    entry.guests = guests;
                    entry.state = CellState::Ready;
                }
                self.tell(now, Event::CellReady { cell, guests: count });
            }
        }
    }

    fn refused(&mut self, now: Duration, cell: &str, reason: String) {
        self.set_state(cell, |_| CellState::Refused(reason.clone()));
        self.tell(now, Event::CellRefused { cell: cell.into(), reason });
    }

    fn set_state(&mut self, cell: &str, change: impl FnOnce(&CellState) -> CellState) {
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.state = change(&cell.state);
        }
    }

    fn tell(&self, now: Duration, event: Event) {
        self.log.push(Recorded { at: now, name: None, event });
    }
}
