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
    probed: Duration,
    first_refusal: Option<Duration>,
    restart_seen: Option<Duration>,
    /// The search that runs beside a silent connection.
    pub(super) query: Option<Query>,
}

impl Vigil {
    pub(super) fn new(now: Duration, recovery: Recovery) -> Self {
        Self { recovery, joined: now, probed: now, first_refusal: None, restart_seen: None, query: None }
    }

    /// Looks at the connection and asks the other end for a sign where one is due.
    pub(super) fn watch(&mut self, now: Duration, peer: &mut Peer) -> Verdict {
        self.first_refusal = self.first_refusal.filter(|first| peer.heard_datagram() <= *first);
        self.restart_seen = peer.is_forgotten().then(|| self.restart_seen.unwrap_or(now));
        if now >= self.next_probe(peer) {
            self.probed = now;
            peer.probe();
        }
        if self.restart_seen.is_some_and(|seen| now >= seen + self.recovery.restart) {
            return Verdict::Restarted;
        }
        if !self.is_served(peer) && now >= self.joined + self.recovery.deaf {
            return Verdict::Deaf;
        }
        if now < peer.heard() + self.recovery.silence {
            self.query = None;
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

    /// Whether an echo that names `found` shows that this silent connection to `core` is beyond hope. An echo for another address
    /// counts only where not even acknowledgements come from ours.
    pub(super) fn is_overtaken(&self, now: Duration, peer: &Peer, core: SocketAddrV4, found: SocketAddrV4) -> bool {
        found == core || now >= peer.heard_datagram() + self.recovery.silence
    }

    pub(super) fn next_timeout(&self, peer: &Peer) -> Duration {
        let silence = match &self.query {
            Some(query) => query.next_timeout(),
            None => peer.heard() + self.recovery.silence,
        };
        let deaf = (!self.is_served(peer)).then_some(self.joined + self.recovery.deaf);
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
