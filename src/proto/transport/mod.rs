//! One connection: messages over KCP over FEC packets (transport §2 and §3).
//!
//! Contract: datagrams and messages go in, messages and datagrams come out, and [`Transport::next_timeout`] says when to ask again. Times are
//! since an arbitrary epoch, the same in all calls. A bad datagram changes nothing; whatever a peer sends, memory stays bounded. There is no handshake and
//! no end on this level: those are messages, and the business of `peer`.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::fec::{self, Packet, PacketError};
use super::kcp::{Command, Kcp, KcpConfig, QueueFull, SegmentError, Segments, MAX_CHUNK};
use super::message::{EncodeError, Message, MessageDecoder, MessageEncoder, MessageError};

/// Settings of one end.
#[derive(Clone, Debug, Default)]
pub struct TransportConfig {
    /// Connection id: random, new for every connection (transport §2).
    pub conv: u32,
    /// Windows, clock and timeouts; the default is a Cell's.
    pub kcp: KcpConfig,
    /// First FEC sequence number of ours; the protocol's is 0, tests begin before the wrap.
    pub fec_start: u32,
}

impl TransportConfig {
    /// A Cell's end.
    pub fn new(conv: u32) -> Self {
        Self { conv, ..Self::default() }
    }

    /// An end that behaves as a Core's does.
    pub fn core(conv: u32) -> Self {
        Self { conv, kcp: KcpConfig::core(), fec_start: 0 }
    }
}

/// Why a datagram was refused or a message not taken. The connection goes on as if it had not been there.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No packet of this protocol.
    #[error("not a packet of this protocol")]
    Packet(#[from] PacketError),
    /// A packet whose segments are not ours or not well-formed.
    #[error("bad KCP segment in a packet")]
    Segment(#[source] SegmentError),
    /// A packet brought back from parity whose segments are not ours or not well-formed: some packet of its group was forged.
    #[error("bad KCP segment in a packet recovered from parity")]
    Recovered(#[source] SegmentError),
    /// The message cannot be sent at all.
    #[error("the message cannot be sent")]
    Message(#[from] EncodeError),
    /// The message cannot be sent now.
    #[error("the send queue is full")]
    QueueFull(#[from] QueueFull),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Transport {
    kcp: Kcp,
    fec_in: fec::Decoder,
    fec_out: fec::Encoder,
    messages_in: MessageDecoder,
    messages_out: MessageEncoder,
}

impl Transport {
    /// An end that has sent and received nothing.
    pub fn new(config: TransportConfig) -> Self {
        Self {
            kcp: Kcp::new(config.conv, &config.kcp),
            fec_in: fec::Decoder::new(),
            fec_out: fec::Encoder::new(config.fec_start),
            messages_in: MessageDecoder::new(),
            messages_out: MessageEncoder::new(),
        }
    }

    /// The connection id in a stranger's datagram, if a connection can begin with it: a well-formed data packet with a push from the first
    /// receive window. Acks and late pushes of a connection that is gone are not the beginning of one.
    pub fn accept(datagram: &[u8]) -> Option<u32> {
        let payload = Packet::parse(datagram).ok()?.payload()?;
        let window = u32::from(KcpConfig::default().receive_window);
        let mut conv = None;
        let mut begins = false;
        for segment in Segments::new(payload) {
            let segment = segment.ok()?;
            if *conv.get_or_insert(segment.conv) != segment.conv {
                return None;
            }
            begins |= segment.command == Command::Push && segment.sn < window;
        }
        conv.filter(|_| begins)
    }

    /// What a Core that was restarted says to the question of a peer whose connection it knows nothing of: that nothing has arrived.
    /// `None` unless the datagram is a well-formed data packet with such a question.
    pub fn disown(datagram: &[u8]) -> Option<Vec<u8>> {
        let payload = Packet::parse(datagram).ok()?.payload()?;
        let segments = Segments::new(payload).collect::<Result<Vec<_>, _>>().ok()?;
        let question = segments.iter().find(|segment| segment.command == Command::WindowAsk)?;
        let mut stranger = Self::new(TransportConfig::new(question.conv));
        stranger.kcp.tell_window();
        stranger.poll_transmit(Duration::ZERO)
    }

    /// The connection id.
    pub fn conv(&self) -> u32 {
        self.kcp.conv()
    }

    /// Takes a datagram. An error is worth a rate-limited warning: somebody sends what does not belong here.
    pub fn receive(&mut self, now: Duration, datagram: &[u8]) -> Result<(), TransportError> {
        let packet = Packet::parse(datagram)?;
        if let Some(payload) = packet.payload() {
            self.kcp.receive(now, payload, true).map_err(TransportError::Segment)?;
        }
        let mut result = Ok(());
        for payload in self.fec_in.receive(&packet) {
            let taken = self.kcp.receive(now, payload, false).map_err(TransportError::Recovered);
            result = result.and(taken);
        }
        result
    }

    /// Queues a message; it leaves with the next [`Transport::poll_transmit`] if the windows allow. Either all of it is queued or nothing.
    pub fn send(&mut self, message: &Message) -> Result<(), TransportError> {
        let bytes = self.messages_out.encode(message)?;
        self.kcp.reserve(bytes.len(), bytes.len().div_ceil(MAX_CHUNK))?;
        self.kcp.send(bytes);
        Ok(())
    }

    /// The next received message, or what came instead of one.
    pub fn poll_message(&mut self) -> Option<Result<Message, MessageError>> {
        loop {
            if let Some(event) = self.messages_in.poll() {
                return Some(event);
            }
            self.messages_in.push(&self.kcp.recv()?);
        }
    }

    /// The next datagram for the wire; call until there is none.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        let mut datagram = Vec::new();
        self.poll_transmit_into(now, &mut datagram).then_some(datagram)
    }

    /// As [`Transport::poll_transmit`], into a buffer that is used again; false if there is none.
    pub fn poll_transmit_into(&mut self, now: Duration, datagram: &mut Vec<u8>) -> bool {
        datagram.clear();
        if self.fec_out.poll_parity(datagram) {
            return true;
        }
        datagram.resize(fec::DATA_HEADER, 0);
        let any = self.kcp.poll_transmit(now, datagram);
        if any {
            self.fec_out.seal(datagram);
        }
        any
    }

    /// When [`Transport::poll_transmit`] has to be called again, if nothing is sent or received before; a time in the past means at once.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.fec_out.has_parity() {
            return Some(Duration::ZERO);
        }
        self.kcp.next_timeout()
    }

    /// Asks the peer for a sign of life with the next datagram; whoever is there answers, also one that knows nothing of the conversation.
    pub fn ask(&mut self) {
        self.kcp.ask_window();
    }

    /// The peer's last word was that nothing of ours has arrived, although it had acknowledged something before: an old datagram, or
    /// a peer that was restarted. Cleared by the next datagram of a peer that remembers.
    pub fn is_forgotten(&self) -> bool {
        self.kcp.is_forgotten()
    }

    /// Bytes of messages that wait to be sent or acknowledged.
    pub fn unsent_bytes(&self) -> usize {
        self.kcp.unsent_bytes()
    }

    /// Bytes held for the peer in both directions; bounded, whatever comes.
    pub fn held_bytes(&self) -> usize {
        self.kcp.held_bytes() + self.fec_in.held_bytes() + self.messages_in.held_bytes()
    }

    /// The peer has acknowledged nothing for so long and so many retransmissions that it cannot be there.
    pub fn is_dead(&self) -> bool {
        self.kcp.is_dead()
    }

    /// Everything sent has been acknowledged.
    pub fn is_drained(&self) -> bool {
        self.kcp.is_drained()
    }
}
