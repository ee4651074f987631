//! Both ends of one connection and a link that does what the fuzzer says: no panic, one end, nothing after it.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use cell::proto::message::{Key, Message, MessageId};
use cell::proto::peer::{CloseReason, Peer, PeerConfig, PeerEvent, Role, Timing};
use cell::proto::transport::TransportConfig;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Operation {
    Wait(u16),
    Send {
        cell: bool,
        length: u16,
    },
    /// Deliver one datagram of the link, and perhaps leave it there to come again.
    Deliver {
        to_cell: bool,
        which: u8,
        keep: bool,
    },
    Lose {
        to_cell: bool,
        which: u8,
    },
    /// Deliver a datagram of the link with one byte changed.
    Damage {
        to_cell: bool,
        which: u8,
        place: u16,
        with: u8,
    },
    Forge {
        to_cell: bool,
        bytes: Vec<u8>,
    },
    Close {
        cell: bool,
    },
    Probe,
    Abandon {
        cell: bool,
    },
}

struct End {
    peer: Peer,
    /// Datagrams on the way to this end.
    link: Vec<Vec<u8>>,
    is_connected: bool,
    is_closed: bool,
}

impl End {
    fn new(role: Role, name: &str, timing: Timing, transport: TransportConfig) -> Self {
        let peer = Peer::new(Duration::ZERO, PeerConfig { role, name: name.into(), timing }, transport);
        Self { peer, link: Vec::new(), is_connected: false, is_closed: false }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.peer.poll_event() {
            assert!(!self.is_closed, "{event:?} after the end");
            match event {
                PeerEvent::Connected { .. } => assert!(!std::mem::replace(&mut self.is_connected, true), "connected twice"),
                PeerEvent::Closed(_) => self.is_closed = true,
                _ => assert!(self.is_connected, "{event:?} before the handshake"),
            }
        }
    }
}

fuzz_target!(|operations: Vec<Operation>| {
    let mut now = Duration::ZERO;
    let mut ends = [
        End::new(Role::Cell, "Cell_1", Timing::CELL, TransportConfig::new(7)),
        End::new(Role::Core, "Core_1", Timing::CORE, TransportConfig::core(7)),
    ];
    for operation in operations {
        let [cell, core] = &mut ends;
        let end = |is_cell: bool| if is_cell { cell } else { core };
        match operation {
            Operation::Wait(millis) => now += Duration::from_millis(millis.into()),
            Operation::Send { cell, length } => {
                let text = "x".repeat(length.into());
                let _ = end(cell).peer.send(&Message::new(MessageId::GET_GUEST_REQUEST).string(Key::Data, text));
            }
            Operation::Deliver { to_cell, which, keep } => {
                let end = end(to_cell);
                if let Some(datagram) = end.link.get(usize::from(which)).cloned() {
                    if !keep {
                        end.link.remove(which.into());
                    }
                    let _ = end.peer.receive(now, &datagram);
                }
            }
            Operation::Lose { to_cell, which } => {
                let link = &mut end(to_cell).link;
                if usize::from(which) < link.len() {
                    link.remove(which.into());
                }
            }
            Operation::Damage { to_cell, which, place, with } => {
                let end = end(to_cell);
                if let Some(mut datagram) = end.link.get(usize::from(which)).cloned() {
                    if let Some(byte) = datagram.get_mut(usize::from(place)) {
                        *byte ^= with;
                    }
                    let _ = end.peer.receive(now, &datagram);
                }
            }
            Operation::Forge { to_cell, bytes } => {
                let _ = end(to_cell).peer.receive(now, &bytes);
            }
            Operation::Close { cell } => end(cell).peer.close(now, Timing::FLUSH),
            Operation::Probe => end(true).peer.probe(),
            Operation::Abandon { cell } => end(cell).peer.abandon(CloseReason::ByPeer),
        }
        let [cell, core] = &mut ends;
        cell.peer.handle_timeout(now);
        core.peer.handle_timeout(now);
        core.link.extend(std::iter::from_fn(|| cell.peer.poll_transmit(now)));
        cell.link.extend(std::iter::from_fn(|| core.peer.poll_transmit(now)));
        for end in [cell, core] {
            end.link.truncate(256);
            end.take_events();
        }
    }
    for end in &mut ends {
        end.peer.close(now, Timing::FLUSH);
        end.peer.handle_timeout(now + Timing::FLUSH);
        end.peer.handle_timeout(now + Duration::from_secs(60));
        end.take_events();
        assert!(end.is_closed && end.peer.is_finished());
    }
});
