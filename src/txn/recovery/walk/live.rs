//! The deletion of a snapshot from beneath a running guest: the process dies at every point of it, and until it is started again the guest runs on, ends, or
//! its host loses its power. After the first start the deletion is as if it had never been begun, or done; no content is lost either way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::sleep;

use super::scenarios::{snapshot, with_tree};
use super::state::check_consistent;
use super::{revive, Stage};
use crate::model::{GuestId, PowerState};
use crate::proto::message::MessageId;
use crate::txn::testing::Rig;

/// How long QEMU takes for each disk.
const MERGE: Duration = Duration::from_millis(400);

/// Blocks that the tree's images differ in.
const BLOCKS: std::ops::Range<u64> = 0..10;

/// What happens while nobody looks after the host.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// Nothing: the service is back at once.
    Nothing,
    /// QEMU comes to the end of what it does.
    QemuGoesOn,
    /// The guest ends at once.
    GuestEnds,
    /// The guest ends a little later.
    GuestEndsLater,
    /// The host loses its power at once.
    PowerCut,
    /// The host loses its power when QEMU has come to the end.
    PowerCutLater,
}

const ALL: [Meanwhile; 6] = [
    Meanwhile::Nothing,
    Meanwhile::QemuGoesOn,
    Meanwhile::GuestEnds,
    Meanwhile::GuestEndsLater,
    Meanwhile::PowerCut,
    Meanwhile::PowerCutLater,
];

impl Meanwhile {
    async fn happen(self, rig: &Rig, guest: GuestId) {
        match self {
            Self::Nothing => {}
            Self::QemuGoesOn => sleep(MERGE * 2).await,
            Self::GuestEnds => rig.sim.set_power_behind(guest, false),
            Self::GuestEndsLater => {
                sleep(MERGE / 3).await;
                rig.sim.set_power_behind(guest, false);
            }
            Self::PowerCut => rig.sim.lose_power("second boot"),
            Self::PowerCutLater => {
                sleep(MERGE * 2).await;
                rig.sim.lose_power("second boot");
            }
        }
    }

    fn guest_runs(self) -> bool {
        matches!(self, Self::Nothing | Self::QemuGoesOn)
    }
}

/// What each image shows: by snapshot ("" for the current disks) and number of the disk.
type Contents = BTreeMap<(String, usize), Vec<Option<u64>>>;

fn contents(rig: &Rig, guest: GuestId) -> Contents {
    let group = rig.node.books.lock().storage.groups[&guest].clone();
    let shown = |file: &str| BLOCKS.map(|block| rig.sim.read_block(file, block)).collect::<Vec<_>>();
    let mut contents = Contents::new();
    for (number, volume) in group.volumes().enumerate() {
        contents.insert((String::new(), number), shown(volume.file()));
        for snapshot in group.snapshots.values() {
            contents.insert((snapshot.name.clone(), number), shown(&snapshot.files[&volume.name]));
        }
    }
    contents
}

/// Each image is based on the one that the books say, and none is marked as half merged.
fn check_chains(rig: &Rig, guest: GuestId, at: &str) {
    let (group, layers) = (rig.node.books.lock().storage.groups[&guest].clone(), rig.sim.state().layers);
    assert!(layers.values().all(|layer| layer.before.is_none()), "{at}: half merged");
    let backing = |file: &str| layers.get(file).and_then(|layer| layer.backing.clone());
    for volume in group.volumes() {
        let file = |name: &str| group.snapshots.get(name).map(|snapshot| snapshot.files[&volume.name].clone());
        assert_eq!(backing(volume.file()), file(&group.active_snapshot), "{at}: below the current disk");
        for snapshot in group.snapshots.values() {
            assert_eq!(backing(&snapshot.files[&volume.name]), file(&snapshot.backing), "{at}: below {}", snapshot.name);
        }
    }
}

async fn stage(name: &str) -> (Stage, GuestId) {
    let (rig, guest) = with_tree(true).await;
    rig.sim.set_merge_time(MERGE);
    (Stage::new(rig, snapshot(MessageId::DELETE_SNAPSHOT_REQUEST, guest, name)), guest)
}

/// Whether the snapshot is gone, once everything else was found right.
fn judge(rig: &Rig, guest: GuestId, name: &str, before: &Contents, at: &str) -> bool {
    check_consistent(rig, at);
    check_chains(rig, guest, at);
    let records = rig.node.store.journal().open_records();
    assert!(records.is_empty(), "{at}: {records:?}");
    let after = contents(rig, guest);
    let gone: BTreeSet<&str> = before.keys().filter(|key| !after.contains_key(*key)).map(|(snapshot, _)| snapshot.as_str()).collect();
    assert!(gone.is_empty() || gone == BTreeSet::from([name]), "{at}: {gone:?} are gone");
    for (key, shown) in &after {
        assert_eq!(shown, &before[key], "{at}: content of {key:?}");
    }
    !gone.is_empty()
}

/// libvirt starts the guest with the host: on its disks as they were, or as they are when the snapshot is gone, and on nothing in between.
#[tokio::test(start_paused = true)]
async fn the_youngest_snapshot_of_a_guest_that_starts_with_the_host() {
    let (mut walked, mut point) = (0, 1);
    loop {
        let at = format!("dead at point {point}");
        let (mut stage, guest) = stage("s4").await;
        stage.rig.node.books.lock().update(guest, |config| config.auto_start = true).unwrap();
        stage.rig.node.save(&crate::store::DataFile::ALL).await.unwrap();
        stage.rig.sim.host().hypervisor.set_autostart(guest, true).await.unwrap();
        let before = contents(&stage.rig, guest);
        let process = stage.rig.sim.process();
        process.die_at(point);
        let told = stage.play().await;
        let has_died = process.is_dead();
        if has_died {
            stage.rig.sim.lose_power("second boot");
        }
        if stage.rig.node.books.guest(guest).is_ok() && stage.rig.sim.state().domains[&guest].power == PowerState::Running {
            let shown = contents(&stage.rig, guest);
            let current = shown.keys().filter(|(snapshot, _)| snapshot.is_empty());
            current.for_each(|key| assert_eq!(shown[key], before[key], "{at}: what the guest finds when it starts"));
        }
        let (stage, _) = stage.reboot(None).await;
        let is_done = judge(&stage.rig, guest, "s4", &before, &at);
        assert!(is_done || !told, "{at}");
        assert_eq!(stage.rig.sim.state().domains[&guest].power, PowerState::Running, "{at}");
        if !has_died {
            break;
        }
        (walked, point) = (walked + 1, point + 1);
    }
    println!("{walked} points");
}

/// Dies at one point in `step`, and `then` points into the next start where that is given; the host loses its power then as well.
async fn walk(name: &str, meanwhile: Meanwhile, step: usize, then: Option<u64>) -> u64 {
    let (points, before) = {
        let (mut stage, guest) = stage(name).await;
        let (before, process) = (contents(&stage.rig, guest), stage.rig.sim.process());
        let begun = process.points();
        assert!(stage.play().await);
        assert!(judge(&stage.rig, guest, name, &before, name));
        (process.points() - begun, before)
    };
    let (mut walked, mut undone, mut done) = (0, 0, 0);
    for point in (1..=points).step_by(step) {
        let at = format!("{name}, dead at point {point} of {points}, then {meanwhile:?}, and {then:?}");
        let (mut stage, guest) = stage(name).await;
        stage.rig.sim.process().die_at(point);
        let told = stage.play().await;
        meanwhile.happen(&stage.rig, guest).await;
        let (rig, runs) = match stage.rig.reboot(then).await {
            Ok(rig) => (rig, meanwhile.guest_runs()),
            Err(remains) => {
                remains.sim.lose_power("third boot");
                (revive(remains).await, false)
            }
        };
        let is_done = judge(&rig, guest, name, &before, &at);
        assert!(is_done || !told, "{at}: it was told, and is not done");
        assert_eq!(rig.node.books.guest(guest).unwrap().power == PowerState::Running, runs, "{at}");
        *(if is_done { &mut done } else { &mut undone }) += 1;
        walked += 1;
    }
    assert!(undone > 0 && done > 0, "{name} {meanwhile:?}: {undone} undone, {done} done");
    walked
}

async fn walk_all(name: &str) {
    let all = std::env::var_os("CELL_TEST_ALL_CRASHES").is_some();
    let mut walked = 0;
    for meanwhile in ALL {
        // What comes later differs less from point to point.
        let is_later = matches!(meanwhile, Meanwhile::QemuGoesOn | Meanwhile::GuestEndsLater | Meanwhile::PowerCutLater);
        walked += walk(name, meanwhile, if is_later && !all { 3 } else { 1 }, None).await;
    }
    println!("{name}: {walked} points");
}

#[tokio::test(start_paused = true)]
async fn an_older_snapshot_at_every_crash_point() {
    walk_all("s1").await;
}

#[tokio::test(start_paused = true)]
async fn the_youngest_snapshot_at_every_crash_point() {
    walk_all("s4").await;
}

/// The start that finishes it dies as well.
#[tokio::test(start_paused = true)]
async fn a_crash_while_a_live_deletion_is_finished() {
    let all = std::env::var_os("CELL_TEST_ALL_CRASHES").is_some();
    let mut walked = 0;
    for name in ["s1", "s4"] {
        for meanwhile in [Meanwhile::Nothing, Meanwhile::GuestEndsLater, Meanwhile::PowerCutLater] {
            for then in (1..40).step_by(if all { 3 } else { 13 }) {
                walked += walk(name, meanwhile, if all { 2 } else { 7 }, Some(then)).await;
            }
        }
    }
    println!("{walked} points");
}
