//! Plain UDP sockets with room for a burst, and the drivers' clock.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::{sleep_until, Instant};

use super::error::NetError;

/// Kernel buffers asked for; the system may grant less.
const BUFFER: usize = 1 << 20;

/// Longest datagram that a state machine gets to see; none of the protocol's is longer (transport §2, contract §2.1).
pub(super) const MAX_DATAGRAM: usize = 9000;

/// A fresh socket towards `to`; the kernel filters out what others send to it. Gives our address too.
pub(super) fn connect(to: SocketAddrV4) -> Result<(UdpSocket, SocketAddrV4), NetError> {
    let open = || {
        let socket = bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        SockRef::from(&socket).connect(&to.into())?;
        let local = local_v4(&socket)?;
        Ok((socket, local))
    };
    open().map_err(|source| NetError::Open { to, source })
}

/// A socket at this address.
pub(super) fn bind(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(BUFFER)?;
    options.set_send_buffer_size(BUFFER)?;
    UdpSocket::from_std(socket)
}

/// The socket's own IPv4 address.
pub(super) fn local_v4(socket: &UdpSocket) -> io::Result<SocketAddrV4> {
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => Err(io::Error::other(format!("{address} is not an IPv4 address"))),
    }
}

/// Sends on a connected socket without waiting. The runtime is not asked whether the socket is writable: of a fresh one it does not know
/// yet, and what the kernel has no room for is lost as any datagram may be.
pub(super) fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    unless_full(SockRef::from(socket).send(datagram))
}

/// As [`send`], on a socket that is not connected.
pub(super) fn send_to(socket: &UdpSocket, datagram: &[u8], to: SocketAddrV4) -> io::Result<()> {
    unless_full(SockRef::from(socket).send_to(datagram, &to.into()))
}

fn unless_full(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Waits for the moment, for ever where there is none.
pub(super) async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
