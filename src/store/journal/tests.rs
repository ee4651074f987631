use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use nix::errno::Errno;
use proptest::prelude::*;
use serde_json::json;
use tempfile::{tempdir, TempDir};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::host::sim::SimProcess;
use crate::store::disk::RealDisk;
use crate::store::testing::{Leaves, Refusal, TestDisk};

struct Bench {
    home: TempDir,
    disk: TestDisk,
    journal: Journal,
    stop: CancellationToken,
    writer: JoinHandle<Result<(), StoreError>>,
}

impl Bench {
    fn new() -> Self {
        Self::on(tempdir().unwrap()).0
    }

    fn on(home: TempDir) -> (Self, Vec<Notice>) {
        let disk = TestDisk::new(SimProcess::default());
        let files = Files::new(Arc::new(disk.clone()), home.path());
        let (journal, writer, notices) = Journal::open(&files, "T").unwrap();
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(stop.clone()));
        (Self { home, disk, journal, stop, writer }, notices)
    }

    /// Ends the process in order and starts it again.
    async fn again(self) -> (Self, Vec<Notice>) {
        self.stop.cancel();
        self.writer.await.unwrap().unwrap();
        Self::on(self.home)
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.home.path().join(NAME)).unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        self.journal.open_records().iter().map(|record| record.number).collect()
    }

    /// Of each open record, as [`intent`] names them.
    fn guests(&self) -> Vec<u8> {
        let number = |id: GuestId| (0..=255).find(|byte| id == GuestId::from_bytes([*byte; 16])).unwrap();
        self.journal.open_records().iter().map(|record| number(record.intent.guests[0])).collect()
    }
}

fn step(text: &str) -> Step {
    Step::new(text.into(), &json!({ "step": text })).unwrap()
}

fn intent(guest: u8, course: Course, steps: &[&str]) -> Intent {
    Intent {
        what: "a change".into(),
        guests: vec![GuestId::from_bytes([guest; 16])],
        course,
        steps: steps.iter().map(|text| step(text)).collect(),
    }
}

#[tokio::test]
async fn what_is_open_at_the_end_is_open_at_the_next_start() {
    let bench = Bench::new();
    let journal = &bench.journal;
    let first = journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
    let second = journal.begin(intent(2, Course::Back, &["b"])).await.unwrap();
    let third = journal.begin(intent(3, Course::Back, &["c"])).await.unwrap();
    let fourth = journal.begin(intent(4, Course::Forward, &["d"])).await.unwrap();
    journal.add(first, vec![step("e")]).await.unwrap();
    journal.end(third);
    journal.turn(second, Course::Forward, vec![step("f")]).await.unwrap();
    assert!(read(bench.home.path()).unwrap().iter().map(|record| record.number).eq([first, second, fourth]));
    journal.end(fourth);
    assert_eq!(bench.numbers(), [first, second]);
    assert!(journal.open_records().iter().all(|record| record.running));
    let mode = fs::metadata(bench.home.path().join(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "there are passwords in it");

    let (bench, notices) = bench.again().await;
    assert_eq!(notices, []);
    let records = bench.journal.open_records();
    assert_eq!(records[0].intent, intent(1, Course::Back, &["a", "e"]));
    assert_eq!(records[1].intent, intent(2, Course::Forward, &["f"]));
    assert!(records.iter().all(|record| !record.running && record.since.len() == 19));
    let next = bench.journal.begin(intent(5, Course::Back, &[])).await.unwrap();
    assert_eq!(bench.numbers(), [1, 2, next]);
}

/// Carried out once more at the next start, its steps could meet what was begun since.
#[tokio::test]
async fn what_is_done_and_not_told_yet_is_open_without_its_steps() {
    let bench = Bench::new();
    let number = bench.journal.begin(intent(1, Course::Forward, &["a"])).await.unwrap();
    bench.journal.done(number);
    bench.journal.begin(intent(2, Course::Back, &["b"])).await.unwrap();
    let (bench, _) = bench.again().await;
    let records = bench.journal.open_records();
    assert_eq!((records.len(), &records[0].intent), (2, &intent(1, Course::Forward, &[])));
}

#[tokio::test]
async fn only_one_takes_a_record_and_only_when_nobody_works_on_it() {
    let bench = Bench::new();
    let journal = &bench.journal;
    let number = journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
    let guest = [GuestId::from_bytes([1; 16])];
    assert!(journal.take(number).is_none() && journal.left(|_| true).is_empty());
    journal.leave(number);
    assert_eq!(journal.left(|intent| intent.guests == guest), [number]);
    assert_eq!(journal.left(|intent| intent.guests.is_empty()), [0; 0], "it is about a guest");
    assert!(journal.take(number).is_some());
    assert!(journal.take(number).is_none());
    journal.end(number);
    assert!(journal.record(number).is_none() && journal.take(number).is_none());
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_is_torn() {
    let bench = Bench::new();
    bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
    let whole = bench.content().len();
    bench.journal.begin(intent(2, Course::Back, &["b"])).await.unwrap();
    let content = bench.content();
    for length in whole..content.len() {
        let home = tempdir().unwrap();
        fs::write(home.path().join(NAME), &content[..length]).unwrap();
        let (bench, notices) = Bench::on(home);
        assert_eq!(bench.numbers(), [1], "{length}");
        let expected = if length == whole { vec![] } else { vec![Notice::JournalTail { bytes: length - whole }] };
        assert_eq!(notices, expected);
        assert_eq!(bench.content(), content[..whole], "nothing is written behind a torn line");
    }
}

#[tokio::test]
async fn damage_in_the_middle_costs_only_the_damaged_lines_and_the_file_is_kept() {
    let bench = Bench::new();
    for guest in 1..=3 {
        bench.journal.begin(intent(guest, Course::Back, &["a"])).await.unwrap();
    }
    let content = bench.content();
    let second = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in [second, second + 3, second + 20] {
        let home = tempdir().unwrap();
        let mut damaged = content.clone();
        damaged[at] ^= 0x04;
        fs::write(home.path().join(NAME), &damaged).unwrap();
        let (bench, notices) = Bench::on(home);
        assert_eq!(notices, [Notice::JournalDamaged { lines: 1, aside: "journal.data.damaged-T".into() }]);
        assert!(notices[0].is_loss());
        assert_eq!(bench.guests(), [1, 3]);
        assert_eq!(fs::read(bench.home.path().join("journal.data.damaged-T")).unwrap(), damaged);
    }
}

/// Its writer may have been told that they are durable.
#[tokio::test]
async fn whole_lines_at_the_end_that_can_not_be_read_are_kept_aside() {
    let bench = Bench::new();
    for guest in 1..=3 {
        bench.journal.begin(intent(guest, Course::Back, &["a"])).await.unwrap();
    }
    let content = bench.content();
    let ends: Vec<usize> = content.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for (damaged, lines, torn) in [(vec![2], 1, 0), (vec![1, 2], 2, 0), (vec![2], 1, 7)] {
        let home = tempdir().unwrap();
        let mut spoilt = content.clone();
        damaged.iter().for_each(|line: &usize| spoilt[ends[line - 1] + 20] ^= 0x04);
        spoilt.extend(&content[..torn]);
        fs::write(home.path().join(NAME), &spoilt).unwrap();
        let (bench, notices) = Bench::on(home);
        let tail = (torn > 0).then_some(Notice::JournalTail { bytes: torn });
        let expected: Vec<Notice> =
            [Notice::JournalDamaged { lines, aside: "journal.data.damaged-T".into() }].into_iter().chain(tail).collect();
        assert_eq!(notices, expected);
        assert_eq!(bench.guests(), (1..=3 - u8::try_from(lines).unwrap()).collect::<Vec<_>>());
        assert_eq!(fs::read(bench.home.path().join("journal.data.damaged-T")).unwrap(), spoilt);
    }
}

/// The version before this one is started on the files of a later one.
#[test]
fn records_of_a_later_format_are_left_as_they_are_and_nothing_is_opened() {
    let home = tempdir().unwrap();
    let json = r#"{"v":2,"n":1,"entry":{"sth":"new"}}"#;
    let ours = line::write(1, &line::Entry::Begin { since: "then".into(), intent: intent(1, Course::Back, &["a"]) }).unwrap();
    let content = [format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes(), ours].concat();
    fs::write(home.path().join(NAME), &content).unwrap();
    let files = Files::new(Arc::new(RealDisk), home.path());
    let error = Journal::open(&files, "T").map(drop).unwrap_err();
    assert!(matches!(error, StoreError::JournalVersion { version: 2, .. }), "{error}");
    assert!(read(home.path()).is_err());
    assert_eq!(fs::read(home.path().join(NAME)).unwrap(), content);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

/// A guest's entry holds keys of later versions, nested as deep as whoever wrote them liked.
#[tokio::test]
async fn a_step_may_be_nested_deeper_than_a_line_is_read() {
    let bench = Bench::new();
    let nested = |levels: u32| Step::new("deep".into(), &(0..levels).fold(json!(1), |inner, _| json!([inner]))).unwrap();
    let number = bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
    bench.journal.add(number, vec![nested(123), nested(500)]).await.unwrap();
    let before = bench.journal.record(number).unwrap().intent;
    // Once as it was added, and once as it was put in order.
    let (bench, first) = bench.again().await;
    let (bench, second) = bench.again().await;
    assert_eq!((first, second), (vec![], vec![]));
    assert_eq!(bench.journal.record(number).unwrap().intent, before);
}

#[tokio::test]
async fn there_is_a_number_behind_the_last_one() {
    let home = tempdir().unwrap();
    let line = |number, guest| line::write(number, &line::Entry::Begin { since: "then".into(), intent: intent(guest, Course::Back, &[]) });
    fs::write(home.path().join(NAME), [line(7, 1).unwrap(), line(u64::MAX, 2).unwrap()].concat()).unwrap();
    let (bench, notices) = Bench::on(home);
    bench.journal.begin(intent(3, Course::Back, &[])).await.unwrap();
    let (bench, later) = bench.again().await;
    assert_eq!((bench.guests(), bench.numbers()), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!((notices, later), (vec![], vec![]));
}

#[tokio::test]
async fn what_can_not_be_written_has_not_happened_and_the_next_write_is_whole() {
    for errno in [Errno::ENOSPC, Errno::EIO] {
        for first in 1..=6 {
            let bench = Bench::new();
            let kept = bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
            bench.disk.refuse(Some(Refusal { first, count: u64::MAX, errno }));
            let refused = bench.journal.begin(intent(2, Course::Back, &["b"])).await;
            let turned = bench.journal.turn(kept, Course::Forward, vec![step("c")]).await;
            assert_eq!(turned.is_err(), first <= 2, "{first}");
            let numbers: Vec<u64> = [Ok(kept), refused].into_iter().flatten().collect();
            assert_eq!(bench.numbers(), numbers, "{first}");
            bench.disk.refuse(None);
            let before = [bench.guests(), vec![3]].concat();
            bench.journal.begin(intent(3, Course::Back, &["d"])).await.unwrap();
            let (bench, notices) = bench.again().await;
            assert_eq!(notices, [], "{first}");
            assert_eq!(bench.guests(), before, "{first}");
        }
    }
}

/// The line is whole in the file when its flush fails; of two lines, the first is when the disk fills up. Dying right then leaves what is there.
#[tokio::test]
async fn what_was_refused_is_not_found_by_the_next_start_however_much_of_it_was_written() {
    for (leaves, errno, count) in [
        (Leaves::Half, Errno::ENOSPC, u64::MAX),
        (Leaves::Whole, Errno::ENOSPC, u64::MAX),
        // The cutting works, the writing anew does not.
        (Leaves::Half, Errno::EIO, 1),
        (Leaves::Whole, Errno::EIO, 1),
    ] {
        let bench = Bench::new();
        let kept = bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
        let before = bench.content();
        bench.disk.leave(leaves);
        bench.disk.refuse(Some(Refusal { first: 1, count, errno }));
        let write = |number, guest| {
            let entry = line::Entry::Begin { since: "then".into(), intent: intent(guest, Course::Forward, &["remove"]) };
            line::write(number, &entry).unwrap()
        };
        let files = Files::new(Arc::new(bench.disk.clone()), bench.home.path());
        assert!(files.append(NAME, &[write(7, 7), write(8, 8)].concat(), true).is_err());
        assert_eq!(bench.content(), before, "{leaves:?} {errno}");

        bench.disk.refuse(Some(Refusal { first: 1, count: u64::MAX, errno: Errno::ENOSPC }));
        let batch = ["b", "c"].map(|text| bench.journal.begin(intent(2, Course::Forward, &[text])));
        assert!(futures_util::future::join_all(batch).await.iter().all(Result::is_err));
        assert!(bench.journal.turn(kept, Course::Forward, vec![step("d")]).await.is_err());
        // It dies here: nothing is made up for in an orderly end.
        let Bench { home, writer, .. } = bench;
        writer.abort();
        let (bench, notices) = Bench::on(home);
        assert_eq!(notices, [], "{leaves:?} {errno}");
        let records = bench.journal.open_records();
        assert_eq!(
            records.iter().map(|record| &record.intent).collect::<Vec<_>>(),
            [&intent(1, Course::Back, &["a"])],
            "{leaves:?} {errno}"
        );
    }
}

/// Also where the rename is done and the flush of the directory fails.
#[tokio::test]
async fn a_journal_that_is_written_anew_does_not_say_what_was_refused() {
    for first in 1..=6 {
        let bench = Bench::new();
        bench.disk.leave(Leaves::Whole);
        bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
        for (first, guest) in [(1, 2), (first, 3)] {
            bench.disk.refuse(Some(Refusal { first, count: u64::MAX, errno: Errno::ENOSPC }));
            let begun = bench.journal.begin(intent(guest, Course::Forward, &["b"])).await;
            assert_eq!(begun.is_ok(), first == 6, "{first}: written beside in two, renamed, flushed, written to");
        }
        let Bench { home, writer, .. } = bench;
        writer.abort();
        let expected = if first == 6 { vec![1, 3] } else { vec![1] };
        assert_eq!(Bench::on(home).0.guests(), expected, "{first}");
    }
}

#[tokio::test]
async fn one_refusal_is_made_up_for_by_writing_it_anew() {
    let bench = Bench::new();
    let first = bench.journal.begin(intent(1, Course::Back, &["a"])).await.unwrap();
    bench.disk.refuse(Some(Refusal { first: 1, count: 1, errno: Errno::EIO }));
    let second = bench.journal.begin(intent(2, Course::Back, &["b"])).await.unwrap();
    let (bench, notices) = bench.again().await;
    assert_eq!((bench.numbers(), notices), (vec![first, second], vec![]));
}

#[tokio::test]
async fn ended_records_do_not_pile_up() {
    let bench = Bench::new();
    let open = bench.journal.begin(intent(1, Course::Back, &["stays"])).await.unwrap();
    let long = "x".repeat(4000);
    let mut largest = 0;
    for _ in 0..400 {
        let number = bench.journal.begin(intent(2, Course::Back, &[&long])).await.unwrap();
        bench.journal.end(number);
        largest = largest.max(bench.content().len());
    }
    assert!(largest > 400_000 && largest < 700_000, "{largest}");
    let (bench, notices) = bench.again().await;
    assert_eq!((bench.numbers(), notices), (vec![open], vec![]));
    assert!(bench.content().len() < 1000);
}

#[tokio::test]
async fn many_share_one_write() {
    let bench = Bench::new();
    bench.disk.refuse(None);
    let begun = (0..200).map(|_| bench.journal.begin(intent(1, Course::Back, &["a"])));
    let numbers = futures_util::future::join_all(begun).await;
    assert!(numbers.iter().all(Result::is_ok));
    assert!(bench.disk.changes() < 20, "{} writes", bench.disk.changes());
    assert_eq!(bench.numbers().len(), 200);
}

#[tokio::test]
async fn whoever_is_gone_before_its_record_is_written_leaves_it() {
    let bench = Bench::new();
    {
        let begin = bench.journal.begin(intent(1, Course::Back, &["a"]));
        tokio::pin!(begin);
        assert!(futures_util::poll!(begin.as_mut()).is_pending());
    }
    let second = bench.journal.begin(intent(2, Course::Back, &["b"])).await.unwrap();
    let running: Vec<(u64, bool)> = bench.journal.open_records().iter().map(|record| (record.number, record.running)).collect();
    assert_eq!(running, [(1, false), (second, true)]);
}

#[test]
fn there_is_nothing_in_an_empty_directory() {
    let home = tempdir().unwrap();
    assert_eq!(read(home.path()).unwrap(), []);
    let files = Files::new(Arc::new(RealDisk), home.path());
    let (journal, ..) = Journal::open(&files, "T").unwrap();
    assert!(journal.open_records().is_empty());
    assert_eq!(fs::read(home.path().join(NAME)).unwrap(), [0_u8; 0], "it is there to be appended to");
}

#[test]
fn a_step_shows_nothing_of_what_is_in_it() {
    let step = Step::new("new password".into(), &json!({ "secret": "hunter2" })).unwrap();
    assert_eq!(format!("{step:?}"), "Step(\"new password\")");
}

proptest! {
    /// Whatever the file holds, it is read without a panic, and what was read can be written and read again.
    #[test]
    fn any_content_is_read(lines in prop::collection::vec(prop_oneof![
        any::<Vec<u8>>(),
        (0_u64..5, 0_usize..4).prop_map(|(number, kind)| {
            let entry = match kind {
                0 => line::Entry::Begin { since: "then".into(), intent: intent(1, Course::Back, &["a"]) },
                1 => line::Entry::Add { steps: vec![step("b")] },
                2 => line::Entry::Turn { course: Course::Forward, steps: vec![step("c")] },
                _ => line::Entry::End,
            };
            line::write(number, &entry).unwrap()
        }),
    ], 0..20)) {
        let found = line::read(&lines.concat());
        let again = line::read(&line::write_all(&found.open).unwrap());
        prop_assert_eq!(again.open, found.open);
        prop_assert_eq!((again.damaged, again.tail), (0, 0));
    }
}
