//! Every crash point, simulated: the process dies before and after each operation on the host and each write to `data/`, half-written files
//! included; it is started again, and host and data files are as before or as after the request, and nothing in between.

mod departure;
mod live;
mod power;
mod scenarios;
mod state;

use std::future::pending;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{sleep, timeout};

use crate::host::sim::SimShare;
use crate::model::GuestId;
use crate::proto::message::{Message, MessageId};
use crate::store::testing::Refusal;
use crate::txn::testing::pair::{detach_request, look, migrate_request, ready_request, POOL};
use crate::txn::testing::{Remains, Rig};
use crate::txn::{guard, thaws};
use scenarios::{Build, SCENARIOS};
use state::{check_consistent, View};

/// How long libvirtd takes to come back.
const MOMENT: Duration = Duration::from_secs(1);

/// The other host of a planned move.
struct Source {
    rig: Rig,
    guests: Vec<GuestId>,
    /// It has let go of the guests.
    detached: bool,
    /// If ours dies before that, it does so only when ours is there again.
    late: bool,
}

impl Source {
    async fn detach(&mut self) {
        if !std::mem::replace(&mut self.detached, true) {
            let detached = self.rig.ask(detach_request(&self.guests)).await;
            assert!(detached.success, "{}", detached.error);
        }
    }
}

/// A node and what is asked of it.
struct Stage {
    rig: Rig,
    request: Message,
    /// What tells the Core that it is done: the answer, or an event.
    told_by: Option<MessageId>,
    share: Option<SimShare>,
    /// The host that the guests come from in a planned move.
    source: Option<Source>,
    /// Whatever the shared pool's files are, they are right.
    others_change_share: bool,
}

impl Stage {
    fn new(rig: Rig, request: Message) -> Self {
        Self { rig, request, told_by: None, share: None, source: None, others_change_share: false }
    }

    /// Asks, and waits for the end or for the death of the process; true when the Core was told of a success.
    async fn play(&mut self) -> bool {
        let process = self.rig.sim.process();
        let (rig, source, request) = (&mut self.rig, &mut self.source, self.request.clone());
        let playing = async {
            let answer = rig.ask(request).await;
            if let Some(source) = source.as_mut().filter(|_| answer.success) {
                source.detach().await;
                rig.tell(migrate_request(&source.guests, answer.from)).await;
            }
            rig.settle().await;
        };
        tokio::select! {
            biased;
            () = process.death() => {}
            () = playing => {}
        }
        let answered = self.rig.told(self.request.id.response());
        match (&mut self.source, self.told_by) {
            // The Core goes on with the move, and nobody else has the guests then.
            (Some(source), _) => {
                if answered && !source.late {
                    source.detach().await;
                }
                answered
            }
            (None, Some(event)) => self.rig.told(event),
            (None, None) => answered,
        }
    }

    fn view(&self, exact: bool) -> View {
        let share = self.share.as_ref().filter(|_| !self.others_change_share);
        View::of(&self.rig, share, exact)
    }

    /// Starts the service again; dies `then` points later and is started once more where that is given. False when there were fewer points.
    async fn reboot(self, then: Option<u64>) -> (Self, bool) {
        let Self { rig, request, told_by, share, source, others_change_share } = self;
        let answered = rig.told(request.id.response());
        let (rig, died) = match rig.reboot(then).await {
            Ok(rig) => (rig, false),
            Err(remains) => (revive(remains).await, true),
        };
        let mut stage = Self { rig, request, told_by, share, source, others_change_share };
        stage.hear_core(answered).await;
        (stage, died)
    }

    /// A guest that was on its way here is started when the Core has spoken. `answered`: it was told that it can come.
    async fn hear_core(&mut self, answered: bool) {
        let come = !self.rig.node.books.lock().arrivals.is_empty();
        if self.source.is_none() && !come {
            return;
        }
        let answer = self.rig.ask(ready_request(POOL)).await;
        assert!(answer.success, "{}", answer.error);
        self.rig.settle().await;
        if let Some(source) = self.source.as_mut().filter(|_| answered) {
            source.detach().await;
        }
        look_until_decided(&mut self.rig).await;
    }

    /// libvirt is back, and everything goes on that waited for it.
    async fn reconnect(&mut self) {
        let answered = self.rig.told(self.request.id.response());
        let rig = &mut self.rig;
        rig.sim.connect();
        rig.take_host_events().await;
        rig.monitor.rest().await;
        rig.settle().await;
        let pools = rig.node.books.lock().shared_pools();
        for pool in pools {
            guard::look(&rig.node, &pool, true).await;
        }
        // It goes on for ever; what is owed is done by then.
        let _ = timeout(MOMENT * 60, thaws::keep(rig.node.clone())).await;
        self.hear_core(answered).await;
    }
}

/// Lets the guard look until nothing is on its way any more: nobody waits longer than a minute for a guest that does not come.
async fn look_until_decided(rig: &mut Rig) {
    for _ in 0..100 {
        let decided = rig.node.store.journal().open_records().is_empty() && rig.node.books.lock().arrivals.is_empty();
        if decided {
            break;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        look(rig).await;
    }
    rig.take_host_events().await;
}

async fn revive(remains: Remains) -> Rig {
    match remains.boot(None).await {
        Ok(rig) => rig,
        Err(_) => unreachable!("nothing kills it"),
    }
}

/// What a request leads to when nothing goes wrong.
struct Reference {
    after: View,
    /// Points where it can die.
    points: u64,
    /// Writes to data/.
    writes: u64,
    /// Operations on the host.
    operations: u64,
}

async fn reference(name: &str, build: Build) -> Reference {
    let mut stage = build().await;
    let process = stage.rig.sim.process();
    stage.rig.disk.refuse(None);
    let (points, operations) = (process.points(), stage.rig.sim.operations());
    assert!(stage.play().await, "{name}: the request itself works");
    let (points, operations) = (process.points() - points, stage.rig.sim.operations() - operations);
    let writes = stage.rig.disk.changes();
    let (stage, _) = stage.reboot(None).await;
    check_consistent(&stage.rig, name);
    Reference { after: stage.view(false), points, writes, operations }
}

/// Host and data are as before or as after, and as after when the Core was told so.
fn judge(stage: &Stage, before: &View, after: &View, told: bool, at: &str) {
    check_consistent(&stage.rig, at);
    let records = stage.rig.node.store.journal().open_records();
    assert!(records.is_empty(), "{at}: {records:?}");
    let (exact, plain) = (stage.view(true), stage.view(false));
    if exact == *before && !told {
        return;
    }
    if plain != *after {
        let differences = plain.differences(after);
        exact.check(before, &format!("{at}: neither as before nor as after (told: {told})\nafter: {differences}\nbefore:"));
        plain.check(after, &format!("{at}: as before, but the Core was told of a success"));
    }
}

async fn crashes(names: &[&str]) -> u64 {
    let mut walked = 0;
    for (name, build) in SCENARIOS.iter().filter(|(name, _)| names.contains(name)) {
        let Reference { after, points, .. } = reference(name, *build).await;
        assert!(points > 8, "{name}: {points} points");
        for point in 1..=points {
            let mut stage = build().await;
            let before = stage.view(true);
            stage.rig.sim.process().die_at(point);
            let told = stage.play().await;
            let (stage, _) = stage.reboot(None).await;
            judge(&stage, &before, &after, told, &format!("{name}, dead at point {point} of {points}"));
            walked += 1;
        }
        println!("{name}: {points} points");
    }
    walked
}

/// The start after the crash dies as well.
async fn crashes_of_recovery(names: &[&str]) -> u64 {
    let mut walked = 0;
    for (name, build) in SCENARIOS.iter().filter(|(name, _)| names.contains(name)) {
        let Reference { after, points, .. } = reference(name, *build).await;
        for point in (3..=points).step_by(9) {
            for then in (1..).step_by(4) {
                let mut stage = build().await;
                let before = stage.view(true);
                stage.rig.sim.process().die_at(point);
                let told = stage.play().await;
                let (stage, died) = stage.reboot(Some(then)).await;
                judge(&stage, &before, &after, told, &format!("{name}, dead at point {point} of {points} and {then} points later"));
                walked += 1;
                if !died {
                    break;
                }
            }
        }
    }
    walked
}

/// The disk refuses one write, or all from one on until the service is started anew.
async fn refusals(names: &[&str]) -> u64 {
    let mut walked = 0;
    for (name, build) in SCENARIOS.iter().filter(|(name, _)| names.contains(name)) {
        let Reference { after, writes, .. } = reference(name, *build).await;
        for first in 1..=writes {
            for (errno, count) in [(Errno::ENOSPC, 1), (Errno::EIO, 1), (Errno::ENOSPC, u64::MAX), (Errno::EROFS, u64::MAX)] {
                let at = format!("{name}, write {first} of {writes} {errno} {count}");
                let mut stage = build().await;
                let (before, host) = (stage.view(true), stage.rig.sim.state());
                stage.rig.disk.refuse(Some(Refusal { first, count, errno }));
                let told = stage.play().await;
                if first == 1 && count > 1 && !told {
                    assert_eq!(stage.rig.sim.state(), host, "{at}: what can't be announced is not begun");
                }
                stage.rig.disk.refuse(None);
                let (stage, _) = stage.reboot(None).await;
                judge(&stage, &before, &after, told, &at);
                walked += 1;
            }
        }
    }
    walked
}

/// libvirtd goes away at each operation, and comes back a moment later or when the request is over; the service runs on.
async fn absences(names: &[&str]) -> u64 {
    let mut walked = 0;
    for (name, build) in SCENARIOS.iter().filter(|(name, _)| names.contains(name)) {
        let Reference { after, operations, .. } = reference(name, *build).await;
        for (first, soon) in (1..=operations).flat_map(|first| [(first, true), (first, false)]) {
            let mut stage = build().await;
            if stage.source.is_some() && !soon {
                // The Core is told that the guest could not be started: neither as before nor as after.
                continue;
            }
            let (before, sim) = (stage.view(true), stage.rig.sim.clone());
            sim.disconnect_at(first);
            let back = async {
                while sim.is_connected() {
                    sleep(MOMENT / 100).await;
                }
                sleep(MOMENT).await;
                sim.connect();
                pending::<()>().await;
            };
            let told = tokio::select! {
                told = stage.play() => told,
                () = back, if soon => false,
            };
            stage.reconnect().await;
            judge(&stage, &before, &after, told, &format!("{name}, without libvirt from operation {first} of {operations} on ({soon})"));
            walked += 1;
        }
    }
    walked
}

macro_rules! walks {
    ($($test:ident: $names:expr;)+) => {
        $(mod $test {
            #[tokio::test(start_paused = true)]
            async fn every_crash_point() {
                println!("{} points", super::crashes(&$names).await);
            }

            #[tokio::test(start_paused = true)]
            async fn every_refused_write() {
                println!("{} refusals", super::refusals(&$names).await);
            }

            #[tokio::test(start_paused = true)]
            async fn every_absence_of_libvirt() {
                println!("{} absences", super::absences(&$names).await);
            }
        })+

        #[test]
        fn every_scenario_is_walked() {
            let walked: Vec<&str> = [$($names.as_slice()),+].concat();
            for (name, _) in SCENARIOS {
                assert!(walked.contains(name), "{name}");
            }
            assert_eq!(walked.len(), SCENARIOS.len());
        }
    };
}

walks! {
    guests: ["create", "create on a shared pool", "clone", "delete", "delete on a shared pool", "reset"];
    disks: ["grow", "grow while it runs", "shrink"];
    snapshots: ["snapshot", "live snapshot", "live snapshot of frozen file systems", "restore", "delete a leaf", "delete and merge the current disks", "delete and merge a snapshot"];
    planned_moves: ["attach", "attach, let go of late"];
    moves: ["failover", "detach", "purge"];
    settings: ["memory", "name", "disk limits", "automatic start", "rule", "monitor password", "account"];
    media: ["insert", "eject", "start with media"];
    pools: ["attach a pool", "another export", "detach a pool", "storage path", "address pool"];
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_a_crash_is_cleaned_up() {
    let names = ["create", "delete", "delete and merge the current disks", "reset", "detach", "storage path"];
    println!("{} points", crashes_of_recovery(&names).await);
}
