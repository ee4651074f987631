//! What a real Core once asked the reference Cell, asked again: the answers mean the same, but for what differs on purpose.

use corelet::images::{ImageServer, ImageServerConfig};
use corelet::replay::{self, Options, Outcome, Replayed};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

use crate::lab::{Cell, Lab, TestCore, CORE_ADDRESS};

const CAPTURES: [(&str, &str); 3] = [
    ("addresses", include_str!("../vectors/addresses-messages.jsonl")),
    ("images", include_str!("../vectors/images-messages.jsonl")),
    ("lifecycle", include_str!("../vectors/lifecycle-messages.jsonl")),
];

fn different(result: &Replayed) -> bool {
    !matches!(result.outcome, Outcome::Equal | Outcome::Deliberate { .. })
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn captured_requests_get_answers_of_the_same_meaning() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let directory = tempfile::tempdir().unwrap();
    let listen = SocketAddr::new(CORE_ADDRESS.parse().unwrap(), 5801);
    let config = ImageServerConfig { directory: directory.path().to_owned(), listen, tls: true };
    let server = core.inside(async move { ImageServer::start(config).await.unwrap() });
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let options = Options { images: Some(server.address()), equal_guests: true, ..Options::default() };
    let mut reasons = BTreeSet::new();
    for (name, capture) in CAPTURES {
        let steps = replay::parse(capture).unwrap();
        let results = core.wait(replay::run(&core, &cell.name(), &steps, options, &CancellationToken::new(), &mut |_| {}));
        let wrong: Vec<&Replayed> = results.iter().filter(|result| different(result)).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        assert_eq!(results.len(), steps.len(), "{name}");
        for result in results {
            if let Outcome::Deliberate { reasons: of_this } = result.outcome {
                reasons.extend(of_this);
            }
        }
    }
    // Each difference on the list is one that exists; media are in no drive of the captures.
    let listed = replay::DELIBERATE.iter().map(|known| known.reason.to_owned()).filter(|reason| !reason.contains("media"));
    assert_eq!(reasons, listed.collect());
    assert!(core.cell(&cell.name()).unwrap().guests.is_empty(), "nothing is left behind");
}
