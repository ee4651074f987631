use super::*;

fn own(deadline: u64) -> Waiting {
    Waiting::PoolReady { deadline: Duration::from_secs(deadline) }
}

#[test]
fn numbers_go_round_from_two() {
    let mut sessions = Sessions::new(MAX_SESSION);
    let given: Vec<u32> = (0..1024).map(|_| sessions.open("a", own(1)).unwrap()).collect();
    let expected: Vec<u32> = (2..=1024).chain([1]).collect();
    assert_eq!(given, expected);
    assert_eq!(sessions.open("a", own(1)), None, "all numbers are taken");
    sessions.close(700);
    sessions.close(5);
    assert_eq!(sessions.open("a", own(1)), Some(5));
    assert_eq!(sessions.open("a", own(1)), Some(700));
}

#[test]
fn a_number_just_freed_comes_last() {
    let mut sessions = Sessions::new(MAX_SESSION);
    assert_eq!(sessions.open("a", own(1)), Some(2));
    sessions.close(2);
    assert_eq!(sessions.open("a", own(1)), Some(3), "a late answer to 2 must not meet a new request");
}

#[test]
fn sessions_of_a_lost_cell_end_together() {
    let mut sessions = Sessions::new(MAX_SESSION);
    for cell in ["a", "b", "a"] {
        sessions.open(cell, own(1)).unwrap();
    }
    assert_eq!(sessions.close_all_of("a").len(), 2);
    assert_eq!(sessions.close_all_of("a").len(), 0);
    assert_eq!(sessions.close(3).unwrap().cell, "b");
}

#[test]
fn the_earliest_own_deadline_counts() {
    let mut sessions = Sessions::new(MAX_SESSION);
    assert_eq!(sessions.next_deadline(), None);
    let (sender, _receiver) = oneshot::channel();
    sessions.open("a", Waiting::Caller(sender)).unwrap();
    assert_eq!(sessions.next_deadline(), None);
    sessions.open("a", own(9)).unwrap();
    sessions.open("b", own(4)).unwrap();
    assert_eq!(sessions.next_deadline(), Some((4, Duration::from_secs(4))));
}
