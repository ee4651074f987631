//! A Cell's whole life in a domain: searching a Core, connecting, being joined, recovering for ever, leaving (transport §4).
//!
//! Contract: a pure state machine. The driver feeds datagrams, echoes and socket errors, calls [`Membership::handle_timeout`] at
//! [`Membership::next_timeout`], and carries out every [`Action`] in the order given. At most one connection exists at a time, each on a
//! fresh socket with a fresh random conversation number; the farewell on an old one is over before the new one begins, for a Core
//! removes an entry by name, whichever connection said "closed".

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
mod types;
mod vigil;
#[cfg(test)]
mod world;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

pub use types::{Action, LinkStatus, MemberEvent, MembershipConfig, Recovery, SendError};
use vigil::{Verdict, Vigil};

use super::discovery::{decode_echo, DiscoveryError, Query};
use super::message::Message;
use super::peer::{CloseReason, Peer, PeerConfig, PeerEvent, Role, Timing};
use super::transport::{TransportConfig, TransportError};

/// One connection to a Core.
#[derive(Debug)]
struct Link {
    number: u64,
    core: SocketAddrV4,
    core_name: String,
    local: SocketAddrV4,
    lost: bool,
    announced: bool,
    peer: Peer,
}

#[derive(Debug)]
enum State {
    Searching(Query),
    /// Waiting before the next attempt: at a known address, or by a new search.
    Pausing {
        until: Duration,
        core: Option<SocketAddrV4>,
    },
    Connecting(Box<Link>),
    Joined(Box<Link>, Box<Vigil>),
    /// The farewell is on its way; `then` is where to connect afterwards, nowhere when we leave for good.
    Closing {
        link: Box<Link>,
        then: Option<SocketAddrV4>,
    },
    Left,
}

/// The state machine.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    /// Source of conversation numbers and jitter, apart from that of ping ids, which everybody sees.
    generator: fastrand::Rng,
    state: State,
    actions: VecDeque<Action>,
    links: u64,
    /// A Core may hold an old entry under our name: the next handshake is followed by a farewell and another connection.
    stale_entry: bool,
    failures: u32,
    distrusted: Vec<(SocketAddrV4, Duration)>,
}

/// How much of a stranger's name may stand in an error.
const LONGEST_NAME: usize = 64;

/// Addresses that are distrusted at a time.
const MAX_DISTRUSTED: usize = 16;

impl Membership {
    /// A membership that begins to look for a Core at once.
    pub fn new(now: Duration, config: MembershipConfig) -> Self {
        let mut membership = Self {
            generator: fastrand::Rng::with_seed(config.seed),
            stale_entry: config.unclean,
            config,
            state: State::Left,
            actions: VecDeque::new(),
            links: 0,
            failures: 0,
            distrusted: Vec::new(),
        };
        membership.search(now);
        membership.advance(now);
        membership
    }

    /// Takes a datagram that came to the domain's echo port. An error concerns this datagram only.
    pub fn handle_echo(&mut self, now: Duration, datagram: &[u8]) -> Result<(), DiscoveryError> {
        let query = match &mut self.state {
            State::Searching(query) => query,
            State::Joined(_, vigil) => match &mut vigil.query {
                Some(query) => query,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let echo = decode_echo(datagram)?;
        if let Some(core) = query.accept(now, &echo) {
            self.found(now, core);
        }
        self.advance(now);
        Ok(())
    }

    /// The socket of the last [`Action::Open`] is open.
    pub fn socket_opened(&mut self, local: SocketAddrV4) {
        if let State::Connecting(link) = &mut self.state {
            link.local = local;
        }
    }

    /// The socket of the last [`Action::Open`] could not be opened.
    pub fn socket_failed(&mut self, now: Duration, reason: &str) {
        self.attempt_failed(now, reason);
        self.advance(now);
    }

    /// The other end's host refused a datagram of the open socket: at present nobody listens there.
    pub fn socket_refused(&mut self, now: Duration) {
        let gone = match &mut self.state {
            State::Joined(link, vigil) => vigil.refused(now, &link.peer),
            State::Closing { link, .. } => {
                link.peer.abandon(CloseReason::ByPeer);
                false
            }
            _ => false,
        };
        if gone {
            self.stale_entry = false;
            self.lose(now, "the Core's address refuses datagrams: the Core is not running", None);
        }
        self.attempt_failed(now, "nobody listens at this address");
        self.advance(now);
    }

    /// Takes a datagram that came on the open socket. An error concerns this datagram only.
    pub fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), TransportError> {
        let result = match self.link_mut() {
            Some(link) => link.peer.receive(now, datagram),
            None => Ok(()),
        };
        self.advance(now);
        result
    }

    /// Queues a message to the Core: a reply with the link that its request came on, anything else without.
    pub fn send(&mut self, link: Option<u64>, message: &Message) -> Result<(), SendError> {
        let current = match &mut self.state {
            State::Joined(link, _) => link,
            _ => return Err(link.map_or(SendError::NotJoined, |link| SendError::Stale { link })),
        };
        match link {
            Some(link) if link != current.number => Err(SendError::Stale { link }),
            _ => current.peer.send(message).map_err(SendError::Connection),
        }
    }

    /// Leaves for good: what was sent before goes out first, then the farewell; [`Membership::is_finished`] tells the end.
    pub fn leave(&mut self, now: Duration) {
        match std::mem::replace(&mut self.state, State::Left) {
            State::Connecting(link) | State::Joined(link, _) | State::Closing { link, .. } => {
                self.say_farewell(now, link, None, Timing::FLUSH);
            }
            State::Searching(_) | State::Pausing { .. } | State::Left => {}
        }
        self.advance(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
    }

    /// The next thing for the driver to do.
    pub fn poll_action(&mut self, now: Duration) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.link_mut()?.peer.poll_transmit(now).map(Action::Transmit)
    }

    /// When to call [`Membership::handle_timeout`] next.
    pub fn next_timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Searching(query) => Some(query.next_timeout()),
            State::Pausing { until, .. } => Some(*until),
            State::Connecting(link) | State::Closing { link, .. } => link.peer.next_timeout(),
            State::Joined(link, vigil) => {
                let vigil = vigil.next_timeout(&link.peer);
                Some(link.peer.next_timeout().map_or(vigil, |peer| peer.min(vigil)))
            }
            State::Left => None,
        }
    }

    /// True once we left for good and every action was taken.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Left) && self.actions.is_empty()
    }

    /// Where the membership stands.
    pub fn status(&self) -> LinkStatus {
        match &self.state {
            State::Searching(_) | State::Pausing { .. } => LinkStatus::Searching,
            State::Connecting(link) => LinkStatus::Connecting { core_address: link.core },
            State::Joined(link, _) => LinkStatus::Joined {
                core_name: link.core_name.clone(),
                core_address: link.core,
                local_address: link.local,
                lost: link.lost,
            },
            State::Closing { then: Some(core_address), .. } => LinkStatus::Connecting { core_address: *core_address },
            State::Closing { then: None, .. } => LinkStatus::Closing,
            State::Left => LinkStatus::Left,
        }
    }

    /// Bytes that the connection holds for reassembly, resending and recovery.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        match &self.state {
            State::Connecting(link) | State::Joined(link, _) | State::Closing { link, .. } => link.peer.held_bytes(),
            State::Searching(_) | State::Pausing { .. } | State::Left => 0,
        }
    }

    fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Connecting(link) | State::Joined(link, _) | State::Closing { link, .. } => Some(link),
            State::Searching(_) | State::Pausing { .. } | State::Left => None,
        }
    }

    /// Brings everything up to `now`: timers, events of the connection, the vigil.
    fn advance(&mut self, now: Duration) {
        self.advance_search(now);
        if let Some(link) = self.link_mut() {
            link.peer.handle_timeout(now);
        }
        while let Some(event) = self.link_mut().and_then(|link| link.peer.poll_event()) {
            self.take_event(now, event);
        }
        self.keep_vigil(now);
    }

    fn advance_search(&mut self, now: Duration) {
        match &mut self.state {
            State::Searching(query) => {
                if let Some(ping) = query.poll_ping(now) {
                    self.actions.push_back(Action::Ping(ping));
                }
                if let Some(core) = query.poll_fallback(now) {
                    self.connect(now, core);
                }
            }
            State::Pausing { until, core } if now >= *until => match *core {
                Some(core) => self.connect(now, core),
                None => {
                    self.search(now);
                    self.advance_search(now);
                }
            },
            _ => {}
        }
    }

    fn keep_vigil(&mut self, now: Duration) {
        let State::Joined(link, vigil) = &mut self.state else { return };
        let core = link.core;
        match vigil.watch(now, &mut link.peer) {
            Verdict::Fine => {}
            Verdict::Deaf => self.lose(now, "the Core took the handshake but does not serve the connection", Some(core)),
            Verdict::Restarted => {
                self.stale_entry = false;
                self.lose(now, "the Core was restarted and does not know the connection any more", None);
                self.connect(now, core);
            }
            Verdict::Silent if self.config.core_address.is_some() => {
                // Nobody to ask around for; the connection's own timeout decides.
            }
            Verdict::Silent => self.ask_around(now),
        }
    }

    /// Pings beside a silent connection.
    fn ask_around(&mut self, now: Duration) {
        let generator = fastrand::Rng::with_seed(self.generator.u64(..));
        let State::Joined(_, vigil) = &mut self.state else { return };
        let query = vigil.query.get_or_insert_with(|| Query::new(now, &self.config.domain, self.config.query, generator, Vec::new()));
        if let Some(ping) = query.poll_ping(now) {
            self.actions.push_back(Action::Ping(ping));
        }
    }

    /// A Core answered a ping.
    fn found(&mut self, now: Duration, core: SocketAddrV4) {
        let overtaken = match &mut self.state {
            State::Searching(_) => return self.connect(now, core),
            State::Joined(link, vigil) => vigil.is_overtaken(now, &link.peer, link.core, core),
            _ => false,
        };
        if overtaken {
            self.lose(now, "the Core is alive but does not talk to us", Some(core));
        }
    }

    fn take_event(&mut self, now: Duration, event: PeerEvent) {
        match event {
            PeerEvent::Connected { name, .. } => self.connected(now, name),
            PeerEvent::Message(message) => self.tell_joined(|link| MemberEvent::Message { link, message }),
            PeerEvent::Invalid { id, from, reason } => {
                self.tell_joined(|link| MemberEvent::Invalid { link, id, from, reason });
            }
            PeerEvent::Lost => self.set_lost(true),
            PeerEvent::Recovered => self.set_lost(false),
            PeerEvent::Closed(reason) => self.closed(now, &reason),
        }
    }

    fn connected(&mut self, now: Duration, core_name: String) {
        let mut link = match std::mem::replace(&mut self.state, State::Left) {
            State::Connecting(link) => link,
            other => return self.state = other,
        };
        if let Some(reason) = self.mismatch(&core_name) {
            return self.turn_away(now, link, &reason);
        }
        link.core_name = core_name;
        if self.stale_entry {
            let core = link.core;
            return self.say_farewell(now, link, Some(core), self.config.recovery.farewell);
        }
        link.announced = true;
        self.failures = 0;
        self.distrusted.retain(|(core, _)| *core != link.core);
        self.tell(MemberEvent::Joined {
            link: link.number,
            core_name: link.core_name.clone(),
            core_address: link.core,
            local_address: link.local,
        });
        self.state = State::Joined(link, Box::new(Vigil::new(now, self.config.recovery)));
    }

    /// What speaks against a Core of this name.
    fn mismatch(&self, seen: &str) -> Option<String> {
        let pinned = self.config.core_name.as_deref().filter(|pinned| *pinned != seen)?;
        let seen: String = seen.chars().take(LONGEST_NAME).collect();
        Some(format!("it calls itself {seen:?}, but core_name pins {pinned:?}; nothing is taken from it"))
    }

    /// Parts from a Core that is not ours: a farewell, so that it drops our name, and nothing more.
    fn turn_away(&mut self, now: Duration, mut link: Box<Link>, reason: &str) {
        link.peer.close(now, Duration::ZERO);
        let core = link.core;
        self.state = State::Connecting(link);
        self.release(now);
        self.retry_later(now, core, reason);
    }

    fn closed(&mut self, now: Duration, reason: &CloseReason) {
        self.release(now);
        match std::mem::replace(&mut self.state, State::Left) {
            State::Connecting(link) => {
                // A Core that answered below the messages may have taken us although its introduction did not come through.
                self.stale_entry |= matches!(reason, CloseReason::HandshakeTimeout(_)) && link.peer.was_heard();
                self.retry_later(now, link.core, &reason.to_string());
            }
            State::Joined(mut link, _) => {
                self.stale_entry = *reason != CloseReason::ByPeer;
                self.tell_left(&mut link, &reason.to_string());
                self.pause(now, self.config.recovery.settle, self.config.core_address);
            }
            State::Closing { mut link, then } => {
                self.stale_entry = *reason == CloseReason::ByUs { acknowledged: false };
                match then {
                    Some(core) if self.stale_entry => self.retry_later(now, core, "it did not acknowledge a farewell"),
                    Some(core) => self.pause(now, self.config.recovery.settle, Some(core)),
                    None => self.tell_left(&mut link, &reason.to_string()),
                }
            }
            other => self.state = other,
        }
    }

    /// Ends a joined connection: with a farewell and a new connection to `reconnect`, or at once and with a new search.
    fn lose(&mut self, now: Duration, reason: &str, reconnect: Option<SocketAddrV4>) {
        let mut link = match std::mem::replace(&mut self.state, State::Left) {
            State::Joined(link, _) => link,
            other => return self.state = other,
        };
        self.tell_left(&mut link, reason);
        match reconnect {
            Some(core) => self.say_farewell(now, link, Some(core), self.config.recovery.farewell),
            None => {
                self.actions.push_back(Action::CloseSocket);
                self.pause(now, self.config.recovery.settle, self.config.core_address);
            }
        }
    }

    fn say_farewell(&mut self, now: Duration, mut link: Box<Link>, then: Option<SocketAddrV4>, flush: Duration) {
        link.peer.close(now, flush);
        self.state = State::Closing { link, then };
    }

    /// Sends what the ended connection still has to say, the acknowledgement of a farewell above all, and closes its socket.
    fn release(&mut self, now: Duration) {
        while let Some(datagram) = self.link_mut().and_then(|link| link.peer.poll_transmit(now)) {
            self.actions.push_back(Action::Transmit(datagram));
        }
        self.actions.push_back(Action::CloseSocket);
    }

    /// Gives up the attempt under way.
    fn attempt_failed(&mut self, now: Duration, reason: &str) {
        let State::Connecting(link) = &self.state else { return };
        let core = link.core;
        self.actions.push_back(Action::CloseSocket);
        self.retry_later(now, core, reason);
    }

    /// Tries again after a pause that grows with each failure.
    fn retry_later(&mut self, now: Duration, core: SocketAddrV4, reason: &str) {
        self.distrust(now, core);
        self.failures = self.failures.saturating_add(1);
        self.tell(MemberEvent::AttemptFailed { core_address: core, reason: reason.into(), failures: self.failures });
        let Recovery { least_pause, greatest_pause, .. } = self.config.recovery;
        let doubled = least_pause.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(greatest_pause);
        let jittered = doubled.mul_f64(0.5 + self.generator.f64() / 2.0);
        self.pause(now, jittered, self.config.core_address);
    }

    fn distrust(&mut self, now: Duration, core: SocketAddrV4) {
        self.distrusted.retain(|(other, until)| *other != core && now < *until);
        if self.distrusted.len() == MAX_DISTRUSTED {
            self.distrusted.remove(0);
        }
        self.distrusted.push((core, now + self.config.recovery.distrust));
    }

    fn pause(&mut self, now: Duration, pause: Duration, core: Option<SocketAddrV4>) {
        self.state = State::Pausing { until: now + pause, core };
    }

    fn search(&mut self, now: Duration) {
        if let Some(core) = self.config.core_address {
            return self.connect(now, core);
        }
        self.distrusted.retain(|(_, until)| now < *until);
        let distrusted = self.distrusted.iter().map(|(core, _)| *core).collect();
        let generator = fastrand::Rng::with_seed(self.generator.u64(..));
        self.state = State::Searching(Query::new(now, &self.config.domain, self.config.query, generator, distrusted));
    }

    fn connect(&mut self, now: Duration, core: SocketAddrV4) {
        self.links += 1;
        let conv = self.generator.u32(1..);
        let config = PeerConfig { role: Role::Cell, name: self.config.name.clone(), timing: self.config.connection };
        let peer = Peer::new(now, config, TransportConfig { conv, ..self.config.transport.clone() });
        self.actions.push_back(Action::Open(core));
        self.state = State::Connecting(Box::new(Link {
            number: self.links,
            core,
            core_name: String::new(),
            local: SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0),
            lost: false,
            announced: false,
            peer,
        }));
    }

    fn set_lost(&mut self, lost: bool) {
        if let State::Joined(link, _) = &mut self.state {
            link.lost = lost;
            let link = link.number;
            self.tell(if lost { MemberEvent::Lost { link } } else { MemberEvent::Recovered { link } });
        }
    }

    /// Tells that a connection is gone which was announced before, once.
    fn tell_left(&mut self, link: &mut Link, reason: &str) {
        if std::mem::take(&mut link.announced) {
            self.tell(MemberEvent::Left { link: link.number, reason: reason.into() });
        }
    }

    fn tell_joined(&mut self, event: impl FnOnce(u64) -> MemberEvent) {
        if let State::Joined(link, _) = &self.state {
            let event = event(link.number);
            self.tell(event);
        }
    }

    fn tell(&mut self, event: MemberEvent) {
        self.actions.push_back(Action::Event(event));
    }
}
