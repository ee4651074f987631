use super::*;

fn lost(cell: &str) -> Recorded {
    Recorded { at: Duration::from_millis(1500), name: None, event: Event::CellLost { cell: cell.into() } }
}

fn names(events: &mut Events) -> Vec<String> {
    std::iter::from_fn(|| events.try_next()).map(|recorded| recorded.event.cell().to_owned()).collect()
}

#[test]
fn a_place_in_the_stream_misses_nothing() {
    let log = EventLog::new();
    log.push(lost("a"));
    let mut later = log.now();
    let mut all = log.start();
    log.push(lost("b"));
    let mut copy = later.clone();
    assert_eq!(names(&mut later), ["b"]);
    assert_eq!(names(&mut copy), ["b"]);
    assert_eq!(names(&mut all), ["a", "b"]);
    assert_eq!(names(&mut all), [""; 0]);
}

#[test]
fn whoever_falls_far_behind_goes_on_with_what_is_kept() {
    let log = EventLog::new();
    let mut events = log.start();
    for number in 0..KEPT + 3 {
        log.push(lost(&number.to_string()));
    }
    let seen = names(&mut events);
    assert_eq!((seen.len(), seen[0].as_str()), (KEPT, "3"));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_event_the_time_or_the_core() {
    let log = EventLog::new();
    let mut events = log.now();
    let patience = Duration::from_secs(5);
    assert!(matches!(events.wait(patience, |_| true).await, Err(WaitError::Timeout(_))));

    let writer = log.clone();
    tokio::spawn(async move {
        for name in ["a", "b"] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            writer.push(lost(name));
        }
    });
    let found = events.wait(patience, |event| event.cell() == "b").await.unwrap();
    assert_eq!(found.event.cell(), "b");

    drop(log);
    tokio::time::sleep(patience).await;
    assert!(matches!(events.wait(patience, |_| true).await, Err(WaitError::Closed)));
}

#[test]
fn events_are_flat_json_objects() {
    let json = serde_json::to_value(lost("a")).unwrap();
    assert_eq!(json, serde_json::json!({ "t": 1.5, "event": "cell_lost", "cell": "a" }));
}
