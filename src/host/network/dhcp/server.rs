//! Moves DHCP packets between the bridge and the responder.
//!
//! Contract: never ends by itself (§14 C16). A taken port, a bridge that went away and came back, a malformed packet, a failed send: each is
//! told once and gone on from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{interval, sleep, MissedTickBehavior};

use super::{answer, socket};
use crate::host::{Assignments, Bridge, HostError, Network, News};

/// Where DHCP servers listen.
const PORT: u16 = 67;
/// Between two attempts to get the port, and between two looks at the bridge.
const RETRY: Duration = Duration::from_secs(5);
/// After a receive error; the kernel reports each only once, so this only tames a socket that is broken for good.
const BREATH: Duration = Duration::from_millis(100);
/// So many receive errors in a row and the socket is opened anew.
const PATIENCE: u32 = 10;
/// Longer packets don't come over Ethernet.
const LONGEST: usize = 2048;

/// The service.
pub struct DhcpServer {
    network: Arc<dyn Network>,
    book: Arc<dyn Assignments>,
}

impl DhcpServer {
    /// A service for the guests in `book` on the bridge of `network`.
    pub fn new(network: Arc<dyn Network>, book: Arc<dyn Assignments>) -> Self {
        Self { network, book }
    }

    /// Serves for ever.
    pub async fn serve(self) {
        let mut complaint = String::new();
        loop {
            match self.open() {
                Ok((bridge, socket)) => {
                    complaint.clear();
                    tracing::info!("DHCP serves this cell's guests on {}", bridge.name);
                    self.listen(&bridge, &socket).await;
                }
                Err(reason) if reason != complaint => {
                    tracing::warn!("DHCP does not work, trying on: {reason}");
                    complaint = reason;
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    fn open(&self) -> Result<(Bridge, UdpSocket), String> {
        let bridge = self.network.bridge().map_err(|error| explain(&error))?;
        let socket = socket::open(&bridge.name, PORT).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another program serves UDP port {} on {} or on all interfaces; guests get no address from us until it stops (ss -lunp shows it)",
                PORT, bridge.name
            ),
            _ => format!("UDP port {} of {} can't be opened: {error}", PORT, bridge.name),
        })?;
        Ok((bridge, socket))
    }

    /// Until the socket or its interface is gone.
    async fn listen(&self, bridge: &Bridge, socket: &UdpSocket) {
        let mut looks = interval(RETRY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; LONGEST];
        let mut errors = 0;
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                _ = looks.tick() => match self.network.bridge() {
                    Ok(now) if now.index == bridge.index => continue,
                    _ => return tracing::warn!("{} is gone or was made anew; DHCP opens its port again", bridge.name),
                },
            };
            match received {
                Ok((length, from)) => {
                    errors = 0;
                    self.take(socket, buffer.get(..length).unwrap_or_default(), from).await;
                }
                Err(error) => {
                    errors += 1;
                    if errors >= PATIENCE {
                        return tracing::warn!("DHCP can't receive on {}, opening its port again: {error}", bridge.name);
                    }
                    sleep(BREATH).await;
                }
            }
        }
    }

    async fn take(&self, socket: &UdpSocket, packet: &[u8], from: SocketAddr) {
        let SocketAddr::V4(from) = from else { return };
        let server = || self.network.bridge().ok().and_then(|bridge| bridge.address);
        let Some(answer) = answer(packet, from, server, &*self.book) else { return };
        if let Some((bytes, to)) = &answer.reply {
            if let Err(error) = socket.send_to(bytes, to).await {
                self.book.heard(News::Unsent { guest: answer.assignment.guest, reason: error.to_string() });
                return;
            }
        }
        if let Some(news) = answer.news {
            self.book.heard(news);
        }
    }
}

fn explain(error: &HostError) -> String {
    match &error.source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
