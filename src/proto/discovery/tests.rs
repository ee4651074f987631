use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use proptest::prelude::*;

use super::{answer, decode_echo, encode_echo, encode_ping, DiscoveryError, Echo, Query, QueryTiming, MAX_DATAGRAM};

const CORE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 226, 0, 1), 5600);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 226, 0, 9), 5600);
const CELL: Ipv4Addr = Ipv4Addr::new(10, 226, 0, 2);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn query() -> Query {
    Query::new(ms(0), "nano", QueryTiming::default(), fastrand::Rng::with_seed(1), Vec::new())
}

fn id_of(ping: &[u8]) -> i64 {
    serde_json::from_slice::<serde_json::Value>(ping).unwrap()["id"].as_i64().unwrap()
}

/// An echo with this in place of its one service.
fn with_services(services: &str) -> Result<Echo, DiscoveryError> {
    decode_echo(format!(r#"{{"type":1,"id":5,"services":{services}}}"#).as_bytes())
}

#[test]
fn datagrams_are_byte_for_byte_those_of_the_contract() {
    assert_eq!(encode_ping(17_578, "nano"), br#"{"type":0,"id":17578,"domain":"nano"}"#);
    let echo = br#"{"type":1,"id":17578,"requestor":"10.226.0.2","services":[{"type":"core","protocol":"kcp","address":"10.226.0.1","port":5600}]}"#;
    assert_eq!(encode_echo(17_578, CELL, CORE), echo);
    assert_eq!(decode_echo(echo).unwrap(), Echo { id: 17_578, core: CORE, requestor: Some(CELL) });
}

#[test]
fn a_core_answers_its_own_domain_only() {
    let echo = answer(&encode_ping(7, "nano"), CELL, "nano", CORE).unwrap();
    assert_eq!(decode_echo(&echo).unwrap(), Echo { id: 7, core: CORE, requestor: Some(CELL) });
    assert!(matches!(answer(&encode_ping(7, "Nano"), CELL, "nano", CORE), Err(DiscoveryError::Domain(domain)) if domain == "Nano"));
    assert!(matches!(answer(br#"{"type":0,"id":7}"#, CELL, "nano", CORE), Err(DiscoveryError::Domain(domain)) if domain.is_empty()));
    assert!(matches!(answer(&echo, CELL, "nano", CORE), Err(DiscoveryError::Kind { found: 1, expected: 0 })));
    assert!(matches!(answer(b"{", CELL, "nano", CORE), Err(DiscoveryError::Json(_))));
}

#[test]
fn the_first_valid_core_of_an_echo_counts() {
    let services = r#"[{"type":"image","protocol":"kcp","address":"10.0.0.1","port":1},
        {"type":"core","protocol":"tcp","address":"10.0.0.2","port":2},
        {"type":"core","protocol":"kcp","address":"10.226.0.1","port":5600}]"#;
    assert_eq!(with_services(services).unwrap().core, CORE);
}

#[test]
fn every_defect_of_an_echo_has_its_error() {
    let service = |protocol, address, port| {
        with_services(&format!(r#"[{{"type":"core","protocol":"{protocol}","address":"{address}","port":{port}}}]"#))
    };
    assert!(matches!(with_services("[]"), Err(DiscoveryError::NoCore)));
    assert!(matches!(with_services("null"), Err(DiscoveryError::NoCore)));
    assert!(matches!(decode_echo(br#"{"type":1,"id":5}"#), Err(DiscoveryError::NoCore)));
    assert!(matches!(service("tcp", "10.0.0.1", 5600), Err(DiscoveryError::Protocol(found)) if found == "tcp"));
    for address in ["", "core.example", "10.0.0.256", "0.0.0.0", "224.0.0.226", "255.255.255.255", "::1"] {
        assert!(matches!(service("kcp", address, 5600), Err(DiscoveryError::Address(found)) if found == address));
    }
    for port in [0, -1, 65_536, i64::MAX] {
        assert!(matches!(service("kcp", "10.0.0.1", port), Err(DiscoveryError::Port(found)) if found == port));
    }
    for json in
        [r#"[{"type":"core"}]"#, r#"{"type":"core"}"#, r#"[5]"#, r#"[{"type":"core","protocol":"kcp","address":"10.0.0.1","port":"5600"}]"#]
    {
        assert!(matches!(with_services(json), Err(DiscoveryError::Json(_))), "{json}");
    }
    assert!(matches!(decode_echo(&encode_ping(1, "nano")), Err(DiscoveryError::Kind { found: 0, expected: 1 })));
    assert!(matches!(decode_echo(&vec![b' '; MAX_DATAGRAM + 1]), Err(DiscoveryError::TooLong(_))));
    let long = "x".repeat(500);
    assert!(matches!(service(&long, "10.0.0.1", 1), Err(DiscoveryError::Protocol(quoted)) if quoted.len() == 64));
}

#[test]
fn pings_at_once_then_every_interval_each_with_a_new_id() {
    let mut query = query();
    let mut ids = Vec::new();
    for tick in 0..40 {
        let now = ms(tick * 300);
        assert_eq!(query.next_timeout(), now);
        ids.push(id_of(&query.poll_ping(now).expect("due")));
        assert!(query.poll_ping(now + ms(299)).is_none());
    }
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert!(distinct.len() >= 39, "{ids:?}");
    assert!(ids.iter().all(|id| (0..65_535).contains(id)));
}

#[test]
fn becomes_patient_but_never_stops() {
    let mut query = query();
    let late = ms(3_600_000);
    assert!(query.poll_ping(late).is_some());
    assert_eq!(query.next_timeout(), late + ms(1000));
}

#[test]
fn an_echo_to_any_recent_ping_counts_and_no_other() {
    let mut query = query();
    let ids: Vec<_> = (0..17).map(|tick| id_of(&query.poll_ping(ms(tick * 300)).unwrap())).collect();
    let echo = |id| Echo { id, core: CORE, requestor: None };
    assert_eq!(query.accept(ms(5000), &echo(ids[0])), None, "too old");
    assert_eq!(query.accept(ms(5000), &echo(-1)), None);
    assert_eq!(query.accept(ms(5000), &echo(i64::from(u16::MAX) + 1 + ids[3])), None);
    for id in &ids[1..] {
        assert_eq!(query.accept(ms(5000), &echo(*id)), Some(CORE));
    }
}

#[test]
fn a_distrusted_address_waits_for_a_better_one() {
    let timing = QueryTiming::default();
    let mut query = Query::new(ms(0), "nano", timing, fastrand::Rng::with_seed(1), vec![OTHER]);
    let id = id_of(&query.poll_ping(ms(0)).unwrap());
    assert_eq!(query.accept(ms(10), &Echo { id, core: OTHER, requestor: None }), None);
    assert_eq!(query.accept(ms(20), &Echo { id, core: CORE, requestor: None }), Some(CORE));
    assert_eq!(query.poll_fallback(ms(709)), None);
    assert_eq!(query.poll_fallback(ms(710)), Some(OTHER), "better than nothing");
    assert_eq!(query.poll_fallback(ms(2000)), None, "once");
}

proptest! {
    #[test]
    fn nothing_breaks_the_decoders(datagram in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_echo(&datagram);
        let _ = answer(&datagram, CELL, "nano", CORE);
    }

    #[test]
    fn nearly_right_json_gives_an_error_or_a_host(
        kind in -1i64..3, id in any::<i64>(), service in "core|image|", protocol in "kcp|tcp|",
        address in "10\\.0\\.0\\.[0-9]{1,3}|0\\.0\\.0\\.0|224\\.0\\.0\\.1|x", port in prop_oneof![Just(0i64), 1i64..70_000, any::<i64>()],
    ) {
        let datagram = serde_json::json!({"type": kind, "id": id, "domain": "nano",
            "services": [{"type": service, "protocol": protocol, "address": address, "port": port}]}).to_string();
        if let Ok(echo) = decode_echo(datagram.as_bytes()) {
            prop_assert_eq!((kind, service.as_str(), protocol.as_str()), (1, "core", "kcp"));
            prop_assert_eq!((echo.id, i64::from(echo.core.port())), (id, port));
            prop_assert!(port > 0 && echo.core.ip().octets()[0] == 10);
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(id in any::<i64>(), requestor in any::<u32>(), host in 1u32..0xdfff_ffff, port in 1u16..) {
        let core = SocketAddrV4::new(host.into(), port);
        let echo = decode_echo(&encode_echo(id, requestor.into(), core)).unwrap();
        prop_assert_eq!(echo, Echo { id, core, requestor: Some(requestor.into()) });
    }
}
