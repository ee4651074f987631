use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use chrono::{Days, NaiveDate};
use parking_lot::Mutex;

use super::*;
use crate::model::{Secret, SessionId};

const ROOMY: Limits = Limits { days: 14, file_bytes: 1 << 20, total_bytes: 1 << 30 };

/// The reopening request is one flag to a process; tests that write or set it take turns.
static TURN: Mutex<()> = Mutex::new(());

struct Bench {
    dir: tempfile::TempDir,
    days: Arc<AtomicU64>,
    dropped: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), days: Arc::default(), dropped: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cell.log")
    }

    /// Files are really written today: the test's calendar starts there and goes on.
    fn start() -> NaiveDate {
        chrono::Local::now().date_naive()
    }

    fn open(&self, limits: Limits) -> RotatingFile {
        let (days, dropped) = (Arc::clone(&self.days), Arc::clone(&self.dropped));
        let start = Self::start();
        let today = move || start.checked_add_days(Days::new(days.load(Ordering::SeqCst))).unwrap();
        RotatingFile::with_clock(&self.path(), limits, Box::new(move || dropped.load(Ordering::SeqCst)), Box::new(today)).unwrap()
    }

    fn day(&self, number: u64) -> String {
        format!("cell.log.{}", Self::start().checked_add_days(Days::new(number)).unwrap().format("%Y-%m-%d"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn say(file: &mut RotatingFile, line: &str) {
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    file.flush().unwrap();
}

#[test]
fn lines_are_appended_also_after_a_restart() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    say(&mut bench.open(ROOMY), "one");
    say(&mut bench.open(ROOMY), "two");
    assert_eq!(bench.read("cell.log"), "one\ntwo\n");
    assert_eq!(bench.path().metadata().unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[test]
fn midnight_moves_the_day_aside_and_the_live_name_stays() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(ROOMY);
    say(&mut file, "today");
    bench.days.store(1, Ordering::SeqCst);
    say(&mut file, "tomorrow");
    assert_eq!(bench.read("cell.log"), "tomorrow\n");
    assert_eq!(bench.read(&bench.day(0)), "today\n");
}

#[test]
fn a_file_of_another_day_is_moved_aside_after_a_restart() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    say(&mut bench.open(ROOMY), "old");
    bench.days.store(3, Ordering::SeqCst);
    say(&mut bench.open(ROOMY), "new");
    assert_eq!(bench.read(&bench.day(0)), "old\n");
    assert_eq!(bench.read("cell.log"), "new\n");
}

#[test]
fn a_full_file_is_numbered_and_all_files_together_are_bounded() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(Limits { days: 14, file_bytes: 10, total_bytes: 30 });
    for number in 1..=6 {
        say(&mut file, &format!("line {number}"));
    }
    // Each line fills a file of 7 bytes; beside the 10 of the live one there is room for two closed ones.
    assert_eq!(bench.read("cell.log"), "line 6\n");
    let day = bench.day(0);
    assert_eq!(bench.names(), vec!["cell.log".to_owned(), format!("{day}.3"), format!("{day}.4")]);
    assert_eq!(bench.read(&format!("{day}.4")), "line 5\n");
}

#[test]
fn old_days_are_removed_and_other_files_are_not() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    for name in ["cell.log.bak", "cell.log.2026-13-77", "other.log.2020-01-01"] {
        fs::write(bench.dir.path().join(name), "mine").unwrap();
    }
    let limits = Limits { days: 2, ..ROOMY };
    let mut file = bench.open(limits);
    for day in 0..6 {
        bench.days.store(day, Ordering::SeqCst);
        say(&mut file, &format!("day {day}"));
    }
    let mut expected = vec!["cell.log".to_owned(), bench.day(3), bench.day(4)];
    expected.extend(["cell.log.bak", "cell.log.2026-13-77", "other.log.2020-01-01"].map(str::to_owned));
    expected.sort();
    assert_eq!(bench.names(), expected);
}

#[test]
fn a_removed_or_renamed_live_file_is_made_again() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(ROOMY);
    say(&mut file, "one");
    fs::rename(bench.path(), bench.dir.path().join("moved")).unwrap();
    say(&mut file, "two");
    fs::remove_file(bench.path()).unwrap();
    say(&mut file, "three");
    assert_eq!(bench.read("moved"), "one\n");
    assert_eq!(bench.read("cell.log"), "three\n");
}

#[test]
fn a_truncated_live_file_goes_on_at_its_start() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(Limits { file_bytes: 12, ..ROOMY });
    say(&mut file, "one");
    fs::write(bench.path(), "").unwrap();
    say(&mut file, "two");
    say(&mut file, "three");
    assert_eq!(bench.read("cell.log"), "two\nthree\n", "the size is the file's, not the sum of what was written");
}

#[test]
fn what_cannot_be_written_is_counted_and_told_later() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(ROOMY);
    say(&mut file, "one");
    // The directory in the place of the file makes every opening fail, for root too.
    fs::remove_file(bench.path()).unwrap();
    fs::create_dir(bench.path()).unwrap();
    say(&mut file, "lost");
    say(&mut file, "lost too");
    fs::remove_dir(bench.path()).unwrap();
    bench.dropped.store(3, Ordering::SeqCst);
    say(&mut file, "back");
    let text = bench.read("cell.log");
    assert!(text.contains(" 5 lines are missing here") && text.ends_with("back\n"), "{text}");
    say(&mut file, "on");
    assert!(bench.read("cell.log").ends_with("back\non\n"), "told once");
}

#[test]
fn a_full_disk_neither_fails_nor_blocks() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    std::os::unix::fs::symlink("/dev/full", bench.path()).unwrap();
    let mut file = bench.open(ROOMY);
    for _ in 0..1000 {
        say(&mut file, "nowhere");
    }
    assert_eq!(bench.names(), ["cell.log"]);
    fs::remove_file(bench.path()).unwrap();
    say(&mut file, "room again");
    assert!(bench.read("cell.log").contains(" 1000 lines are missing here"));
}

#[test]
fn hangup_opens_the_file_anew() {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let mut file = bench.open(ROOMY);
    say(&mut file, "one");
    request_reopen();
    say(&mut file, "two");
    assert!(!REOPEN.load(Ordering::SeqCst));
    assert_eq!(bench.read("cell.log"), "one\ntwo\n");
}

/// Runs `body` with a log into a scratch file and returns the lines without their time stamps.
fn logged(filter: &str, body: impl FnOnce()) -> Vec<String> {
    let _turn = TURN.lock();
    let bench = Bench::new();
    let (sink, guard) = queue(bench.open(ROOMY), "test-log");
    let subscriber = tracing_subscriber::registry().with(filter.parse::<Targets>().unwrap()).with(LineLayer::new(vec![sink]));
    tracing::subscriber::with_default(subscriber, body);
    drop(guard);
    let text = bench.read("cell.log");
    text.lines()
        .map(|line| {
            let (time, rest) = line.split_at("2026-11-20 07:54:53.123 ".len());
            assert!(chrono::NaiveDateTime::parse_from_str(time.trim_end(), "%Y-%m-%d %H:%M:%S%.3f").is_ok(), "{line}");
            rest.to_owned()
        })
        .collect()
}

#[test]
fn a_line_has_level_target_session_message_and_fields() {
    let lines = logged("info", || {
        let span = tracing::info_span!("txn", session = %SessionId(42), guest = tracing::field::Empty);
        let _inside = span.enter();
        tracing::info!(target: "cell::txn", disks = 2, "guest {} created", "web");
        span.record("guest", "g1");
        let _deeper = tracing::info_span!("step", name = "volume").entered();
        tracing::warn!(target: "cell::host", "slow");
        tracing::debug!("not this");
    });
    assert_eq!(
        lines,
        [" INFO cell::txn [0000002A] guest web created disks=2", " WARN cell::host [0000002A] slow name=volume guest=g1"]
            .map(str::to_owned)
    );
}

#[test]
fn an_event_outside_of_a_session_has_none_and_stays_on_its_line() {
    let lines = logged("info", || {
        tracing::error!(target: "cell::net", peer = "x\n2026 INFO forged", "bad\r\nmessage");
    });
    assert_eq!(lines, ["ERROR cell::net bad\\r\\nmessage peer=x\\n2026 INFO forged".to_owned()]);
}

#[test]
fn secrets_hide_themselves() {
    let lines = logged("trace", || tracing::info!(target: "t", secret = ?Secret::new("hunter2"), "set"));
    assert_eq!(lines, [" INFO t set secret=(hidden)".to_owned()]);
}

#[test]
fn the_filter_works_by_target() {
    let lines = logged("warn,cell::txn=debug", || {
        tracing::info!(target: "cell::net", "no");
        tracing::debug!(target: "cell::txn::engine", "yes");
    });
    assert_eq!(lines, ["DEBUG cell::txn::engine yes".to_owned()]);
}
