//! Whether the ports that guests are served at can be had.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use procfs::process::{all_processes, FDTarget};

use super::dhcp;
use crate::host::platform::PortState;

/// Looks whether the DHCP port (UDP 67) can be had on the bridge; `service` is the process of the running service. Inside a runtime. Blocks.
pub fn dhcp(bridge: &str, service: Option<i32>) -> PortState {
    const PORT: u16 = 67;
    let holders = || procfs::net::udp().map(|sockets| sockets.into_iter().filter(|socket| socket.local_address.port() == PORT));
    state(dhcp::open(bridge, PORT).map(drop), service, || {
        holders().map(|found| found.map(|socket| socket.inode).collect()).unwrap_or_default()
    })
}

/// The same for the port of the cloud-init documents (TCP 25469), at the bridge's address.
pub fn cloud_init(address: Ipv4Addr, service: Option<i32>) -> PortState {
    let port = crate::host::cloudinit::PORT;
    let listens = |socket: &procfs::net::TcpNetEntry| socket.local_address.port() == port && socket.state == procfs::net::TcpState::Listen;
    let holders = || procfs::net::tcp().map(|sockets| sockets.into_iter().filter(listens).map(|socket| socket.inode).collect());
    state(TcpListener::bind((address, port)).map(drop), service, || holders().unwrap_or_default())
}

fn state(bound: io::Result<()>, service: Option<i32>, holders: impl Fn() -> Vec<u64>) -> PortState {
    match bound {
        Ok(()) => PortState::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder(&holders()) {
            Some((pid, _)) if Some(pid) == service => PortState::Ours,
            Some((pid, name)) => PortState::Taken(format!("{name}, process {pid}")),
            None => PortState::Taken("a process that can't be told".into()),
        },
        Err(error) => PortState::Unknown(error.to_string()),
    }
}

/// The process that has one of these sockets open.
fn holder(sockets: &[u64]) -> Option<(i32, String)> {
    let has = |process: &procfs::process::Process| {
        let mut open = process.fd().ok()?.flatten();
        open.any(|open| matches!(open.target, FDTarget::Socket(inode) if sockets.contains(&inode))).then_some(())
    };
    let found = all_processes().ok()?.flatten().find(|process| has(process).is_some())?;
    Some((found.pid, found.stat().map(|stat| stat.comm).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_port_is_told_by_name() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let again = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop);
        let inodes = || {
            let all = procfs::net::tcp().unwrap().into_iter();
            all.filter(|socket| socket.local_address.port() == port).map(|socket| socket.inode).collect()
        };
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(state(again(), Some(me), inodes), PortState::Ours);
        let PortState::Taken(who) = state(again(), None, inodes) else { panic!("it is taken") };
        assert!(who.ends_with(&format!("process {me}")), "{who}");
        drop(listener);
        assert_eq!(state(again(), None, inodes), PortState::Free);
        assert!(matches!(state(Err(io::ErrorKind::PermissionDenied.into()), None, Vec::new), PortState::Unknown(_)));
    }
}
