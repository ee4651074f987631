//! A storm of requests, many of which hang: each is answered in time, and the connection is kept alive.

use std::collections::BTreeSet;
use std::time::Duration;

use cell::model::GuestId;
use corelet::requests::{self, StopMode};

use crate::domain::{id, CoreEnd, Domain, TIMEOUT};

const REQUESTS: u32 = 5000;
const SLOW: u32 = 1024;
/// Guests that answer to nothing.
const STUCK: u32 = 32;
/// Silence after which the Core calls a Cell lost (contract §2.4).
const LOST: Duration = Duration::from_secs(9);

async fn storm(end: CoreEnd, loss: u8) {
    let mut domain = Domain::new(200, end, 7).await;
    domain.with_background();
    for stuck in (0..STUCK).map(id) {
        domain.sim.set_power_behind(stuck, true);
        domain.sim.hang(stuck);
    }
    domain.pass(Duration::from_millis(10)).await;
    domain.loss = loss;
    let slow_every = REQUESTS / SLOW;
    let is_slow = |session: u32| session % slow_every == 0 && session / slow_every <= SLOW;
    for session in 1..=REQUESTS {
        let request = if is_slow(session) {
            let stuck = id(session / slow_every % STUCK);
            // Half of them are alone with their guest's monitor, half wait for those.
            requests::stop_guest(stuck, if session % 2 == 0 { StopMode::Reset } else { StopMode::Reboot })
        } else {
            let guest: GuestId = id(STUCK + session % 100);
            if session % 2 == 0 {
                requests::get_guest(guest)
            } else {
                requests::get_status(guest)
            }
        };
        domain.ask(&request.from_session(session));
        if session % 50 == 0 {
            domain.pass(Duration::from_millis(10)).await;
        }
    }
    let all = domain
        .until(Duration::from_secs(60), |domain| domain.received.iter().filter(|got| got.message.to != 0).count() >= REQUESTS as usize);
    assert!(all.await, "{} of {REQUESTS} answers", domain.received.iter().filter(|got| got.message.to != 0).count());
    domain.pass(Duration::from_secs(20)).await;

    let answers: Vec<u32> = domain.received.iter().map(|got| got.message.to).filter(|to| *to != 0).collect();
    assert_eq!(answers.len(), REQUESTS as usize, "an answer came twice");
    assert_eq!(answers.iter().copied().collect::<BTreeSet<u32>>(), (1..=REQUESTS).collect());
    let slowest = (1..=REQUESTS).map(|session| domain.answered[&session] - domain.arrived[&session]).max().unwrap();
    let quick = (1..=REQUESTS).filter(|session| !is_slow(*session));
    let slowest_quick = quick.map(|session| domain.answered[&session] - domain.arrived[&session]).max().unwrap();
    let last = domain.received.iter().map(|got| got.at - domain.arrived.get(&got.message.to).copied().unwrap_or(got.at)).max().unwrap();
    let refused = domain.received.iter().filter(|got| got.message.error.contains("busy: all its")).count();
    println!(
        "{end:?}, {loss} % loss: slowest answer {slowest:?}, of the quick ones {slowest_quick:?}, at the Core after {last:?}; {refused} refused; \
         longest silence {:?}",
        domain.longest_silence
    );
    assert_eq!(refused, 0, "the hanging ones keep others out");
    assert!(slowest <= TIMEOUT, "the slowest answer took {slowest:?}");
    if matches!(end, CoreEnd::Quick) && loss == 0 {
        assert!(slowest_quick < TIMEOUT / 4, "a quick one took {slowest_quick:?}");
    }
    assert!(domain.longest_silence < LOST, "silent for {:?}", domain.longest_silence);
    assert_eq!(domain.troubles, [""; 0]);
    assert_eq!(domain.engine.active(), 0);
    assert_eq!(domain.node.load().jobs, 0);
}

#[tokio::test(start_paused = true)]
async fn every_request_of_a_storm_is_answered_within_its_deadline() {
    let _turn = crate::turn().await;
    storm(CoreEnd::Quick, 0).await;
    storm(CoreEnd::Real, 0).await;
    storm(CoreEnd::Quick, 10).await;
}
