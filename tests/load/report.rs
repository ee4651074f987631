//! The list of all guests that a Cell answers its Core's "pool ready" with: one message, and the largest there is.

use std::collections::BTreeSet;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, MessageId};
use corelet::{requests, PoolConfig};

use crate::domain::{id, CoreEnd, Domain};

/// The Core waits so long (contract §5.3).
const T_CORE: Duration = Duration::from_secs(10);
/// What the Core takes in one message (contract §2.6).
const LIMIT: usize = 2 << 20;

#[tokio::test(start_paused = true)]
async fn a_thousand_guests_are_reported_in_time_though_a_fifth_of_the_packets_is_lost() {
    let _turn = crate::turn().await;
    for seed in 1..=4 {
        let mut domain = Domain::new(1000, CoreEnd::Real, seed).await;
        domain.loss = 20;
        domain.ask(&requests::pool_ready(&PoolConfig::default(), true).from_session(17));
        let asked = tokio::time::Instant::now();
        let came = domain.until(T_CORE, |domain| !domain.received.is_empty()).await;
        assert!(came, "seed {seed}: not within {T_CORE:?}");
        let report = domain.received.remove(0);
        let size = serde_json::to_vec(&report.message).unwrap().len();
        println!("seed {seed}: {size} bytes in {:?}", report.at - asked);
        assert!(size < LIMIT / 2, "{size} bytes leave too little room");
        assert_eq!((report.message.id, report.message.to), (MessageId::COMPUTE_CELL_READY_EVENT, 17));
        assert!(report.message.success, "{}", report.message.error);
        let listed: BTreeSet<GuestId> =
            report.message.string_array_params[&Key::Instance].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(listed, (0..1000).map(id).collect());
        assert_eq!(report.message.uint_array_params[&Key::Limit].len(), 6000);
        // It went through although it took a while: neither end had doubts about the other.
        domain.pass(Duration::from_secs(30)).await;
        assert_eq!(domain.troubles, [""; 0], "seed {seed}");
        assert!(domain.received.is_empty(), "it came twice");
    }
}
