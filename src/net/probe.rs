//! Whether multicast works on an interface: a datagram is sent to a group and has to come back.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{timeout_at, Instant};

use super::error::NetError;
use super::interface::Interface;
use super::multicast::Multicast;

/// The kernel hands it back within microseconds; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A datagram may be lost; three are not.
const ATTEMPTS: usize = 3;

/// Ports that nobody is assigned (RFC 6335).
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Sends a datagram to the group through the interface, at a port of its own, and waits until it is heard. Discovery is not disturbed.
///
/// # Errors
/// The interface can't be used, or nothing came back.
pub async fn comes_back(group: Ipv4Addr, interface: &str) -> Result<(), NetError> {
    let port = fastrand::u16(PORTS);
    let multicast = Multicast::join(group, port, Interface::find(interface)?)?;
    let failed = |source| NetError::Silent { group, interface: interface.to_owned(), source };
    for _ in 0..ATTEMPTS {
        let nonce = fastrand::u64(..).to_be_bytes();
        multicast.send(&nonce, port).map_err(failed)?;
        if heard(&multicast, &nonce, Instant::now() + PATIENCE).await.map_err(failed)? {
            return Ok(());
        }
    }
    Err(failed(io::Error::new(io::ErrorKind::TimedOut, "nothing came back")))
}

async fn heard(multicast: &Multicast, nonce: &[u8], deadline: Instant) -> io::Result<bool> {
    let mut buffer = [0; 64];
    loop {
        let Ok(ready) = timeout_at(deadline, multicast.readable()).await else { return Ok(false) };
        ready?;
        match multicast.try_receive(&mut buffer) {
            Ok((length, _)) if buffer.get(..length) == Some(nonce) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_datagram_comes_back_on_the_loopback_and_not_from_nowhere() {
        comes_back(Ipv4Addr::new(224, 0, 0, 226), "lo").await.unwrap();
        let error = comes_back(Ipv4Addr::new(224, 0, 0, 226), "br-none").await.unwrap_err();
        assert!(error.to_string().contains("br-none"), "{error}");
    }
}
