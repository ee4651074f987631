//! The Core's side of a domain: many connections on one socket, known by name.
//!
//! Contract: a pure state machine as everything here. Connections are keyed by remote address (transport §2). With
//! [`HubConfig::shadow_same_name`] it behaves as the real Core does when a name connects twice (contract §2.5, §13.2): the
//! second connection gets its handshake and nothing else, its keep-alives count for the first, its "closed" removes the first.
//! Without it the newer connection replaces the older.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::message::{Message, MessageId};
use super::peer::{CloseReason, Peer, PeerConfig, PeerEvent, Role, SendError, ServiceKind, Timing};
use super::transport::{Transport, TransportConfig, TransportError};

/// What a hub needs to know from the start.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Our name in the domain: `Core_…`.
    pub name: String,
    /// The intervals of every connection.
    pub timing: Timing,
    /// Template of every connection's transport; `conv` comes from the other end.
    pub transport: TransportConfig,
    /// Treat the second connection of a name as the real Core does.
    pub shadow_same_name: bool,
    /// Connections at a time; further strangers are ignored.
    pub max_connections: usize,
}

impl HubConfig {
    /// As the real Core.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), timing: Timing::CORE, transport: TransportConfig::core(0), shadow_same_name: true, max_connections: 1024 }
    }
}

/// What happened at the hub.
#[derive(Clone, Debug, PartialEq)]
pub enum HubEvent {
    /// A node is connected under its name.
    Connected {
        /// Its name.
        name: String,
        /// What it is.
        kind: ServiceKind,
        /// Where it is.
        remote: SocketAddrV4,
    },
    /// The second connection of a name was taken and will not be served.
    Shadowed {
        /// The name.
        name: String,
        /// Where the second connection comes from.
        remote: SocketAddrV4,
    },
    /// A message from a node.
    Message {
        /// Its name.
        name: String,
        /// The message.
        message: Message,
    },
    /// A complete JSON object that is no valid message.
    Invalid {
        /// Name of the sender.
        name: String,
        /// Its id, where that could be read.
        id: Option<MessageId>,
        /// What is wrong with it.
        reason: String,
    },
    /// A node is silent.
    Lost {
        /// Its name.
        name: String,
    },
    /// A lost node is heard again.
    Recovered {
        /// Its name.
        name: String,
    },
    /// A node is no longer connected.
    Disconnected {
        /// Its name.
        name: String,
        /// It said "closed", so it stopped on purpose.
        graceful: bool,
        /// Why.
        reason: String,
    },
}

#[derive(Debug)]
struct Entry {
    /// Empty until the handshake is complete.
    name: String,
    conv: u32,
    peer: Peer,
}

/// The state machine.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    entries: BTreeMap<SocketAddrV4, Entry>,
    /// Which connection serves a name.
    names: BTreeMap<String, SocketAddrV4>,
    events: VecDeque<HubEvent>,
    /// What goes to addresses without a connection.
    disowned: VecDeque<(SocketAddrV4, Vec<u8>)>,
}

/// Answers to strangers that may wait to be sent.
const MAX_DISOWNED: usize = 64;

impl Hub {
    /// A hub without connections.
    pub fn new(config: HubConfig) -> Self {
        Self { config, entries: BTreeMap::new(), names: BTreeMap::new(), events: VecDeque::new(), disowned: VecDeque::new() }
    }

    /// Takes a datagram from `remote`. An error concerns this datagram only.
    pub fn receive(&mut self, now: Duration, remote: SocketAddrV4, datagram: &[u8]) -> Result<(), TransportError> {
        let is_new = self.admit(now, remote, datagram);
        let Some(entry) = self.entries.get_mut(&remote) else {
            self.disown(remote, datagram);
            return Ok(());
        };
        let before = entry.peer.heard();
        let result = entry.peer.receive(now, datagram);
        if is_new && result.is_err() {
            self.entries.remove(&remote); // not a beginning after all
            self.disown(remote, datagram);
            return result;
        }
        if entry.peer.heard() != before {
            self.credit(now, remote);
        }
        self.settle(now, remote);
        result
    }

    /// Queues a message to the node of this name.
    pub fn send(&mut self, name: &str, message: &Message) -> Result<(), SendError> {
        let entry = self.names.get(name).and_then(|remote| self.entries.get_mut(remote));
        entry.ok_or(SendError::NotOpen)?.peer.send(message)
    }

    /// Says "closed" to the node of this name.
    pub fn disconnect(&mut self, now: Duration, name: &str) {
        if let Some(entry) = self.names.get(name).and_then(|remote| self.entries.get_mut(remote)) {
            entry.peer.close(now, Timing::FLUSH);
        }
    }

    /// Says "closed" to everybody; [`Hub::is_idle`] tells when all is done.
    pub fn close(&mut self, now: Duration) {
        for entry in self.entries.values_mut() {
            entry.peer.close(now, Timing::FLUSH);
        }
    }

    /// Whether messages to the node of this name are taken.
    pub fn is_open(&self, name: &str) -> bool {
        self.names.get(name).and_then(|remote| self.entries.get(remote)).is_some_and(|entry| entry.peer.is_open())
    }

    /// True when no connection is left.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        let remotes: Vec<_> = self.entries.keys().copied().collect();
        for remote in remotes {
            if let Some(entry) = self.entries.get_mut(&remote) {
                entry.peer.handle_timeout(now);
            }
            self.settle(now, remote);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<(SocketAddrV4, Vec<u8>)> {
        if let Some(answer) = self.disowned.pop_front() {
            return Some(answer);
        }
        self.entries.iter_mut().find_map(|(remote, entry)| Some((*remote, entry.peer.poll_transmit(now)?)))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<HubEvent> {
        self.events.pop_front()
    }

    /// When to call [`Hub::handle_timeout`] and [`Hub::poll_transmit`] next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.peer.next_timeout()).min()
    }

    /// Begins a connection for a stranger whose first datagram is right, or for a known address that begins a new conversation;
    /// true when it did.
    fn admit(&mut self, now: Duration, remote: SocketAddrV4, datagram: &[u8]) -> bool {
        let Some(conv) = Transport::accept(datagram) else { return false };
        match self.entries.get(&remote) {
            Some(entry) if entry.conv == conv || entry.peer.is_open() => return false,
            None if self.entries.len() >= self.config.max_connections => return false,
            _ => {}
        }
        let config = PeerConfig { role: Role::Core, name: self.config.name.clone(), timing: self.config.timing };
        let peer = Peer::new(now, config, TransportConfig { conv, ..self.config.transport.clone() });
        self.entries.insert(remote, Entry { name: String::new(), conv, peer });
        true
    }

    /// Tells the other end of a connection from before our start that nothing of it is known, as the real Core does by taking every
    /// datagram for the beginning of a connection.
    fn disown(&mut self, remote: SocketAddrV4, datagram: &[u8]) {
        if self.disowned.len() < MAX_DISOWNED {
            self.disowned.extend(Transport::disown(datagram).map(|answer| (remote, answer)));
        }
    }

    /// A connection was heard: under the real Core's rule that counts for whichever connection serves the name.
    fn credit(&mut self, now: Duration, remote: SocketAddrV4) {
        let Some(name) = self.entries.get(&remote).map(|entry| &entry.name) else { return };
        let Some(server) = self.names.get(name).filter(|server| **server != remote) else { return };
        let server = *server;
        if let Some(entry) = self.entries.get_mut(&server) {
            entry.peer.refresh(now);
        }
        self.settle(now, server);
    }

    fn settle(&mut self, now: Duration, remote: SocketAddrV4) {
        while let Some(event) = self.entries.get_mut(&remote).and_then(|entry| entry.peer.poll_event()) {
            self.take(now, remote, event);
        }
        if self.entries.get(&remote).is_some_and(|entry| entry.peer.is_finished()) {
            self.entries.remove(&remote);
        }
    }

    fn take(&mut self, now: Duration, remote: SocketAddrV4, event: PeerEvent) {
        if let PeerEvent::Connected { name, kind } = event {
            return self.connected(now, remote, name, kind);
        }
        let Some(name) = self.entries.get(&remote).map(|entry| entry.name.clone()) else { return };
        let event = match event {
            PeerEvent::Message(message) => HubEvent::Message { name, message },
            PeerEvent::Invalid { id, reason, .. } => HubEvent::Invalid { name, id, reason },
            PeerEvent::Lost => HubEvent::Lost { name },
            PeerEvent::Recovered => HubEvent::Recovered { name },
            PeerEvent::Closed(reason) => return self.closed(remote, name, &reason),
            PeerEvent::Connected { .. } => return,
        };
        self.events.push_back(event);
    }

    fn connected(&mut self, now: Duration, remote: SocketAddrV4, name: String, kind: ServiceKind) {
        let Some(entry) = self.entries.get_mut(&remote) else { return };
        entry.name.clone_from(&name);
        match self.names.get(&name).copied() {
            Some(server) if self.config.shadow_same_name && server != remote => {
                entry.peer.shadow();
                return self.events.push_back(HubEvent::Shadowed { name, remote });
            }
            Some(server) if server != remote => {
                self.names.remove(&name);
                if let Some(old) = self.entries.get_mut(&server) {
                    old.name.clear();
                    old.peer.close(now, Timing::FLUSH);
                }
                let reason = "replaced by a newer connection".into();
                self.events.push_back(HubEvent::Disconnected { name: name.clone(), graceful: false, reason });
            }
            _ => {}
        }
        self.names.insert(name.clone(), remote);
        self.events.push_back(HubEvent::Connected { name, kind, remote });
    }

    /// The end of a connection removes the entry of its name, whichever connection that belongs to, as in the real Core.
    fn closed(&mut self, remote: SocketAddrV4, name: String, reason: &CloseReason) {
        let Some(server) = self.names.remove(&name) else { return };
        if server != remote {
            self.entries.remove(&server);
        }
        let graceful = *reason == CloseReason::ByPeer;
        self.events.push_back(HubEvent::Disconnected { name, graceful, reason: reason.to_string() });
    }
}
