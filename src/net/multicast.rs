//! One side of discovery: a socket that hears a group on one interface, and one that sends to it through the same interface.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags, SockaddrIn};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::error::NetError;
use super::interface::Interface;

/// Membership of a group on one interface.
#[derive(Debug)]
pub(super) struct Multicast {
    receiver: UdpSocket,
    sender: Socket,
    group: Ipv4Addr,
    interface: Interface,
}

impl Multicast {
    /// Hears what is sent to `group`:`port` on this interface. Several processes of a host may do so at once.
    pub(super) fn join(group: Ipv4Addr, port: u16, interface: Interface) -> Result<Self, NetError> {
        let failed = |source| NetError::Join { group: SocketAddrV4::new(group, port), interface: interface.name.clone(), source };
        let receiver = receiver(group, port, interface.index).map_err(failed)?;
        let sender = sender().map_err(failed)?;
        Ok(Self { receiver, sender, group, interface })
    }

    /// The interface as it was when the group was joined.
    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Sends to the group. The interface is named with each datagram, so that no routing table has a say.
    pub(super) fn send(&self, datagram: &[u8], port: u16) -> io::Result<()> {
        let info = in_pktinfo {
            ipi_ifindex: i32::try_from(self.interface.index).map_err(io::Error::other)?,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(self.interface.address.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let target = SockaddrIn::from(SocketAddrV4::new(self.group, port));
        let parts = [IoSlice::new(datagram)];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(self.sender.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&target))?;
        Ok(())
    }

    /// Waits for a datagram.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.receiver.readable().await
    }

    /// Takes the next datagram and tells its sender.
    pub(super) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receiver.try_recv_from(buffer)
    }
}

fn receiver(group: Ipv4Addr, port: u16, index: u32) -> io::Result<UdpSocket> {
    let socket = udp()?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Bound to the group: what is sent to the host's own addresses at this port is none of our business.
    socket.bind(&SocketAddrV4::new(group, port).into())?;
    // Linux hands a socket datagrams of any interface on which anybody joined the group, unless told not to.
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
    UdpSocket::from_std(socket.into())
}

fn sender() -> io::Result<Socket> {
    let socket = udp()?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_multicast_loop_v4(true)?; // a Core may run on this very host
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into())?;
    Ok(socket)
}

fn udp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    Ok(socket)
}
