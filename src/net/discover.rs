//! Asking once which Cores a domain has, without joining any: nothing is told to a Core but that somebody asks.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::time::Instant;

use super::error::NetError;
use super::interface::Interface;
use super::multicast::Multicast;
use super::socket::{reached, MAX_DATAGRAM};
use crate::proto::discovery::{decode_echo, Query, QueryTiming};

/// Addresses that are told at most: anybody may answer as often as they like.
const MOST: usize = 16;

/// Pings the domain's group for as long as `patience` and gives the address of every Core that answered.
///
/// # Errors
/// The interface or the group can't be used.
pub async fn discover(
    group: Ipv4Addr,
    port: u16,
    domain: &str,
    interface: &str,
    patience: Duration,
) -> Result<BTreeSet<SocketAddrV4>, NetError> {
    let multicast = Multicast::join(group, port.saturating_sub(1), Interface::find(interface)?)?;
    let begun = Instant::now();
    let generator = fastrand::Rng::with_seed(getrandom::u64().unwrap_or_default());
    let mut query = Query::new(Duration::ZERO, domain, QueryTiming::default(), generator, Vec::new());
    let mut found = BTreeSet::new();
    let mut datagram = vec![0; MAX_DATAGRAM];
    while begun.elapsed() < patience && found.len() < MOST {
        if let Some(ping) = query.poll_ping(begun.elapsed()) {
            // A group that can't be reached right now may be at the next ping.
            let _ = multicast.send(&ping, port);
        }
        let next = begun + query.next_timeout().min(patience);
        tokio::select! {
            ready = multicast.readable() => {
                let received = ready.and_then(|()| multicast.try_receive(&mut datagram));
                let echo = received.ok().and_then(|(length, _)| decode_echo(datagram.get(..length)?).ok());
                found.extend(echo.and_then(|echo| query.accept(begun.elapsed(), &echo)));
            }
            () = reached(Some(next)) => {}
        }
    }
    Ok(found)
}
