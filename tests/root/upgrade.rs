//! A new program in the place of the old one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cell::model::GuestId;
use corelet::requests::StopMode;
use corelet::{Core, Event};

use crate::lab::{Cell, Lab, TestCore};

/// Answers after the restart that show that all is as before.
const ENOUGH: usize = 20;

/// Asks for the guest's state as fast as it is answered, until the restart is over and some more answers came; gives the longest pause between two
/// answers.
async fn longest_pause(core: &Core, cell: &str, guest: GuestId, over: &AtomicBool) -> Duration {
    let (mut longest, mut last, mut answers_since) = (Duration::ZERO, Instant::now(), 0);
    while answers_since < ENOUGH {
        match core.get_status(cell, guest).await {
            Ok(status) => {
                assert!(status.running, "the guest does not run any more");
                longest = longest.max(last.elapsed());
                last = Instant::now();
                answers_since += usize::from(over.load(Ordering::Acquire));
            }
            // Not there at the moment: the Core says so at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
        assert!(last.elapsed() < Duration::from_secs(30), "no answer any more");
    }
    longest
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn an_upgrade_in_place_is_no_failover_and_no_guest_notices() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let mut cell = Cell::install(lab.cell(1), "nano");
    cell.replace_program();
    cell.start();
    core.joined(&cell);
    let guests = [core.bootable_guest(&cell, "upgrade.one"), core.bootable_guest(&cell, "upgrade.two")];
    let stopped = core.blank_guest(&cell, "upgrade.three");
    let name = cell.name();
    let mut before = Vec::new();
    for guest in guests {
        core.boot(&cell, guest);
        let domain = core.wait(core.get_guest(&name, guest)).unwrap().name;
        before.push((guest, cell.host().qemu_pid(&domain), domain));
    }

    for round in 1..=3 {
        let (service, mut events) = (cell.pid(), core.events());
        cell.replace_program();
        assert!(!cell.runs_its_program(), "the old one runs until it is restarted");
        let over = AtomicBool::new(false);
        let pause = std::thread::scope(|scope| {
            scope.spawn(|| {
                let restarted = cell.cli(&["restart"]);
                over.store(true, Ordering::Release);
                assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
            });
            core.wait(longest_pause(&core, &name, guests[0], &over))
        });
        println!("upgrade {round}: {pause:?} without an answer");
        assert_ne!(cell.pid(), service);
        assert!(cell.runs_its_program());

        // What the Core saw: a Cell that said goodbye and came back with everything; never one that was lost, which would be a failover.
        let mut left = 0;
        while let Some(recorded) = events.try_next() {
            match recorded.event {
                Event::CellLeft { graceful: true, .. } => left += 1,
                Event::CellReady { guests, .. } => assert_eq!(guests, 3),
                Event::CellLost { .. } | Event::CellLeft { .. } | Event::CellRefused { .. } | Event::CellSwallowed { .. } => {
                    panic!("{:?}", recorded.event)
                }
                Event::GuestStopped { .. } | Event::GuestStarted { .. } => panic!("a guest noticed: {:?}", recorded.event),
                _ => {}
            }
        }
        assert!(left <= 1, "it left {left} times");
        for (guest, qemu, domain) in &before {
            assert_eq!(cell.host().qemu_pid(domain), *qemu, "the guest was touched");
            assert_eq!(cell.boots(*guest), 1);
            assert!(core.guest(&name, *guest).unwrap().running);
        }
        assert!(!core.guest(&name, stopped).unwrap().running);
    }
    core.halt(&cell, guests[0], StopMode::Graceful);
    core.remove(&cell, guests[0]);
}
