//! Changes of the disks of guests that libvirt starts with the host: the process dies at every point, and before it is started again the host loses its power
//! and libvirt starts what it is to start, or somebody starts the guest by hand. All is as before or as after the request then, and nothing that
//! a guest wrote meanwhile is lost while it runs.

use super::scenarios::{Build, SCENARIOS};
use super::state::{check_consistent, View};
use super::{revive, Stage};
use crate::model::{GuestId, PowerState};
use crate::proto::message::Key;
use crate::store::DataFile;
use crate::txn::testing::{start_request, Rig};

/// The block that guests write to when they come up, and what they write.
const BLOCK: u64 = 30;

/// Changes of the disks of a guest that is there already.
const CHANGES: [&str; 8] = [
    "grow",
    "shrink",
    "snapshot",
    "restore",
    "delete a leaf",
    "delete and merge the current disks",
    "delete and merge a snapshot",
    "reset",
];

fn all() -> bool {
    std::env::var_os("CELL_TEST_ALL_CRASHES").is_some()
}

fn build_of(name: &str) -> Build {
    SCENARIOS.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Its guests, also one that it is about to make, start with the host.
async fn stage(name: &str) -> Stage {
    let mut stage = build_of(name)().await;
    if name == "create" || name == "clone" {
        stage.request = stage.request.bool(Key::Option, true);
    }
    let rig = &stage.rig;
    for id in rig.sim.state().domains.keys() {
        rig.node.books.lock().update(*id, |config| config.auto_start = true).unwrap();
        rig.sim.host().hypervisor.set_autostart(*id, true).await.unwrap();
    }
    rig.node.save(&DataFile::ALL).await.unwrap();
    stage
}

/// Paths of the disks that running guests use.
fn used(rig: &Rig) -> Vec<(GuestId, String)> {
    let state = rig.sim.state();
    let running = state.domains.iter().filter_map(|(id, domain)| Some((*id, domain.live.as_ref()?)));
    let disks = running.flat_map(|(id, live)| {
        let directory = &state.pools[&live.storage_pool].target;
        live.storage_volumes.iter().map(move |name| (id, format!("{directory}/{name}")))
    });
    disks.collect()
}

fn write(rig: &Rig) {
    used(rig).iter().for_each(|(_, path)| rig.sim.write_block(path, BLOCK, BLOCK));
}

/// What the guests wrote that ran already is what they read.
fn check_written(rig: &Rig, written: &[(GuestId, String)], at: &str) {
    for (guest, path) in written {
        assert_eq!(rig.sim.read_block(path, BLOCK), Some(BLOCK), "{at}: what {guest} wrote to {path}");
    }
}

/// The host has lost its power and is back, and guests run.
fn cut(rig: &Rig, boot: &str) -> Vec<(GuestId, String)> {
    rig.sim.lose_power(boot);
    write(rig);
    used(rig)
}

/// What there is when all guests have come up and written.
fn view(stage: &Stage, at: &str) -> View {
    check_consistent(&stage.rig, at);
    let records = stage.rig.node.store.journal().open_records();
    assert!(records.is_empty(), "{at}: {records:?}");
    let state = stage.rig.sim.state();
    assert!(state.domains.values().all(|domain| domain.autostart && domain.power == PowerState::Running), "{at}: all guests run");
    write(&stage.rig);
    stage.view(false)
}

async fn reference(name: &str, plays: bool) -> (View, u64) {
    let mut stage = stage(name).await;
    let begun = stage.rig.sim.process().points();
    if plays {
        assert!(stage.play().await, "{name}");
    }
    let points = stage.rig.sim.process().points() - begun;
    cut(&stage.rig, "second boot");
    let (stage, _) = stage.reboot(None).await;
    (view(&stage, name), points)
}

/// `then`: the first start after the power cut dies as well, at that point, and the power is cut once more.
async fn cuts(name: &str, step: usize, then: Option<u64>) -> u64 {
    let ((before, _), (after, points)) = (reference(name, false).await, reference(name, true).await);
    let (mut walked, mut undone, mut done) = (0, 0, 0);
    for point in (1..=points).step_by(step) {
        let at = format!("{name}, power lost at point {point} of {points}, then {then:?}");
        let mut stage = stage(name).await;
        stage.rig.sim.process().die_at(point);
        let told = stage.play().await;
        let written = cut(&stage.rig, "second boot");
        let Stage { rig, request, told_by, .. } = stage;
        let rig = match rig.reboot(then).await {
            Ok(rig) => rig,
            Err(remains) => {
                remains.sim.lose_power("third boot");
                revive(remains).await
            }
        };
        check_written(&rig, &written, &at);
        let stage = Stage { told_by, ..Stage::new(rig, request) };
        let found = view(&stage, &at);
        if found == before && !told {
            undone += 1;
        } else {
            let differences = found.differences(&before);
            found.check(
                &after,
                &format!("{at}: (told: {told}) neither as after nor as before, from which it differs: {differences}\nafter:"),
            );
            done += 1;
        }
        walked += 1;
    }
    // A guest sees no difference after its disk has shrunk.
    assert!(before == after || undone > 0 && done > 0, "{name}: {undone} undone, {done} done");
    walked
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_every_point() {
    let mut walked = 0;
    for name in CHANGES.into_iter().chain(["create", "clone"]) {
        walked += cuts(name, if all() { 1 } else { 2 }, None).await;
    }
    println!("{walked} points");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_while_a_power_cut_is_cleaned_up() {
    let mut walked = 0;
    for name in ["restore", "delete and merge the current disks", "reset"] {
        for then in (1..40).step_by(if all() { 3 } else { 13 }) {
            walked += cuts(name, if all() { 2 } else { 7 }, Some(then)).await;
        }
    }
    println!("{walked} points");
}

/// libvirt does not start it, but somebody does, before the service can look after its disks: nothing is touched that it runs on.
#[tokio::test(start_paused = true)]
async fn a_guest_that_is_started_by_hand_at_every_point() {
    let (mut walked, mut left) = (0, 0);
    for name in CHANGES {
        let (_, points) = reference(name, true).await;
        for point in (1..=points).step_by(if all() { 1 } else { 3 }) {
            let at = format!("{name}, dead at point {point} of {points}, and the guest is started");
            let mut stage = stage(name).await;
            let guest = *stage.rig.sim.state().domains.keys().next().unwrap();
            stage.rig.sim.process().die_at(point);
            stage.play().await;
            stage.rig.sim.set_power_behind(guest, true);
            write(&stage.rig);
            let (written, images) = (used(&stage.rig), stage.rig.sim.state().contents);
            let (mut stage, _) = stage.reboot(None).await;
            check_written(&stage.rig, &written, &at);
            assert_eq!(stage.rig.sim.state().contents, images, "{at}: its system is the one that it was started with");
            if !stage.rig.node.store.journal().open_records().is_empty() {
                let answer = stage.rig.ask(stage.request.clone()).await;
                assert!(!answer.success, "{at}");
                check_written(&stage.rig, &written, &at);
                left += 1;
            }
            stage.rig.settle().await;
            stage.rig.sim.set_power_behind(guest, false);
            stage.rig.take_host_events().await;
            let answer = stage.rig.ask(start_request(guest)).await;
            assert!(answer.success, "{at}: {}", answer.error);
            stage.rig.take_host_events().await;
            view(&stage, &at);
            walked += 1;
        }
    }
    assert!(left > 0, "some could not be taken back while the guest ran");
    println!("{walked} points, {left} left while the guest ran");
}
