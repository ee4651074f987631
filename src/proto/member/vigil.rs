//! Watching over a joined connection: is the Core at the other end still the one that took us, and does it serve us?
//!
//! Contract: the contract's own timeout tells after 15 s of silence. The vigil is faster and never takes one sign alone for
//! an end, because any single datagram may be old, lost or forged: a restart must stay evident while we ask again and again,
//! a refusal must be repeated, an unserved connection must be silent for two whole intervals.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::types::Recovery;
use crate::proto::discovery::Query;
use crate::proto::peer::Peer;

/// While a sign is being verified the other end is asked this many times as often.
const URGENCY: u32 = 5;

/// What the vigil concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing speaks against the connection.
    Fine,
    /// The handshake was answered, but nothing followed: the Core holds an older connection under our name.
    Deaf,
    /// The other end knows nothing of the conversation any more.
    Restarted,
    /// Silence beyond two intervals: ask around.
    Silent,
}

#[derive(Debug)]
pub(super) struct Vigil {
    recovery: Recovery,
    joined: Duration,
    /// Since when datagrams come without an outage; who hears nothing at all is not deaf.
    alive_since: Duration,
    probed: Duration,
    first_refusal: Option<Duration>,
    restart_seen: Option<Duration>,
    /// When the first echo came while the connection was silent.
    first_echo: Option<Duration>,
    /// The search that runs beside a silent connection.
    pub(super) query: Option<Query>,
}

impl Vigil {
    pub(super) fn new(now: Duration, recovery: Recovery) -> Self {
        Self {
            recovery,
            joined: now,
            alive_since: now,
            probed: now,
            first_refusal: None,
            restart_seen: None,
            first_echo: None,
            query: None,
        }
    }

    /// Looks at the connection and asks the other end for a sign where one is due.
    pub(super) fn watch(&mut self, now: Duration, peer: &mut Peer) -> Verdict {
        self.first_refusal = self.first_refusal.filter(|first| peer.heard_datagram() <= *first);
        self.restart_seen = peer.is_forgotten().then(|| self.restart_seen.unwrap_or(now));
        if now > peer.heard_datagram() + self.recovery.probe * 2 {
            self.alive_since = now;
        }
        if now >= self.next_probe(peer) {
            self.probed = now;
            peer.probe();
        }
        if self.restart_seen.is_some_and(|seen| now >= seen + self.recovery.restart) {
            return Verdict::Restarted;
        }
        if !self.is_served(peer) && now >= self.alive_since + self.recovery.deaf {
            return Verdict::Deaf;
        }
        if now < peer.heard() + self.recovery.silence {
            self.query = None;
            self.first_echo = None;
            return Verdict::Fine;
        }
        Verdict::Silent
    }

    /// The address refused a datagram; true when it has done so for long enough to believe that nobody is there.
    pub(super) fn refused(&mut self, now: Duration, peer: &Peer) -> bool {
        let first = self.first_refusal.filter(|first| peer.heard_datagram() <= *first).unwrap_or(now);
        self.first_refusal = Some(first);
        now >= first + self.recovery.refusal
    }

    /// Whether the echoes that came since the connection fell silent, the last naming `found`, show that it is beyond hope.
    ///
    /// After an outage the network brings echoes and the Core's voice back at about the same time, so one echo says little; and a Core that
    /// acknowledges needs up to one interval to say something. An echo for another address counts only where ours does not even acknowledge.
    pub(super) fn is_overtaken(&mut self, now: Duration, peer: &Peer, core: SocketAddrV4, found: SocketAddrV4) -> bool {
        let is_dumb = now >= peer.heard_datagram() + self.recovery.silence;
        if found != core && !is_dumb {
            return false;
        }
        let first = *self.first_echo.get_or_insert(now);
        let Recovery { grace_dumb, grace_silent, .. } = self.recovery;
        now >= first + if is_dumb { grace_dumb } else { grace_silent }
    }

    pub(super) fn next_timeout(&self, peer: &Peer) -> Duration {
        let silence = match &self.query {
            Some(query) => query.next_timeout(),
            None => peer.heard() + self.recovery.silence,
        };
        let deaf = (!self.is_served(peer)).then_some(self.alive_since + self.recovery.deaf);
        let restart = self.restart_seen.map(|seen| seen + self.recovery.restart);
        [deaf, restart].into_iter().flatten().fold(silence.min(self.next_probe(peer)), Duration::min)
    }

    fn is_served(&self, peer: &Peer) -> bool {
        peer.heard() > self.joined
    }

    fn next_probe(&self, peer: &Peer) -> Duration {
        let urgent = self.restart_seen.is_some() || self.first_refusal.is_some();
        let pause = if urgent { self.recovery.probe / URGENCY } else { self.recovery.probe };
        if urgent {
            self.probed + pause
        } else {
            self.probed.max(peer.heard_datagram()) + pause
        }
    }
}
