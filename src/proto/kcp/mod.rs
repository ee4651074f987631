//! KCP: order and retransmission over datagrams that get lost, doubled and reordered (transport §2).
//!
//! Contract: [`Kcp`] takes the payloads of datagrams and chunks to send, and gives the payloads of datagrams and the received chunks, each exactly
//! once and in order. A chunk is one segment: it is never cut, never joined with another, and its fragment number is 0; where a message ends is
//! the business of the layer above. Numbers are compared on the ring of u32, so that nothing happens when one wraps. A payload is checked as a whole
//! before any of it counts. Whatever a peer sends, memory is bounded by the two windows and the cap of the send queue.
//!
//! Why not the `kcp` crate: it writes into an output of its own instead of being asked for datagrams, flushes only on its clock's tick or with everything
//! at once, gives no say over what of the pending acks, retransmissions and new segments goes into which datagram, asks fragment numbers of its peer that a Core's
//! segments do not carry, believes a peer that acknowledges what was never sent, and asserts and unwraps on the way.

mod congestion;
mod receiver;
mod ring;
mod rtt;
mod segment;
mod sender;
#[cfg(test)]
mod tests;

use std::time::Duration;

use receiver::Receiver;
pub use segment::{Command, Segment, SegmentError, Segments};
use sender::Sender;

/// Bytes of a segment's header.
pub const HEADER: usize = 24;
/// Longest payload of a segment: 1400 bytes of datagram less both headers (transport §2).
pub const MAX_CHUNK: usize = 1368;

/// Settings of one end of a connection.
///
/// The default is a Cell's end: prompt, and without a congestion window. [`KcpConfig::core`] is what a Core runs.
#[derive(Clone, Debug)]
pub struct KcpConfig {
    /// Bytes of segments in one datagram.
    pub payload: usize,
    /// Most segments in flight; the peer's advertised window bounds it further.
    pub send_window: u16,
    /// Segments taken in ahead of what has been read; advertised to the peer.
    pub receive_window: u16,
    /// Prompt: acks and new segments go out at the next [`Kcp::poll_transmit`]. Otherwise only at each tick of `interval`
    /// and when something is sent, as a Core does.
    pub prompt: bool,
    /// Tick of an end that is not prompt, and the least slack that its clock adds to a measured round trip.
    pub interval: Duration,
    /// Lower bound of the retransmission timeout.
    pub min_rto: Duration,
    /// Upper bound of the retransmission timeout, backoff included.
    pub max_rto: Duration,
    /// Retransmit once so many later segments have been acknowledged; 0 = only on timeout.
    pub fast_resend: u32,
    /// Run the congestion window. Off for a Cell (`nc=1`): the link is a LAN and the window small.
    pub congestion_window: bool,
    /// Timeouts of one segment after which the connection counts as dead. With 40 % loss both ways one transmission in three succeeds, and
    /// of 32, which take about half a minute, as good as never all fail.
    pub dead_link: u32,
    /// Most bytes waiting to be sent or acknowledged.
    pub queue_bytes: usize,
    /// Most segments waiting to be sent or acknowledged.
    pub queue_segments: usize,
    /// First segment number of both directions; the protocol's is 0, tests begin before the wrap.
    pub start_sn: u32,
}

impl Default for KcpConfig {
    fn default() -> Self {
        Self {
            payload: MAX_CHUNK + HEADER,
            send_window: 128,
            receive_window: 256,
            prompt: true,
            interval: Duration::from_millis(10),
            min_rto: Duration::from_millis(30),
            max_rto: Duration::from_secs(1),
            fast_resend: 2,
            congestion_window: false,
            dead_link: 32,
            queue_bytes: 8 << 20,
            queue_segments: 16_384,
            start_sn: 0,
        }
    }
}

impl KcpConfig {
    /// What a Core runs: the library's defaults (transport §2).
    pub fn core() -> Self {
        Self {
            send_window: 32,
            receive_window: 32,
            prompt: false,
            interval: Duration::from_millis(100),
            min_rto: Duration::from_millis(100),
            max_rto: Duration::from_secs(60),
            fast_resend: 0,
            congestion_window: true,
            ..Self::default()
        }
    }
}

/// The send queue has no room: the peer does not read, or is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{segments} segments ({bytes} bytes) still wait for the peer, there is no room for {wanted} bytes more")]
pub struct QueueFull {
    /// Segments waiting.
    pub segments: usize,
    /// Bytes waiting.
    pub bytes: usize,
    /// Bytes that were to be sent.
    pub wanted: usize,
}

/// One end of a connection.
///
/// Times are since an arbitrary epoch, the same in all calls, and never run backwards.
#[derive(Debug)]
pub struct Kcp {
    conv: u32,
    payload: usize,
    sender: Sender,
    receiver: Receiver,
    start_sn: u32,
    /// The peer's last word was that nothing of ours has arrived, although it had acknowledged something before.
    forgotten: bool,
    /// Absent at a prompt end.
    tick: Option<Tick>,
}

/// When an end that is not prompt flushes; all in milliseconds.
#[derive(Debug)]
struct Tick {
    interval: u64,
    next: u64,
    /// Something was sent: flush without waiting for the tick.
    requested: bool,
    /// A flush has begun and still gives datagrams.
    flushing: bool,
}

/// What every segment says about its sender's receiving side.
#[derive(Clone, Copy, Debug)]
struct Header {
    conv: u32,
    window: u16,
    una: u32,
    ts: u32,
}

impl Tick {
    /// Goes on to the first tick after `now`.
    fn pass(&mut self, now: u64) {
        if self.next <= now {
            self.next = (now / self.interval + 1) * self.interval;
        }
    }
}

impl Kcp {
    /// An end of the connection `conv`.
    pub fn new(conv: u32, config: &KcpConfig) -> Self {
        let tick = Tick { interval: millis(config.interval).max(1), next: 0, requested: false, flushing: false };
        Self {
            conv,
            payload: config.payload.max(MAX_CHUNK + HEADER),
            sender: Sender::new(config),
            receiver: Receiver::new(config),
            start_sn: config.start_sn,
            forgotten: false,
            tick: (!config.prompt).then_some(tick),
        }
    }

    /// The connection's id.
    pub fn conv(&self) -> u32 {
        self.conv
    }

    /// Takes the payload of a datagram. On an error nothing of it has counted.
    ///
    /// `direct` is false for a payload brought back from parity: it comes late, so that neither its window nor its times are news.
    pub fn receive(&mut self, now: Duration, payload: &[u8], direct: bool) -> Result<(), SegmentError> {
        self.check(payload)?;
        let now = millis(now);
        let is_idle = !self.sender.is_waiting() && !self.receiver.has_news();
        if let Some(tick) = self.tick.as_mut().filter(|_| is_idle) {
            tick.pass(now); // nothing was due at the ticks that went by
        }
        for segment in Segments::new(payload).flatten() {
            if direct {
                self.sender.set_peer_window(segment.window);
            }
            self.sender.acknowledge_below(segment.una);
            if direct {
                self.forgotten = segment.una == self.start_sn && self.sender.una() != self.start_sn;
            }
            match segment.command {
                Command::Push => self.receiver.push(segment.sn, segment.ts, segment.data),
                Command::Ack => self.sender.acknowledge(segment.sn, segment.ts, now, direct),
                Command::WindowAsk => self.receiver.tell_window(),
                Command::WindowTell => {}
            }
        }
        Ok(())
    }

    fn check(&self, payload: &[u8]) -> Result<(), SegmentError> {
        if payload.is_empty() {
            return Err(SegmentError::Truncated { need: HEADER, have: 0 });
        }
        for segment in Segments::new(payload) {
            let segment = segment?;
            if segment.conv != self.conv {
                return Err(SegmentError::ForeignConv { expected: self.conv, found: segment.conv });
            }
            if !ring::at_or_before(segment.una, self.sender.next_sn()) {
                return Err(SegmentError::NeverSent { una: segment.una, next: self.sender.next_sn() });
            }
        }
        Ok(())
    }

    /// Room for chunks of together so many bytes and so many segments.
    pub fn reserve(&self, bytes: usize, segments: usize) -> Result<(), QueueFull> {
        self.sender.reserve(bytes, segments)
    }

    /// Queues a chunk of at most [`MAX_CHUNK`] bytes; it leaves with the next [`Kcp::poll_transmit`] if the windows allow.
    ///
    /// An oversized chunk is cut; [`Kcp::reserve`] has said before whether there is room.
    pub fn send(&mut self, chunk: &[u8]) {
        for piece in chunk.chunks(MAX_CHUNK) {
            self.sender.queue(piece);
        }
        if let Some(tick) = &mut self.tick {
            tick.requested = true;
        }
    }

    /// The next chunk in order.
    pub fn recv(&mut self) -> Option<Vec<u8>> {
        self.receiver.pop()
    }

    /// Appends the payload of the next datagram; false if there is none to send now.
    pub fn poll_transmit(&mut self, now: Duration, out: &mut Vec<u8>) -> bool {
        let now = millis(now);
        if let Some(tick) = &mut self.tick {
            tick.flushing |= tick.requested || now >= tick.next;
            if !tick.flushing {
                return false;
            }
            tick.requested = false;
            tick.pass(now);
        }
        let start = out.len();
        let end = start + self.payload;
        let header = Header { conv: self.conv, window: self.receiver.window(), una: self.receiver.next_sn(), ts: timestamp(now) };
        self.receiver.transmit(&header, end, out);
        self.sender.transmit(&header, now, end, out);
        let any = out.len() > start;
        if let Some(tick) = &mut self.tick {
            tick.flushing = any;
        }
        any
    }

    /// When [`Kcp::poll_transmit`] has something to send next; a time in the past means at once, `None` not before something is sent or received.
    pub fn next_timeout(&self) -> Option<Duration> {
        let due = if self.receiver.has_news() { Some(0) } else { self.sender.next_timeout() };
        let at = match &self.tick {
            Some(tick) if tick.requested || tick.flushing => Some(0),
            Some(tick) => due.map(|due| due.max(tick.next)),
            None => due,
        };
        at.map(Duration::from_millis)
    }

    /// Tells our window with the next datagram, unasked.
    pub fn tell_window(&mut self) {
        self.receiver.tell_window();
    }

    /// Asks the peer for its window with the next datagram; whoever is there answers, also one that knows nothing of the conversation.
    pub fn ask_window(&mut self) {
        self.sender.ask_window();
    }

    /// The peer's last word was that nothing of ours has arrived, although it had acknowledged something before: an old datagram, or
    /// a peer that was restarted and took the conversation for a new one.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Bytes that wait to be sent or acknowledged.
    pub fn unsent_bytes(&self) -> usize {
        self.sender.bytes()
    }

    /// Bytes of payload held in both directions; bounded by the windows and the cap of the send queue.
    pub fn held_bytes(&self) -> usize {
        self.sender.bytes() + self.receiver.bytes()
    }

    /// A segment timed out so often that nobody can be there.
    pub fn is_dead(&self) -> bool {
        self.sender.is_dead()
    }

    /// Everything that was sent has been acknowledged.
    pub fn is_drained(&self) -> bool {
        self.sender.is_drained()
    }
}

/// Whole milliseconds; a deadline computed from them is never early.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The wire's time stamp: milliseconds on the ring of u32.
fn timestamp(millis: u64) -> u32 {
    u32::try_from(millis & u64::from(u32::MAX)).unwrap_or_default()
}
