//! libvirtd dies by SIGKILL in the middle of a request: between two of its steps, and with a call of the service in its hands. The request has one
//! answer, and when libvirtd is back host and books are as before or as after it, without a restart of the service.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Message, MessageId};
use corelet::requests::CreateGuest;
use corelet::{Event, RequestError};
use nix::sys::signal::Signal;

use crate::crash::{about, share_of_today, Stage};
use crate::lab::{eventually, PATIENCE};

const MIB: u64 = 1 << 20;

/// Of so many places one is walked by default.
const SHARE: u64 = 4;

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

/// Lets libvirtd die at places of the request that `prepare` gives; how often it did. `wanted`: whether the guest is there when it is done.
fn walk(stage: &mut Stage, death: Death, wanted: bool, prepare: impl Fn(&mut Stage) -> (GuestId, Message)) -> u64 {
    let (first, step) = share_of_today(SHARE);
    let (service, mut deaths) = (stage.cell.pid(), 0);
    for place in (first..).step_by(step) {
        let (guest, request) = prepare(stage);
        let id = request.id;
        let (mut events, mut all) = (stage.core.events(), stage.core.events());
        let Outcome { succeeded, died } = ask(stage, request, place, death);
        let at = format!("{id}, {death:?} at place {place}");
        stage.check(&at);
        let done = stage.has(guest) == wanted;
        assert!(done || !succeeded, "{at}: it was told, and is not done");
        if !wanted && done {
            stage.core.expect(&mut events, "the Core knows that it is gone", |event| event.is_deleted(guest));
        }
        if stage.has(guest) {
            stage.remove(guest);
            stage.check(&format!("{at}, guest deleted"));
        }
        assert_eq!(stage.cell.pid(), service, "{at}: the service was not restarted");
        while let Some(recorded) = all.try_next() {
            assert!(!matches!(recorded.event, Event::Ignored { .. }), "{at}: a second answer? {recorded:?}");
        }
        if !died {
            assert!(done && succeeded, "{at}");
            println!("{id}, {death:?}: {deaths} deaths");
            // Whatever it passes without orders begins the next count.
            let other = stage.guest();
            stage.remove(other);
            break;
        }
        deaths += 1;
    }
    deaths
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn libvirtd_killed_in_the_middle_of_a_request_leaves_nothing_half_done() {
    let mut stage = Stage::with(&["host"]);
    let mut deaths = 0;
    for death in [Death::BetweenCalls, Death::WithACall] {
        deaths += walk(&mut stage, death, true, |stage| {
            let blank = CreateGuest::blank(&stage.next_name(), MIB);
            let request = CreateGuest { memory: 32 * MIB, disks: vec![MIB, 2 * MIB], ..blank };
            (request.id, request.to_message())
        });
        deaths += walk(&mut stage, death, false, |stage| {
            let guest = stage.guest();
            (guest, about(MessageId::DELETE_GUEST_REQUEST, guest))
        });
    }
    println!("{deaths} deaths");
    assert!(deaths >= 4, "only {deaths}");
    let doctor = stage.cell.cli(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
}
