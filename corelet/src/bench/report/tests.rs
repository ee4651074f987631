use super::*;

fn report(rate: f64, anonymous: u64) -> Report {
    let latency = Summary { count: 10, p50_ms: 1.0, p99_ms: 2.0, max_ms: 4.0 };
    let line = Line {
        name: "get guest".into(),
        parallel: 64,
        failures: 1,
        seconds: 5.0,
        rate,
        latency,
        cpu_ms_per_request: Some(0.5),
        own_cpu_ms_per_request: 0.01,
    };
    Report {
        cell: "Cell_a".into(),
        guests: 100,
        running: 1,
        lines: vec![line],
        idle: vec![Idle { process: "Cell".into(), seconds: 10.0, cpu_percent: 0.25 }],
        memory: vec![MemoryLine { when: "idle".into(), resident: 20 << 20, anonymous }],
    }
}

#[test]
fn figures_stand_alone_or_beside_others() {
    let (ours, theirs) = (report(30_000.0, 4 << 20), report(10_000.0, 8 << 20));
    assert_eq!(ours.rows(None)[1], ["get guest", "64", "30000", "1.000", "2.000", "4.000", "0.5000", "0.0100", "1"]);
    assert_eq!(ours.rows(Some(&theirs))[1][2], "30000 (x3.00)");
    assert_eq!(
        ours.process_rows(Some(&theirs)),
        [
            ["CPU of Cell while idle, 10 s", "0.25 (x1.00) %"],
            ["VmRSS of the Cell idle", "20.0 (x1.00) MiB"],
            ["RssAnon of the Cell idle", "4.0 (x0.50) MiB"],
        ]
    );
}

#[test]
fn phases_that_the_other_run_lacks_stand_alone() {
    let mut theirs = report(1.0, 1);
    theirs.lines[0].parallel = 1;
    theirs.idle.clear();
    assert_eq!(report(30_000.0, 1).rows(Some(&theirs))[1][2], "30000");
    assert_eq!(report(1.0, 1).process_rows(Some(&theirs))[0][1], "0.25 %");
}

#[test]
fn a_report_survives_its_file() {
    let report = report(1.5, 3);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}
