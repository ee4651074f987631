use std::time::Duration;

use super::*;

fn metrics(started: Instant) -> Metrics {
    Metrics::new(About { version: "1".into(), name: "Cell_x".into(), pid: 7, domain: "nano".into() }, started)
}

#[test]
fn figures_add_up() {
    let start = Instant::now();
    let metrics = metrics(start);
    for _ in 0..10 {
        metrics.transaction_begun();
    }
    for end in [TransactionEnd::Done, TransactionEnd::Done, TransactionEnd::Failed, TransactionEnd::TimedOut] {
        metrics.transaction_ended(end);
    }
    metrics.set_guests(GuestFigures { total: 3, running: 2, lost: 1 });
    metrics.set_libvirt_connected(true);
    let snapshot = metrics.snapshot(start + Duration::from_secs(61));
    assert_eq!(snapshot.transactions, TransactionFigures { active: 6, total: 10, failed: 2, timeouts: 1 });
    assert_eq!((snapshot.uptime, snapshot.libvirt_connected, snapshot.guests.running), (61, true, 2));
    assert_eq!((snapshot.core, snapshot.last_report), (CoreLink::Searching, None));
}

#[test]
fn a_snapshot_is_readable_json_and_comes_back() {
    let start = Instant::now();
    let metrics = metrics(start);
    metrics.set_core(CoreLink::Connected { core: "core1".into() });
    metrics.set_report(ReportFigures { cpus: 8, cpu_percent: 12.5, ..ReportFigures::default() });
    let snapshot = metrics.snapshot(start);
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!((&json["name"], &json["pid"]), (&"Cell_x".into(), &7.into()));
    assert_eq!(json["core"], serde_json::json!({"state": "connected", "core": "core1"}));
    assert!(json["last_report"]["time"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(serde_json::from_value::<Snapshot>(json).unwrap(), snapshot);
}

#[test]
fn counting_from_many_threads_loses_nothing() {
    let metrics = metrics(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    metrics.transaction_begun();
                    let seen = metrics.snapshot(Instant::now()).transactions;
                    assert!((1..=4).contains(&seen.active));
                    metrics.transaction_ended(TransactionEnd::Done);
                }
            });
        }
    });
    assert_eq!(metrics.snapshot(Instant::now()).transactions, TransactionFigures { active: 0, total: 4000, failed: 0, timeouts: 0 });
}
