//! Bytes from anybody as a payload of KCP segments: what can be read, reads the same after it was written.
#![no_main]

use std::time::Duration;

use cell::proto::kcp::{Kcp, KcpConfig, Segments};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let mut written = Vec::new();
    let mut conv = 0;
    let mut whole = true;
    for segment in Segments::new(payload) {
        match segment {
            Ok(segment) => {
                segment.write(&mut written);
                conv = segment.conv;
            }
            Err(_) => whole = false,
        }
    }
    assert!(payload.starts_with(&written));
    assert!(!whole || written.len() == payload.len());

    let mut kcp = Kcp::new(conv, &KcpConfig::default());
    let taken = kcp.receive(Duration::ZERO, payload, true).is_ok();
    let mut out = Vec::new();
    while kcp.poll_transmit(Duration::ZERO, &mut out) {
        assert!(taken, "a refused payload has no answer");
    }
    assert!(kcp.held_bytes() <= payload.len());
});
