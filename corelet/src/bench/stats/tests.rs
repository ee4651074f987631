use super::*;

fn summary(milliseconds: &[u64]) -> Option<Summary> {
    let mut latencies: Vec<Duration> = milliseconds.iter().copied().map(Duration::from_millis).collect();
    Summary::of(&mut latencies)
}

#[test]
fn quantiles_are_ranks() {
    let hundred: Vec<u64> = (1..=100).rev().collect();
    assert_eq!(summary(&hundred), Some(Summary { count: 100, p50_ms: 50.0, p99_ms: 99.0, max_ms: 100.0 }));
    assert_eq!(summary(&[7]), Some(Summary { count: 1, p50_ms: 7.0, p99_ms: 7.0, max_ms: 7.0 }));
    assert_eq!(summary(&[1, 9]), Some(Summary { count: 2, p50_ms: 1.0, p99_ms: 9.0, max_ms: 9.0 }));
    assert_eq!(summary(&[]), None);
}
