//! The domain: who finds whom, over a network as bad as networks get.

use corelet::requests::StopMode;
use corelet::Event;

use crate::lab::{eventually, Cell, Lab, TestCore, PATIENCE};

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn no_transaction_fails_while_a_fifth_of_the_packets_is_lost_each_way() {
    let lab = Lab::up(1);
    lab.cell(1).loss(20);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let name = cell.name();
    for round in 0..5 {
        let guest = core.bootable_guest(&cell, &format!("domain.loss{round}"));
        core.boot(&cell, guest);
        for _ in 0..20 {
            assert!(core.wait(core.get_status(&name, guest)).unwrap().running);
        }
        core.halt(&cell, guest, if round % 2 == 0 { StopMode::Graceful } else { StopMode::Force });
        core.remove(&cell, guest);
    }
    let left = |event: &Event| matches!(event, Event::CellLeft { .. } | Event::CellLost { .. });
    let mut all = core.all_events();
    while let Some(recorded) = all.try_next() {
        assert!(!left(&recorded.event), "the connection broke: {:?}", recorded.event);
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_core_of_another_domain_is_left_alone() {
    let lab = Lab::up(1);
    let stranger = TestCore::of_domain(&lab, "other");
    let cell = Cell::started(lab.cell(1), "nano");
    let core = TestCore::start(&lab);
    core.joined(&cell);
    assert!(stranger.cells().is_empty(), "it joined a Core of another domain");
    assert!(stranger.all_events().try_next().is_none(), "it spoke to a Core of another domain");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn two_cells_share_a_domain() {
    let lab = Lab::up(2);
    let core = TestCore::start(&lab);
    let cells = [1, 2].map(|number| Cell::started(lab.cell(number), "nano"));
    for cell in &cells {
        core.joined(cell);
    }
    assert_ne!(cells[0].name(), cells[1].name());
    let guests = cells.each_ref().map(|cell| core.bootable_guest(cell, &format!("domain.{}", cell.name().to_lowercase())));
    for (cell, guest) in cells.iter().zip(guests) {
        core.boot(cell, guest);
    }
    for (cell, guest) in cells.iter().zip([guests[1], guests[0]]) {
        assert!(core.wait(core.get_status(&cell.name(), guest)).is_err(), "a Cell answers for the other's guest");
    }
    // one goes; the other doesn't care
    cells[0].kill();
    assert!(core.running(&cells[1], guests[1]).unwrap());
    core.halt(&cells[1], guests[1], StopMode::Graceful);
    cells[0].start();
    eventually("the first is back", PATIENCE, || core.says(&cells[0], guests[0], true));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_cable_pulled_and_put_back_costs_no_more_than_the_time_it_was_out() {
    let lab = Lab::up(1);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.bootable_guest(&cell, "domain.cable");
    let mut events = core.events();
    lab.cell(1).link("down");
    core.expect(&mut events, "the Core misses it", |event| matches!(event, Event::CellLost { .. } | Event::CellLeft { .. }));
    lab.cell(1).link("up");
    eventually("the Core can use it again", PATIENCE, || core.says(&cell, guest, false));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn strangers_and_garbage_do_not_end_the_connection() {
    let lab = Lab::up(2);
    let core = TestCore::start(&lab);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.blank_guest(&cell, "domain.garbage");
    let port = core.cell(&cell.name()).unwrap().address.port();
    let mut events = core.events();

    // a stranger in the same network who answers for the Core, and who throws anything at the open ports
    let echo =
        r#"{"type":1,"id":7,"requestor":"10.226.0.2","services":[{"type":"core","protocol":"kcp","address":"10.226.0.3","port":5600}]}"#;
    let script = format!(
        "for i in {{1..200}}; do
           printf '%s' '{echo}' >/dev/udp/224.0.0.226/5598
           printf '{{\"type\":1,\"services\":null' >/dev/udp/224.0.0.226/5598
           head -c $((RANDOM % 1400 + 1)) /dev/urandom >/dev/udp/10.226.0.2/{port}
           head -c $((RANDOM % 1400 + 1)) /dev/urandom >/dev/udp/10.226.0.1/5600
           printf '\\x00\\x00\\x00\\x00\\xf1\\x00\\xff\\xff' >/dev/udp/10.226.0.1/5600
         done 2>/dev/null; true"
    );
    let stranger = lab.cell(2);
    stranger.run("bash", &["-c", &script]);
    for _ in 0..20 {
        assert!(!core.running(&cell, guest).unwrap());
    }
    while let Some(recorded) = events.try_next() {
        let broken = matches!(recorded.event, Event::CellLost { .. } | Event::CellLeft { .. } | Event::CellConnected { .. });
        assert!(!broken, "the connection was disturbed: {:?}", recorded.event);
    }
    let warnings = cell.file("log/cell.log").lines().filter(|line| line.contains(" WARN ")).count();
    assert!(warnings < 50, "what a stranger can cause is limited in the log, but there are {warnings} warnings");
}
