use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::net::{domain, DomainConfig};
use crate::txn::node::Books;

const WATCHDOG: Duration = Duration::from_secs(30);

/// A watched service; dropped with its tasks.
struct Watched {
    fed: Arc<AtomicU32>,
    tasks: JoinSet<()>,
}

impl Watched {
    fn new(probes: Vec<Probe>) -> Self {
        let fed = Arc::<AtomicU32>::default();
        let feed = fed.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(probes, Some(WATCHDOG), move || {
            feed.fetch_add(1, Ordering::Relaxed);
        }));
        Self { fed, tasks }
    }

    /// How often it was fed in ten intervals, the first of which does not count.
    async fn ten_intervals(&self) -> u32 {
        sleep(WATCHDOG).await;
        let before = self.fed.load(Ordering::Relaxed);
        sleep(WATCHDOG * 10).await;
        self.fed.load(Ordering::Relaxed) - before
    }
}

/// A loop that does nothing but answer while `is_stuck` is false.
async fn answering(mut questions: Questions, mut is_stuck: tokio::sync::watch::Receiver<bool>) {
    loop {
        let _ = is_stuck.wait_for(|is_stuck| !is_stuck).await;
        tokio::select! {
            () = questions.answer() => {}
            _ = is_stuck.changed() => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_stuck_stops_the_feeding_until_it_gets_on() {
    let ((one, first), (two, second)) = (Questions::new("one"), Questions::new("two"));
    let mut watched = Watched::new(vec![one, two]);
    let (stick_one, one_is_stuck) = tokio::sync::watch::channel(false);
    let (stick_two, two_is_stuck) = tokio::sync::watch::channel(false);
    watched.tasks.spawn(answering(first, one_is_stuck));
    watched.tasks.spawn(answering(second, two_is_stuck));
    assert!(watched.ten_intervals().await >= 10, "fed at least once an interval");
    for stick in [&stick_one, &stick_two] {
        stick.send(true).unwrap();
        assert_eq!(watched.ten_intervals().await, 0);
        stick.send(false).unwrap();
        assert!(watched.ten_intervals().await >= 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_has_ended_feeds_nothing() {
    let (one, questions) = Questions::new("one");
    drop(questions);
    assert_eq!(Watched::new(vec![one]).ten_intervals().await, 0);
}

/// The real driver and the real writer, of which one is never polled.
#[tokio::test]
async fn the_driver_and_the_writer_are_asked_through_their_own_queues() {
    for (driver_runs, writer_runs) in [(true, true), (false, true), (true, false)] {
        let scratch = tempfile::tempdir().unwrap();
        let opened = Store::open(scratch.path(), "br0").unwrap();
        let (net, handle, _inbound) = domain(DomainConfig {
            group: [224, 0, 0, 226].into(),
            port: 5599,
            domain: "nano".into(),
            interface: "lo".into(),
            name: "Cell_a".into(),
            core_address: Some("127.0.0.1:9".parse().unwrap()),
            core_name: None,
            unclean: false,
        });
        let (net, disk) = (net.run(), opened.writer.run(Arc::new(Books::new(opened.loaded)), CancellationToken::new()));
        tokio::pin!(net, disk);
        // One that runs has all the time in the world, one that does not never answers.
        let patience = |runs: bool| if runs { Duration::from_secs(60) } else { Duration::from_millis(100) };
        let (net_probe, disk_probe) = ([driver(&handle)], [writer(&opened.store)]);
        let asked = async { [round(&net_probe, patience(driver_runs)).await, round(&disk_probe, patience(writer_runs)).await].concat() };
        let silent = tokio::select! {
            silent = asked => silent,
            _ = &mut net, if driver_runs => panic!("the driver ended"),
            _ = &mut disk, if writer_runs => panic!("the writer ended"),
        };
        let wanted = [(driver_runs, super::super::service::DRIVER), (writer_runs, super::super::service::WRITER)];
        assert_eq!(silent, wanted.into_iter().filter(|(runs, _)| !runs).map(|(_, name)| name).collect::<Vec<_>>());
    }
}
