//! Hands each guest its documents over plain HTTP, and nobody else (contract §9.1, §14 F1).
//!
//! Contract: listens on the bridge's address and follows it when it changes (§14 D26); never ends by itself. A document is given to the guest's own
//! MAC or assigned address only; anybody else gets 403 and changes nothing. user-data counts as delivered when the guest has taken all of it
//! and closed the connection, so a guest that broke off gets it again.

mod owner;
mod routes;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout, MissedTickBehavior};

use super::PORT;
use crate::host::{Instances, Network};

/// Between two attempts to listen, and between two looks at the bridge's address.
const RETRY: Duration = Duration::from_secs(2);
/// A request that does not arrive in this time is dropped.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection lasts no longer, whatever the guest does.
const LIFE: Duration = Duration::from_secs(30);
/// Connections at a time; further ones wait in the kernel.
const CONNECTIONS: usize = 64;
/// After a failed accept (no file descriptors left).
const BREATH: Duration = Duration::from_millis(200);

/// The server.
pub struct SeedServer {
    network: Arc<dyn Network>,
    instances: Arc<dyn Instances>,
}

impl SeedServer {
    /// A server for `instances` on the bridge of `network`.
    pub fn new(network: Arc<dyn Network>, instances: Arc<dyn Instances>) -> Self {
        Self { network, instances }
    }

    /// Serves for ever.
    pub async fn serve(self) {
        let mut tasks = JoinSet::new();
        let mut complaint = String::new();
        loop {
            match self.bind().await {
                Ok((address, listener)) => {
                    complaint.clear();
                    tracing::info!("cloud-init documents are served at {address}:{PORT}");
                    let instances = self.instances.clone();
                    tasks.spawn(async move { instances.serving(address).await });
                    self.accept(address, &listener, &mut tasks).await;
                    tracing::info!("the bridge has another address than {address} now; cloud-init follows");
                    continue;
                }
                Err(reason) if reason != complaint => {
                    tracing::warn!("cloud-init documents are not served, trying on: {reason}");
                    complaint = reason;
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// Serves one connection of `peer` to its end, over whatever carries it.
    pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, peer: Ipv4Addr, stream: S) {
        Client { network: self.network.clone(), instances: self.instances.clone(), peer }.serve(stream).await;
    }

    async fn bind(&self) -> Result<(Ipv4Addr, TcpListener), String> {
        let bridge = self.network.bridge().map_err(|error| error.to_string())?;
        let address = bridge.address.ok_or_else(|| format!("{} has no IPv4 address", bridge.name))?;
        let listener = TcpListener::bind((address, PORT)).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!("another program serves TCP port {PORT} of {address} (ss -ltnp shows it)"),
            _ => format!("TCP port {PORT} of {address} can't be opened: {error}"),
        })?;
        Ok((address, listener))
    }

    /// Until the bridge has another address.
    async fn accept(&self, address: Ipv4Addr, listener: &TcpListener, tasks: &mut JoinSet<()>) {
        let mut looks = interval(RETRY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                accepted = listener.accept(), if tasks.len() < CONNECTIONS => match accepted {
                    Ok((stream, SocketAddr::V4(peer))) => {
                        let client = Client { network: self.network.clone(), instances: self.instances.clone(), peer: *peer.ip() };
                        tasks.spawn(client.serve(stream));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!("cloud-init can't take a connection: {error}");
                        sleep(BREATH).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                _ = looks.tick() => {
                    // A bridge without an address for a moment is waited for: the listener works again when it is back.
                    if self.network.bridge().is_ok_and(|bridge| bridge.address.is_some_and(|now| now != address)) {
                        return;
                    }
                }
            }
        }
    }
}

/// One connection.
struct Client {
    network: Arc<dyn Network>,
    instances: Arc<dyn Instances>,
    peer: Ipv4Addr,
}

impl Client {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let delivering = Arc::new(Mutex::new(None));
        let exchange = async {
            let answer = service_fn(|request| {
                let (answer, delivering) = (routes::answer(&self, request), delivering.clone());
                async move {
                    let (response, user_data_of) = answer.await;
                    *delivering.lock() = user_data_of;
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            let parts = connection.without_shutdown().await.ok()?;
            closed_in_order(parts.io.into_inner()).await.then_some(())
        };
        let complete = timeout(LIFE, exchange).await.ok().flatten().is_some();
        let delivered = *delivering.lock();
        match delivered {
            Some(id) if complete => self.instances.delivered(id).await,
            Some(id) => tracing::warn!(guest = %id, "the guest broke off while it read its user-data; it gets it again"),
            None => {}
        }
    }
}

/// Ends our side and waits for the peer to end its own. A peer that closes with bytes unread resets the connection instead.
async fn closed_in_order(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    if stream.shutdown().await.is_err() {
        return false;
    }
    let mut rest = [0; 512];
    let end = async {
        loop {
            match stream.read(&mut rest).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    timeout(PATIENCE, end).await.unwrap_or(false)
}

#[cfg(test)]
mod tests;
