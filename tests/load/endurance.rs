//! Ten thousand transactions, and three days: what a node holds afterwards is what it held before.

use std::collections::BTreeMap;
use std::time::Duration;

use cell::host::sim::Operation;
use cell::host::ErrorKind;
use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use cell::txn::node::Load;
use corelet::requests::{self, CreateGuest, StopMode};
use procfs::process::Process;

use crate::domain::{id, CoreEnd, Domain};

/// What the process has of its own.
#[derive(Debug)]
struct Footprint {
    anonymous_kib: u64,
    descriptors: usize,
    threads: u64,
}

fn footprint() -> Footprint {
    let own = Process::myself().unwrap();
    let status = own.status().unwrap();
    Footprint { anonymous_kib: status.rssanon.unwrap(), descriptors: own.fd_count().unwrap(), threads: status.threads }
}

/// Growth that is the allocator's affair.
const SLACK_KIB: u64 = 1024;

/// More than that, bytes, and the journal is not written anew as it should.
const JOURNAL: u64 = 1 << 20;

const GUESTS: u32 = 40;
/// Kinds of requests; so many rounds bring a node back to where it was.
const KINDS: u32 = 20;
const ROUNDS: u32 = 13 * KINDS;
const WARM_UP: u32 = 3 * KINDS;

/// What is asked of guest `number` in a round: in the course of the rounds everything that changes a guest, and as many requests that fail.
fn request(round: u32, number: u32) -> Message {
    let guest = id(number);
    let setting = |message| Message::new(message).string(Key::Guest, guest.to_string());
    let snapshot =
        |message| Message::new(message).string(Key::Instance, guest.to_string()).string(Key::Name, "s").string(Key::Description, "");
    let passing = CreateGuest { id: passing(number), ..CreateGuest::blank(&format!("passing.guest{number}"), 1 << 20) };
    match round % KINDS {
        0 => requests::start_guest(guest, None),
        1 => requests::get_status(guest),
        2 => requests::delete_guest(guest), // runs
        3 => requests::stop_guest(guest, StopMode::Reset),
        4 => requests::stop_guest(guest, StopMode::Force),
        5 => snapshot(MessageId::CREATE_SNAPSHOT_REQUEST),
        6 => snapshot(MessageId::CREATE_SNAPSHOT_REQUEST), // is there
        7 => snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST),
        8 => snapshot(MessageId::DELETE_SNAPSHOT_REQUEST),
        9 => passing.to_message(),
        10 => CreateGuest { disks: Vec::new(), ..CreateGuest::blank(&format!("diskless.guest{number}"), 0) }.to_message(),
        11 => requests::delete_guest(passing.id),
        12 => requests::get_guest(passing.id), // gone
        13 => setting(MessageId::MODIFY_PRIORITY_REQUEST).uint(Key::Priority, u64::from(1 + round / KINDS % 2)),
        14 => setting(MessageId::MODIFY_CORE_REQUEST).uint(Key::Core, u64::from(3 + round / KINDS % 2)),
        15 => setting(MessageId::MODIFY_MEMORY_REQUEST), // no size
        16 => setting(MessageId::RESET_SECRET_REQUEST),
        17 => setting(MessageId::MODIFY_AUTO_START_REQUEST).bool(Key::Enable, round / KINDS % 2 == 0),
        18 => setting(MessageId::SHRINK_DISK_REQUEST).uint(Key::Disk, 1),
        _ => Message::new(MessageId(0x00ff_0f00)).string(Key::Instance, guest.to_string()), // unheard of
    }
}

fn passing(number: u32) -> GuestId {
    id(number + 100_000)
}

/// Asks all guests at once and waits for the answers; gives how many were successes.
async fn round(domain: &mut Domain, round: u32) -> usize {
    domain.received.clear();
    domain.arrived.clear();
    domain.answered.clear();
    // Of each round that works on the host, some fail there.
    let failing = match round % KINDS {
        7 => Some(Operation::Overlay),
        9 => Some(Operation::Define),
        13 | 14 => Some(Operation::Reconfigure),
        18 => Some(Operation::Compact),
        _ => None,
    };
    for operation in std::iter::repeat_n(failing, 4).flatten() {
        domain.sim.fail_next(operation, ErrorKind::Failed);
    }
    for number in 0..GUESTS {
        domain.ask(&request(round, number).from_session(1 + number));
    }
    let answers = |domain: &Domain| domain.received.iter().filter(|got| got.message.to != 0).count();
    let all = domain.until(Duration::from_secs(30), |domain| answers(domain) >= GUESTS as usize && domain.engine.active() == 0).await;
    assert!(all, "round {round}: {} answers", answers(domain));
    domain.sim.clear_faults();
    domain.received.iter().filter(|got| got.message.to != 0 && got.message.success).count()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_transactions_leave_nothing_behind() {
    let _turn = crate::turn().await;
    let mut domain = Domain::new(GUESTS, CoreEnd::Quick, 3).await;
    domain.with_background();
    let (mut succeeded, mut after_warm_up) = (0, None);
    let mut by_kind: BTreeMap<u32, usize> = BTreeMap::new();
    for number in 0..ROUNDS {
        if number == WARM_UP {
            after_warm_up = Some((footprint(), domain.sim.state()));
        }
        let good = round(&mut domain, number).await;
        *by_kind.entry(number % KINDS).or_default() += good;
        succeeded += good;
    }
    domain.pass(Duration::from_secs(10)).await;
    let (before, host) = after_warm_up.unwrap();
    let after = footprint();
    const { assert!(ROUNDS * GUESTS >= 10_000) };
    println!("{} transactions, {succeeded} of them successes; {before:?}, then {after:?}", ROUNDS * GUESTS);
    // The faults and the requests that can't be carried out failed, the rest did not.
    let failing = [2, 6, 10, 12, 15, 19];
    for (kind, good) in &by_kind {
        let possible = (ROUNDS / KINDS * GUESTS) as usize;
        assert_eq!(failing.contains(kind), *good == 0, "kind {kind}: {good} of about {possible} succeeded");
    }
    assert_eq!(domain.engine.active(), 0);
    assert_eq!(domain.node.load(), Load::default(), "something is held although nothing runs");
    assert_eq!(domain.node.books.lock().guests.len(), GUESTS as usize);
    assert_eq!(domain.sim.state().directories, host.directories, "volumes");
    assert_eq!(domain.sim.state().domains.len(), GUESTS as usize);
    assert!(after.anonymous_kib <= before.anonymous_kib + SLACK_KIB, "memory grew: {before:?}, then {after:?}");
    assert!(after.descriptors <= before.descriptors, "descriptors: {before:?}, then {after:?}");
    assert!(after.threads <= before.threads + 1, "threads: {before:?}, then {after:?}");
    assert_eq!(domain.troubles, [""; 0]);
    assert_eq!(domain.node.store.journal().open_records(), []);
    let journal = std::fs::metadata(domain.directory().join("journal.data")).unwrap().len();
    assert!(journal < JOURNAL, "the journal has {journal} bytes");
    let files = std::fs::read_dir(domain.directory()).unwrap().count();
    assert_eq!(files, 7, "the three data files, their last good copies and the journal");
}

/// Length of all that both ends of the connection hold, written out.
fn state_size(domain: &Domain) -> usize {
    format!("{:?}{:?}", domain.member, domain.hub).len()
}

#[tokio::test(start_paused = true)]
async fn three_days_leave_no_trace() {
    let _turn = crate::turn().await;
    let mut domain = Domain::new(10, CoreEnd::Real, 5).await;
    domain.with_background();
    for number in 0..5 {
        domain.sim.set_power_behind(id(number), true);
    }
    domain.loss = 1;
    let report =
        Message::new(MessageId::CELL_STATUS_REPORT_EVENT).uint(Key::Core, 2).float(Key::Usage, 12.5).uints(Key::Speed, [0, 1, 2, 3]);
    let mut before = None;
    // As rarely as the Core takes for the least; the keep-alives go beside them.
    const REPORTS_AN_HOUR: usize = 360;
    let mut reports = 0;
    for hour in 0..72 {
        for _ in 0..REPORTS_AN_HOUR {
            domain.node.outbox.send(None, report.clone());
            domain.pass(Duration::from_secs(10)).await;
        }
        // somebody looks at a guest once an hour
        domain.ask(&requests::get_status(id(hour % 10)).from_session(1 + hour));
        domain.pass(Duration::from_secs(30)).await;
        assert_eq!(domain.received.iter().filter(|got| got.message.to == 1 + hour).count(), 1);
        reports += domain.received.iter().filter(|got| got.message.id == MessageId::CELL_STATUS_REPORT_EVENT).count();
        domain.received.clear();
        if hour == 5 {
            before = Some((footprint(), state_size(&domain)));
        }
    }
    let (before, size) = before.unwrap();
    let (after, now) = (footprint(), state_size(&domain));
    println!("72 h, {reports} reports: {before:?} and {size} bytes of state, then {after:?} and {now}");
    assert_eq!(reports, 72 * REPORTS_AN_HOUR, "every report arrived");
    assert!(now <= size * 2, "the connection's state grew from {size} to {now} bytes");
    assert!(after.anonymous_kib <= before.anonymous_kib + SLACK_KIB, "memory grew: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(domain.engine.active(), 0);
    let load = domain.node.load();
    assert_eq!((load.jobs, load.waiting, load.transfers), (0, 0, 0));
    assert!(load.watched <= 5, "figures are kept of running guests only: {load:?}");
    assert_eq!(domain.troubles, [""; 0]);
    assert!(domain.longest_silence < Duration::from_secs(9));
}
