//! libvirtd dies by SIGKILL in the middle of a request: between two of its steps, and with a call of the service in its hands. The request has one
//! answer, and when libvirtd is back host and books are as before or as after it, without a restart of the service.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::CreateGuest;
use corelet::{Event, RequestError};
use nix::sys::signal::Signal;

use crate::crash::{about, disk, has_snapshot, reset, share_of_today, snapshot, Act, Stage};
use crate::images::image_server;
use crate::lab::{eventually, PATIENCE};

const MIB: u64 = 1 << 20;

/// Of so many places one is walked by default.
const SHARE: u64 = 4;

/// Of a request with many places, or that hardly needs libvirt.
const RARE: u64 = 16;

/// Of restarts of both.
const SLOW: u64 = 6;

/// How libvirtd dies while the service stands at a place.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Before the service goes on.
    BetweenCalls,
    /// When the service has sent it a call that it has not read.
    WithACall,
}

/// What became of a request.
struct Outcome {
    succeeded: bool,
    /// The request has so many places that libvirtd died.
    died: bool,
}

/// Asks, and lets libvirtd die when the service comes to the `place`th place. libvirtd is back when this returns.
fn ask(stage: &Stage, request: Message, place: u64, death: Death) -> Outcome {
    let (host, name, service) = (stage.cell.host(), stage.cell.name(), stage.cell.pid());
    std::fs::write(&stage.doom, format!("stop {place}")).unwrap();
    let outcome = stage.core.wait(async {
        let answer = stage.core.request(&name, request);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            early = &mut answer => return Outcome { succeeded: is_success(early), died: false },
            () = until(|| host.is_stopped(service)) => {}
        }
        if matches!(death, Death::BetweenCalls) {
            host.libvirtd("kill");
            host.signal(service, Signal::SIGCONT);
            return Outcome { succeeded: is_success(answer.await), died: true };
        }
        host.signal(host.libvirtd_pid(), Signal::SIGSTOP);
        host.signal(service, Signal::SIGCONT);
        let early = tokio::select! {
            biased;
            early = &mut answer => Some(early),
            () = until(|| host.libvirtd_is_awaited()) => None,
        };
        host.libvirtd("kill");
        let answer = match early {
            Some(early) => early,
            None => answer.await,
        };
        Outcome { succeeded: is_success(answer), died: true }
    });
    let _ = std::fs::remove_file(&stage.doom);
    if !outcome.died {
        eventually("the transaction is over", PATIENCE, || stage.is_idle() || host.is_stopped(service));
    }
    if host.is_stopped(service) {
        // The place was one of what follows the answer.
        host.signal(service, Signal::SIGCONT);
    }
    host.libvirtd("start");
    outcome
}

/// Whether it has succeeded; it must have been answered.
fn is_success(answer: Result<Message, RequestError>) -> bool {
    assert!(!matches!(answer, Err(RequestError::Timeout { .. })), "every request gets an answer");
    answer.is_ok()
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What becomes of the guest of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// Each place has one of its own.
    Own,
    /// All places have the same.
    Kept,
}

/// Lets libvirtd die at one in `share` places of the request that `prepare` gives; how often it did.
fn walk(stage: &mut Stage, death: Death, share: u64, kind: Guest, prepare: impl Fn(&mut Stage) -> (GuestId, Act)) -> u64 {
    let (first, step) = share_of_today(share);
    let (service, mut deaths) = (stage.cell.pid(), 0);
    for place in (first..).step_by(step) {
        let (guest, Act { name, request, binding, done }) = prepare(stage);
        let (mut events, mut all) = (stage.core.events(), stage.core.events());
        let Outcome { succeeded, died } = ask(stage, request, place, death);
        let at = format!("{name}, {death:?} at place {place}");
        stage.check(&at);
        let is_done = done(stage);
        assert!(is_done || !succeeded || !binding, "{at}: it was told, and is not done");
        if name == "delete" && is_done {
            stage.core.expect(&mut events, "the Core knows that it is gone", |event| event.is_deleted(guest));
        }
        if kind == Guest::Own && stage.has(guest) {
            stage.remove(guest);
            stage.check(&format!("{at}, guest deleted"));
        }
        assert_eq!(stage.cell.pid(), service, "{at}: the service was not restarted");
        while let Some(recorded) = all.try_next() {
            let is_second = matches!(&recorded.event, Event::Ignored { reason, .. } if reason.contains("nobody waits"));
            assert!(!is_second, "{at}: a second answer? {recorded:?}");
        }
        if !died {
            assert!(is_done, "{at}");
            println!("{name}, {death:?}: {deaths} deaths");
            // Whatever it passes without orders begins the next count.
            let other = stage.guest();
            stage.remove(other);
            break;
        }
        deaths += 1;
    }
    deaths
}

fn create(stage: &mut Stage) -> (GuestId, Act) {
    let blank = CreateGuest::blank(&stage.next_name(), MIB);
    let request = CreateGuest { memory: 32 * MIB, disks: vec![MIB, 2 * MIB], ..blank };
    let guest = request.id;
    (guest, Act::new("create", request.to_message(), move |stage| stage.has(guest)))
}

fn delete(stage: &mut Stage) -> (GuestId, Act) {
    let guest = stage.guest();
    (guest, Act::new("delete", about(MessageId::DELETE_GUEST_REQUEST, guest), move |stage| !stage.has(guest)))
}

/// The system disk grows by one mebibyte.
fn grow(stage: &Stage, guest: GuestId) -> Act {
    let size = move |stage: &Stage| {
        let all = stage.book("instance.data")["instances"].clone();
        let all = all.as_array().unwrap();
        all.iter().find(|one| one["id"] == guest.to_string()).and_then(|one| one["disks"][0].as_u64()).unwrap()
    };
    let wanted = size(stage) + MIB;
    let request = disk(MessageId::RESIZE_DISK_REQUEST, guest).uint(Key::Size, wanted);
    Act::new("resize", request, move |stage| size(stage) == wanted)
}

/// A stopped guest with the snapshots a and b.
fn with_snapshots(stage: &mut Stage) -> GuestId {
    let guest = stage.guest();
    for name in ["a", "b"] {
        stage.done(snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, name));
    }
    guest
}

/// Where the local pool is: by the books and by libvirt, which must agree.
fn pool_target(stage: &Stage, at: &str) -> String {
    eventually("the journal is empty", PATIENCE, || stage.is_idle());
    let book = stage.book("storage.data")["pools"]["local0"]["target"].as_str().unwrap().to_owned();
    let document = stage.cell.host().virsh(&["pool-dumpxml", "local0"]);
    assert!(document.contains(&format!("<path>{book}</path>")), "{at}: {book} in the books, and {document}");
    let info = stage.cell.host().virsh(&["pool-info", "local0"]);
    assert!(info.contains("running"), "{at}: {info}");
    book
}

/// The root that the local pool is to move to: the one of two where it is not.
fn other_root(stage: &Stage) -> (Message, String) {
    let roots = ["/var/lib/libvirt/images", "/var/lib/libvirt/moved"];
    let root = if pool_target(stage, "before").starts_with(roots[0]) { roots[1] } else { roots[0] };
    (Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, root), format!("{root}/local0"))
}

/// Lets libvirtd die while the pool of new guests is moved; how often it did. The pool is where it was in the end.
fn walk_pools(stage: &mut Stage, death: Death) -> u64 {
    let (first, step) = share_of_today(SHARE);
    let (service, mut deaths) = (stage.cell.pid(), 0);
    for place in (first..).step_by(step) {
        let before = pool_target(stage, "before");
        let (request, wanted) = other_root(stage);
        let Outcome { succeeded, died } = ask(stage, request, place, death);
        let at = format!("storage path, {death:?} at place {place}");
        let target = pool_target(stage, &at);
        assert!(target == wanted || (target == before && !succeeded), "{at}: it is at {target}, told: {succeeded}");
        assert_eq!(stage.cell.pid(), service, "{at}: the service was not restarted");
        // Guests can be made there.
        let guest = stage.guest();
        stage.remove(guest);
        if !died {
            assert!(succeeded, "{at}");
            println!("storage path, {death:?}: {deaths} deaths");
            break;
        }
        deaths += 1;
    }
    if !pool_target(stage, "at the end").starts_with("/var/lib/libvirt/images/") {
        let (request, _) = other_root(stage);
        stage.done(request);
    }
    deaths
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn libvirtd_killed_in_the_middle_of_a_request_leaves_nothing_half_done() {
    let mut stage = Stage::with(&["host"]);
    let mut deaths = 0;
    for death in [Death::BetweenCalls, Death::WithACall] {
        deaths += walk_pools(&mut stage, death);
        deaths += walk(&mut stage, death, SHARE, Guest::Own, create);
        deaths += walk(&mut stage, death, SHARE, Guest::Own, delete);
    }
    println!("{deaths} deaths");
    assert!(deaths >= 4, "only {deaths}");
    let doctor = stage.cell.cli(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn libvirtd_killed_while_disks_are_changed_leaves_nothing_half_done() {
    let mut stage = Stage::with(&["host"]);
    let (_server, _directory) = image_server(&stage.core);
    let size = stage.make_image();
    let running = stage.guest();
    stage.core.wait(stage.core.start_guest(&stage.cell.name(), running)).unwrap();
    let mut deaths = 0;
    for death in [Death::BetweenCalls, Death::WithACall] {
        deaths += walk(&mut stage, death, SHARE, Guest::Kept, |stage| {
            (running, Act { name: "resize of a running guest", ..grow(stage, running) })
        });
        deaths += walk(&mut stage, death, RARE, Guest::Kept, |stage| {
            let name: &'static str = stage.next_name().leak();
            let request = snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, running, name);
            (running, Act::new("snapshot of a running guest", request, has_snapshot(running, name, true)))
        });
    }
    // These have little to do with libvirt.
    let death = Death::BetweenCalls;
    deaths += walk(&mut stage, death, RARE, Guest::Own, |stage| {
        let guest = stage.guest();
        (guest, grow(stage, guest))
    });
    deaths += walk(&mut stage, death, RARE, Guest::Own, |stage| {
        let guest = stage.guest();
        let request = snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("snapshot", request, has_snapshot(guest, "a", true)))
    });
    deaths += walk(&mut stage, death, RARE, Guest::Own, |stage| {
        let guest = with_snapshots(stage);
        let request = snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("restore", request, move |stage| stage.group(guest)["active_snapshot"] == "a"))
    });
    deaths += walk(&mut stage, death, RARE, Guest::Own, |stage| {
        let guest = with_snapshots(stage);
        let request = snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, guest, "a");
        (guest, Act::new("delete of a snapshot", request, has_snapshot(guest, "a", false)))
    });
    deaths += walk(&mut stage, death, RARE, Guest::Own, |stage| {
        let guest = stage.guest();
        (guest, reset(guest, size))
    });
    println!("{deaths} deaths");
    // Some requests have fewer places than the one at which the walks begin on some days.
    assert!(deaths >= 2 || share_of_today(RARE).0 > 3, "only {deaths}");
    assert!(stage.core.running(&stage.cell, running).unwrap(), "the running guest runs on");
    let doctor = stage.cell.cli(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
}

/// Asks, lets libvirtd die at this place, and the service as well: at once, or when it has given its answer. `service_first`: it is started before libvirtd.
/// None when the request has no such place; else whether a success was told.
fn ask_both(stage: &Stage, request: Message, place: u64, after_answer: bool, service_first: bool) -> Option<bool> {
    let (host, name, service) = (stage.cell.host(), stage.cell.name(), stage.cell.pid());
    std::fs::write(&stage.doom, format!("stop {place}")).unwrap();
    let told = stage.core.wait(async {
        let answer = stage.core.request(&name, request);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            _ = &mut answer => return None,
            () = until(|| host.is_stopped(service)) => {}
        }
        host.libvirtd("kill");
        if !after_answer {
            return Some(false);
        }
        host.signal(service, Signal::SIGCONT);
        Some(is_success(answer.await))
    });
    let _ = std::fs::remove_file(&stage.doom);
    if told.is_none() {
        eventually("the transaction is over", PATIENCE, || stage.is_idle() || host.is_stopped(service));
        if host.is_stopped(service) {
            host.signal(service, Signal::SIGCONT);
        }
        return None;
    }
    stage.cell.kill();
    if service_first {
        let refused = stage.cell.cli(&["start"]);
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && why.contains("libvirt"), "{refused:?}");
    }
    host.libvirtd("start");
    stage.start();
    told
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn service_and_libvirtd_killed_together_leave_nothing_half_done() {
    let mut stage = Stage::with(&["host"]);
    let (first, step) = share_of_today(SLOW);
    let mut deaths = 0;
    for (number, prepare) in [create, delete].into_iter().enumerate() {
        for place in (first..).step_by(step) {
            let (guest, Act { name, request, done, .. }) = prepare(&mut stage);
            let (after_answer, service_first) = ((deaths + number) % 2 == 0, (deaths / 2) % 2 == 0);
            let told = ask_both(&stage, request, place, after_answer, service_first);
            let at = format!("{name}, place {place}, after the answer: {after_answer}, service first: {service_first}");
            stage.check(&at);
            assert!(done(&stage) || told == Some(false), "{at}: it was told, and is not done");
            if stage.has(guest) {
                stage.remove(guest);
                stage.check(&format!("{at}, guest deleted"));
            }
            if told.is_none() {
                let other = stage.guest();
                stage.remove(other);
                break;
            }
            deaths += 1;
        }
    }
    println!("{deaths} deaths");
    assert!(deaths >= 1, "only {deaths}");
    let doctor = stage.cell.cli(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
}
