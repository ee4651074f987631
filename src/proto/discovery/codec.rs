//! The two discovery datagrams.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// Largest discovery datagram that either side reads (contract §2.1).
pub const MAX_DATAGRAM: usize = 8192;

const PING: i64 = 0;
const ECHO: i64 = 1;
const CORE_SERVICE: &str = "core";
const KCP_PROTOCOL: &str = "kcp";
/// How much of a stranger's text may stand in an error.
const QUOTED: usize = 64;

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: i64,
    id: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    requestor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    services: Option<Vec<Service>>,
}

#[derive(Serialize, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    protocol: String,
    address: String,
    port: i64,
}

/// A Core's answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Id of the ping that it answers.
    pub id: i64,
    /// Where the Core takes connections.
    pub core: SocketAddrV4,
    /// The address that the Core saw the ping come from, where it gave a readable one.
    pub requestor: Option<Ipv4Addr>,
}

/// Why a datagram on a discovery port is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Longer than either side reads.
    #[error("discovery datagram of {0} bytes is longer than {MAX_DATAGRAM}")]
    TooLong(usize),
    /// Not the JSON object that it should be.
    #[error("discovery datagram is not valid JSON of this protocol")]
    Json(#[source] serde_json::Error),
    /// A ping where an echo is expected or the reverse, or something unknown.
    #[error("discovery datagram has type {found} instead of {expected}")]
    Kind {
        /// Type in the datagram.
        found: i64,
        /// Type of the expected datagram.
        expected: i64,
    },
    /// A ping for another domain, which gets silence.
    #[error("ping for the domain {0:?}, which is not ours")]
    Domain(String),
    /// An echo that offers nothing of type `core`.
    #[error("echo offers no service of type {CORE_SERVICE:?}")]
    NoCore,
    /// A Core that speaks something else.
    #[error("echo offers the protocol {0:?} instead of {KCP_PROTOCOL:?}")]
    Protocol(String),
    /// An address at which nobody can listen.
    #[error("echo gives {0:?}, which is not the IPv4 address of a host")]
    Address(String),
    /// A port outside 1..65535.
    #[error("echo gives port {0}, which is outside 1..65535")]
    Port(i64),
}

/// The ping for `domain` with this id.
pub fn encode_ping(id: u16, domain: &str) -> Vec<u8> {
    encode(&Wire { kind: PING, id: id.into(), domain: domain.into(), requestor: String::new(), services: None })
}

/// The echo that tells `requestor` where the Core `core` takes connections.
pub fn encode_echo(id: i64, requestor: Ipv4Addr, core: SocketAddrV4) -> Vec<u8> {
    let service =
        Service { kind: CORE_SERVICE.into(), protocol: KCP_PROTOCOL.into(), address: core.ip().to_string(), port: core.port().into() };
    let requestor = requestor.to_string();
    encode(&Wire { kind: ECHO, id, domain: String::new(), requestor, services: Some(vec![service]) })
}

/// Reads an echo. Of several services the first valid one of type `core` counts.
pub fn decode_echo(datagram: &[u8]) -> Result<Echo, DiscoveryError> {
    let wire = decode(datagram, ECHO)?;
    let mut failure = DiscoveryError::NoCore;
    for service in wire.services.unwrap_or_default().iter().filter(|service| service.kind == CORE_SERVICE) {
        match core_address(service) {
            Ok(core) => return Ok(Echo { id: wire.id, core, requestor: wire.requestor.parse().ok() }),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The Core's side: the echo to a ping for our own domain that came from `source`.
pub fn answer(datagram: &[u8], source: Ipv4Addr, domain: &str, core: SocketAddrV4) -> Result<Vec<u8>, DiscoveryError> {
    let wire = decode(datagram, PING)?;
    if wire.domain != domain {
        return Err(DiscoveryError::Domain(quote(&wire.domain)));
    }
    Ok(encode_echo(wire.id, source, core))
}

fn decode(datagram: &[u8], expected: i64) -> Result<Wire, DiscoveryError> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(DiscoveryError::TooLong(datagram.len()));
    }
    let wire: Wire = serde_json::from_slice(datagram).map_err(DiscoveryError::Json)?;
    if wire.kind != expected {
        return Err(DiscoveryError::Kind { found: wire.kind, expected });
    }
    Ok(wire)
}

fn core_address(service: &Service) -> Result<SocketAddrV4, DiscoveryError> {
    if service.protocol != KCP_PROTOCOL {
        return Err(DiscoveryError::Protocol(quote(&service.protocol)));
    }
    let address = service.address.parse::<Ipv4Addr>().ok().filter(is_host);
    let address = address.ok_or_else(|| DiscoveryError::Address(quote(&service.address)))?;
    let port = u16::try_from(service.port).ok().filter(|port| *port != 0);
    Ok(SocketAddrV4::new(address, port.ok_or(DiscoveryError::Port(service.port))?))
}

fn is_host(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// A struct of numbers and texts always serializes; an empty datagram would be ignored by everybody.
fn encode(wire: &Wire) -> Vec<u8> {
    serde_json::to_vec(wire).unwrap_or_default()
}
