//! The life of one connection (transport §4): handshake, keep-alives, silence and the graceful close.
//!
//! Contract: datagrams, messages and the time go in; datagrams, [`PeerEvent`]s and the next deadline come out. The same state machine
//! serves both ends: a Cell dials and speaks first, a Core answers. A connection ends once, with one [`PeerEvent::Closed`]; no
//! datagram of somebody who does not know the conversation can end it.

mod config;
mod handshake;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

pub use config::{PeerConfig, Role, ServiceKind, Timing};

use super::message::{Message, MessageError, MessageId};
use super::transport::{Transport, TransportConfig, TransportError};

/// What happened on the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerEvent {
    /// The handshake is complete.
    Connected {
        /// Name of the other end.
        name: String,
        /// What it is.
        kind: ServiceKind,
    },
    /// A message that is no part of the connection's own life.
    Message(Message),
    /// A complete JSON object that is no valid message; the connection goes on.
    Invalid {
        /// Its id, where that could be read.
        id: Option<MessageId>,
        /// The sender's session, 0 where it could not be read.
        from: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing was heard for a while.
    Lost,
    /// Heard again after [`PeerEvent::Lost`].
    Recovered,
    /// The end; nothing follows.
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by us")]
    ByUs {
        /// The other end acknowledged everything that we sent, the farewell included.
        acknowledged: bool,
    },
    /// The other end said that it closes.
    #[error("closed by the other end")]
    ByPeer,
    /// The handshake was not complete in time.
    #[error("the other end did not complete the handshake within {} ms", .0.as_millis())]
    HandshakeTimeout(Duration),
    /// The other end is not what it should be.
    #[error("handshake refused: {0}")]
    HandshakeRefused(String),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the other end for {} s", .0.as_secs())]
    Silence(Duration),
    /// Some segment was sent again and again without an acknowledgement.
    #[error("the other end stopped acknowledging")]
    Unacknowledged,
    /// The other end sent what this protocol does not allow.
    #[error("protocol violation by the other end: {0}")]
    Violation(String),
}

#[derive(Debug)]
enum Stage {
    Handshake {
        deadline: Duration,
    },
    Open,
    /// The farewell is on its way.
    Closing {
        deadline: Duration,
    },
    /// Told "closed"; acknowledges what is repeated.
    Lingering {
        until: Duration,
    },
    Finished,
}

/// One end of one connection.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    transport: Transport,
    stage: Stage,
    events: VecDeque<PeerEvent>,
    created: Duration,
    /// When the handshake was complete; the grid of checks begins there.
    started: Duration,
    /// When the last valid message came.
    heard: Duration,
    /// When the last datagram of this conversation came.
    heard_datagram: Duration,
    lost: bool,
    next_keep_alive: Duration,
    /// A Core neither serves nor watches the second connection of a name.
    shadowed: bool,
}

impl Peer {
    /// A new connection; a Cell's first datagram is ready at once.
    pub fn new(now: Duration, config: PeerConfig, transport: TransportConfig) -> Self {
        let mut peer = Self {
            stage: Stage::Handshake { deadline: now + config.timing.handshake },
            next_keep_alive: now + config.timing.keep_alive,
            transport: Transport::new(transport),
            config,
            events: VecDeque::new(),
            created: now,
            started: now,
            heard: now,
            heard_datagram: now,
            lost: false,
            shadowed: false,
        };
        if peer.config.role == Role::Cell {
            peer.introduce();
        }
        peer
    }

    /// Takes a datagram from the other end's address. An error concerns this datagram only: it is dropped and the connection lives on.
    pub fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), TransportError> {
        if matches!(self.stage, Stage::Finished) {
            return Ok(());
        }
        self.transport.receive(now, datagram)?;
        self.heard_datagram = now;
        while let Some(result) = self.transport.poll_message() {
            match result {
                Ok(message) => self.take(now, message),
                Err(MessageError::Invalid { id, from, reason }) => self.take_invalid(now, id, from, reason),
                Err(MessageError::Fatal(reason)) => self.violated(now, reason),
            }
        }
        self.handle_timeout(now); // a farewell may be acknowledged now
        Ok(())
    }

    /// Queues a message. Before the handshake and after the close it is refused.
    pub fn send(&mut self, message: &Message) -> Result<(), SendError> {
        match self.stage {
            Stage::Open => self.transport.send(message).map_err(SendError::Transport),
            _ => Err(SendError::NotOpen),
        }
    }

    /// Says "closed" and waits at most `flush` for the acknowledgement; [`PeerEvent::Closed`] follows.
    pub fn close(&mut self, now: Duration, flush: Duration) {
        if matches!(self.stage, Stage::Handshake { .. } | Stage::Open) {
            self.say_closed();
            self.stage = Stage::Closing { deadline: now + flush };
        }
    }

    /// Ends at once: the owner knows that nobody is at the other end.
    pub fn abandon(&mut self, reason: CloseReason) {
        if !matches!(self.stage, Stage::Finished | Stage::Lingering { .. }) {
            self.events.push_back(PeerEvent::Closed(reason));
        }
        self.stage = Stage::Finished;
    }

    /// Bytes that wait inside the transport.
    #[cfg(test)]
    pub(in crate::proto) fn held_bytes(&self) -> usize {
        self.transport.held_bytes()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        match self.stage {
            Stage::Handshake { deadline } if now >= deadline => {
                self.say_closed(); // the other end may have taken us without our knowing
                self.finish(now, CloseReason::HandshakeTimeout(self.config.timing.handshake));
            }
            Stage::Open => self.keep_alive(now),
            Stage::Closing { deadline } => {
                let acknowledged = self.transport.is_drained();
                if acknowledged || now >= deadline || self.transport.is_dead() {
                    self.finish(now, CloseReason::ByUs { acknowledged });
                    self.stage = Stage::Finished;
                }
            }
            Stage::Lingering { until } if now >= until => self.stage = Stage::Finished,
            _ => {}
        }
        if matches!(self.stage, Stage::Handshake { .. } | Stage::Open) && self.transport.is_dead() {
            self.finish(now, CloseReason::Unacknowledged);
        }
    }

    /// The next datagram to send to the other end.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        match self.stage {
            Stage::Finished => None,
            _ => self.transport.poll_transmit(now),
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// When to call [`Peer::handle_timeout`] and [`Peer::poll_transmit`] next.
    pub fn next_timeout(&self) -> Option<Duration> {
        let own = match self.stage {
            Stage::Handshake { deadline } | Stage::Closing { deadline } => deadline,
            Stage::Open if self.shadowed => return self.transport.next_timeout(),
            Stage::Open => self.next_keep_alive.min(self.life_deadline()),
            Stage::Lingering { until } => until,
            Stage::Finished => return None,
        };
        Some(self.transport.next_timeout().map_or(own, |transport| transport.min(own)))
    }

    /// True when nothing more will be sent or told.
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished) && self.events.is_empty()
    }

    /// True between the handshake and the close.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// When the last valid message came; the start where none came yet.
    pub fn heard(&self) -> Duration {
        self.heard
    }

    /// True once a datagram of this conversation came.
    pub fn was_heard(&self) -> bool {
        self.heard_datagram > self.created
    }

    /// When the last datagram of this conversation came; the start where none came yet.
    pub fn heard_datagram(&self) -> Duration {
        self.heard_datagram
    }

    /// Asks the other end for a sign of life below the messages; whoever is there answers.
    pub fn probe(&mut self) {
        if matches!(self.stage, Stage::Open) {
            self.transport.ask();
        }
    }

    /// The other end's last word was that it knows nothing of this conversation: an old datagram, or it was restarted.
    pub fn is_forgotten(&self) -> bool {
        self.transport.is_forgotten()
    }

    /// Counts as hearing from the other end: a Core credits every keep-alive to the name it came under.
    pub(in crate::proto) fn refresh(&mut self, now: Duration) {
        self.heard = now;
        if std::mem::take(&mut self.lost) {
            self.events.push_back(PeerEvent::Recovered);
        }
    }

    /// From now on neither sends keep-alives nor minds silence.
    pub(in crate::proto) fn shadow(&mut self) {
        self.shadowed = true;
    }

    fn take(&mut self, now: Duration, message: Message) {
        match self.stage {
            Stage::Handshake { .. } => self.take_first(now, &message),
            Stage::Open => {
                self.refresh(now);
                match message.id {
                    MessageId::CONNECTION_KEEP_ALIVE_EVENT => {}
                    MessageId::CONNECTION_CLOSED_EVENT => self.finish(now, CloseReason::ByPeer),
                    _ => self.events.push_back(PeerEvent::Message(message)),
                }
            }
            Stage::Closing { .. } if message.id == MessageId::CONNECTION_CLOSED_EVENT => {
                self.finish(now, CloseReason::ByUs { acknowledged: true });
            }
            Stage::Closing { .. } | Stage::Lingering { .. } | Stage::Finished => {}
        }
    }

    fn take_first(&mut self, now: Duration, message: &Message) {
        if message.id == MessageId::CONNECTION_CLOSED_EVENT {
            return self.finish(now, CloseReason::ByPeer);
        }
        match handshake::read(message, self.config.role) {
            Ok(introduction) => {
                self.stage = Stage::Open;
                self.started = now;
                self.heard = now;
                self.next_keep_alive = now + self.config.timing.keep_alive;
                if self.config.role == Role::Core {
                    self.introduce();
                }
                self.events.push_back(PeerEvent::Connected { name: introduction.name, kind: introduction.kind });
            }
            Err(reason) => {
                self.say_closed();
                self.finish(now, CloseReason::HandshakeRefused(reason));
            }
        }
    }

    fn take_invalid(&mut self, now: Duration, id: Option<MessageId>, from: u32, reason: String) {
        match self.stage {
            Stage::Handshake { .. } => {
                self.say_closed();
                self.finish(now, CloseReason::HandshakeRefused(reason));
            }
            Stage::Open => self.events.push_back(PeerEvent::Invalid { id, from, reason }),
            _ => {}
        }
    }

    fn violated(&mut self, now: Duration, reason: String) {
        if matches!(self.stage, Stage::Handshake { .. } | Stage::Open) {
            self.say_closed();
            self.finish(now, CloseReason::Violation(reason));
        }
    }

    fn keep_alive(&mut self, now: Duration) {
        if self.shadowed {
            return;
        }
        if now >= self.life_deadline() {
            if self.lost {
                self.say_closed();
                return self.finish(now, CloseReason::Silence(now.saturating_sub(self.heard)));
            }
            self.lost = true;
            self.events.push_back(PeerEvent::Lost);
        }
        if now >= self.next_keep_alive {
            self.next_keep_alive = now + self.config.timing.keep_alive;
            // A Core stops sending to whom it lost; a Cell goes on, or two ends that lost each other would never meet again.
            if !(self.lost && self.config.role == Role::Core) {
                self.say(MessageId::CONNECTION_KEEP_ALIVE_EVENT);
            }
        }
    }

    /// When silence has its next consequence, on the grid of checks.
    fn life_deadline(&self) -> Duration {
        let Timing { lost, disconnect, check, .. } = self.config.timing;
        let patience = self.heard + if self.lost { disconnect } else { lost };
        let since_start = patience.saturating_sub(self.started).as_millis();
        let checks = since_start.div_ceil(check.as_millis().max(1));
        self.started + check.saturating_mul(u32::try_from(checks).unwrap_or(u32::MAX))
    }

    fn finish(&mut self, now: Duration, reason: CloseReason) {
        self.events.push_back(PeerEvent::Closed(reason));
        self.stage = Stage::Lingering { until: now + self.config.timing.linger };
    }

    fn introduce(&mut self) {
        let message = handshake::introduce(&self.config.name, self.config.role.kind());
        self.push(&message);
    }

    fn say_closed(&mut self) {
        self.say(MessageId::CONNECTION_CLOSED_EVENT);
    }

    fn say(&mut self, id: MessageId) {
        self.push(&Message::new(id));
    }

    /// Sends a message of the connection's own life. When the queue is full the other end has long stopped acknowledging, and
    /// silence or the dead link ends the connection.
    fn push(&mut self, message: &Message) {
        let _ = self.transport.send(message);
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The handshake is not complete, or the connection is being closed.
    #[error("the connection is not open")]
    NotOpen,
    /// The transport refused it.
    #[error("the message cannot be sent")]
    Transport(#[source] TransportError),
}
