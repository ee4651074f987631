//! Datagrams from anybody on both discovery ports: what is taken names a host, and only our own domain is answered.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};

use cell::proto::discovery::{answer, decode_echo, encode_echo};
use libfuzzer_sys::fuzz_target;

const CORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5600);

fuzz_target!(|datagram: &[u8]| {
    if let Ok(echo) = decode_echo(datagram) {
        assert!(echo.core.port() != 0 && !echo.core.ip().is_multicast() && !echo.core.ip().is_unspecified());
        let requestor = echo.requestor.unwrap_or(Ipv4Addr::LOCALHOST);
        let again = decode_echo(&encode_echo(echo.id, requestor, echo.core)).expect("what we encode is valid");
        assert_eq!((again.id, again.core), (echo.id, echo.core));
    }
    if let Ok(echo) = answer(datagram, Ipv4Addr::LOCALHOST, "nano", CORE) {
        assert_eq!(decode_echo(&echo).expect("what we answer is valid").core, CORE);
    }
});
