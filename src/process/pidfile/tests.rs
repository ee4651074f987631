use super::*;

fn home() -> (tempfile::TempDir, Home) {
    let scratch = tempfile::tempdir().unwrap();
    let home = Home::at(scratch.path()).unwrap();
    home.prepare().unwrap();
    (scratch, home)
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

#[test]
fn a_fresh_home_is_stopped_and_looking_creates_nothing() {
    let (_scratch, home) = home();
    assert_eq!(probe(&home).unwrap(), State::Stopped { stale: None });
    assert!(!home.pid_file().exists());
}

#[test]
fn the_owner_is_seen_with_its_pid_and_gone_when_dropped() {
    let (_scratch, home) = home();
    let mut lock = InstanceLock::acquire(&home).unwrap();
    assert_eq!(probe(&home).unwrap(), State::Running { pid: None }, "not published yet");
    lock.publish().unwrap();
    assert_eq!(probe(&home).unwrap(), State::Running { pid: Some(own_pid()) });
    assert!(is_owner(&home, own_pid()).unwrap());
    drop(lock);
    assert_eq!(probe(&home).unwrap(), State::Stopped { stale: None });
    assert!(!home.pid_file().exists());
}

#[test]
fn a_second_service_is_refused_and_told_the_pid() {
    let (_scratch, home) = home();
    let mut lock = InstanceLock::acquire(&home).unwrap();
    lock.publish().unwrap();
    match InstanceLock::acquire(&home) {
        Err(PidfileError::Running(pid)) => assert_eq!(pid, Some(own_pid())),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_to_string(home.pid_file()).unwrap(), format!("{}\n", own_pid()));
}

#[test]
fn the_pid_of_a_living_stranger_in_an_unlocked_file_is_stale() {
    let (_scratch, home) = home();
    // Our own pid is certainly alive, and nobody holds the lock: a recycled pid.
    std::fs::write(home.pid_file(), own_pid().to_string()).unwrap();
    assert_eq!(probe(&home).unwrap(), State::Stopped { stale: Some(own_pid()) });
    assert!(!is_owner(&home, own_pid()).unwrap());
    let lock = InstanceLock::acquire(&home).unwrap();
    assert_eq!(probe(&home).unwrap(), State::Running { pid: None }, "the stale number is erased before anything else");
    drop(lock);
}

#[test]
fn rubbish_in_the_file_is_no_pid() {
    let (_scratch, home) = home();
    for rubbish in ["", "x", "-1", "0", "99999999999999999999", "\u{0}12"] {
        std::fs::write(home.pid_file(), rubbish).unwrap();
        assert_eq!(probe(&home).unwrap(), State::Stopped { stale: None }, "{rubbish:?}");
    }
}

#[test]
fn a_deleted_pidfile_does_not_let_a_second_service_in() {
    let (_scratch, home) = home();
    let mut lock = InstanceLock::acquire(&home).unwrap();
    lock.publish().unwrap();
    std::fs::remove_file(home.pid_file()).unwrap();
    assert_eq!(probe(&home).unwrap(), State::Running { pid: None });
    assert!(matches!(InstanceLock::acquire(&home), Err(PidfileError::Running(None))));
}

#[test]
fn an_owner_does_not_remove_a_file_that_is_not_its_own() {
    let (_scratch, home) = home();
    let lock = InstanceLock::acquire(&home).unwrap();
    std::fs::remove_file(home.pid_file()).unwrap();
    std::fs::write(home.pid_file(), "7").unwrap();
    drop(lock);
    assert!(home.pid_file().exists());
}

#[test]
fn stale_files_are_cleaned_and_living_ones_are_not() {
    let (_scratch, home) = home();
    assert!(!clean_stale(&home).unwrap());
    std::fs::write(home.pid_file(), "4711").unwrap();
    std::fs::write(home.status_socket(), "").unwrap();
    assert!(clean_stale(&home).unwrap());
    assert!(!home.pid_file().exists() && !home.status_socket().exists());
    let _lock = InstanceLock::acquire(&home).unwrap();
    assert!(!clean_stale(&home).unwrap());
    assert!(home.pid_file().exists());
}

#[test]
fn a_stale_file_is_cleaned_where_no_data_ever_was() {
    let scratch = tempfile::tempdir().unwrap();
    let home = Home::at(scratch.path()).unwrap();
    std::fs::write(home.pid_file(), "4711").unwrap();
    assert_eq!(probe(&home).unwrap(), State::Stopped { stale: Some(4711) });
    assert!(clean_stale(&home).unwrap());
    assert!(!home.pid_file().exists() && !home.data_dir().exists());
}

#[test]
fn lookers_do_not_keep_a_service_from_starting() {
    let (_scratch, home) = home();
    std::fs::write(home.pid_file(), "").unwrap();
    let looker = Flock::lock(File::open(home.pid_file()).unwrap(), FlockArg::LockSharedNonblock).unwrap();
    let release = std::thread::spawn(move || {
        sleep(PAUSE * 3);
        drop(looker);
    });
    assert!(InstanceLock::acquire(&home).is_ok());
    release.join().unwrap();
}

/// The first thread of a service that was killed may be dead while another one waits for a disk, and holds the locks.
#[test]
fn a_service_that_is_dying_is_waited_for_by_a_start() {
    let (_scratch, home) = home();
    let lock = InstanceLock::acquire(&home).unwrap();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    let pid = i32::try_from(dead.id()).unwrap();
    while !is_dead(pid) {
        std::thread::yield_now();
    }
    std::fs::write(home.pid_file(), pid.to_string()).unwrap();
    assert_eq!(probe(&home).unwrap(), State::Running { pid: Some(pid) });
    assert_eq!(probe_patiently(&home, Duration::ZERO).unwrap(), State::Running { pid: Some(pid) });
    let ends = std::thread::spawn(move || {
        sleep(Duration::from_millis(100));
        drop(lock);
    });
    assert_eq!(probe_patiently(&home, Duration::from_secs(60)).unwrap(), State::Stopped { stale: None });
    ends.join().unwrap();
    dead.wait().unwrap();
    assert!(is_dead(pid) && !is_dead(own_pid()));

    // One that lives is not waited for.
    let mut lock = InstanceLock::acquire(&home).unwrap();
    lock.publish().unwrap();
    assert_eq!(probe_patiently(&home, Duration::from_secs(60)).unwrap(), State::Running { pid: Some(own_pid()) });
}

#[test]
fn a_process_that_was_killed_and_could_not_end_yet_counts_as_dead() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    assert!(!is_dead(pid));
    child.kill().unwrap();
    while !is_dead(pid) {
        std::thread::yield_now();
    }
    child.wait().unwrap();
    assert!(is_dead(pid));
}
