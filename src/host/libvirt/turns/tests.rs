use std::time::Duration;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test(start_paused = true)]
async fn operations_of_one_guest_follow_each_other_and_others_do_not_wait() {
    let turns = Arc::new(Turns::default());
    let (one, other) = (GuestId::random(), GuestId::random());
    let first = turns.take(one, "start", soon()).await.unwrap();
    let _other = turns.take(other, "start", soon()).await.unwrap();
    let waiting = tokio::spawn({
        let turns = turns.clone();
        async move { turns.take(one, "stop", soon()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn behind_an_overdue_operation_nobody_waits() {
    let turns = Arc::new(Turns::default());
    let id = GuestId::random();
    let stuck = turns.take(id, "sample", soon()).await.unwrap();
    let error = turns.take(id, "stop", Instant::now() + Duration::from_secs(2)).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Busy);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = Instant::now();
    let error = turns.take(id, "stop", soon()).await.err().unwrap();
    assert_eq!((error.kind, Instant::now()), (ErrorKind::Busy, before));
    assert!(error.to_string().contains("'sample'"), "{error}");
    drop(stuck);
    turns.take(id, "stop", soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_guest_takes_no_room() {
    let turns = Arc::new(Turns::default());
    let id = GuestId::random();
    let first = turns.take(id, "start", soon()).await.unwrap();
    assert!(turns.take(id, "stop", Instant::now()).await.is_err());
    let cancelled = tokio::time::timeout(Duration::from_millis(1), turns.take(id, "stop", soon())).await;
    assert!(cancelled.is_err());
    drop(first);
    assert!(turns.places.lock().is_empty());
}
