//! Real kills in the middle of a planned move: the service of one host dies by SIGKILL right before or right after a write to its data, a change of its
//! host or a change of the shared storage, and is started again, while the Core goes on as a real one does: it tells a dead host nothing more, takes
//! the lists of those that come back, and may begin the move anew. One of the two hosts has the guest then, and it runs there as before.
//!
//! Every place is walked with `CELL_TEST_ALL_CRASHES=1`, a share of them each day without.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::CreateGuest;
use serde_json::Value;

use crate::crash::share_of_today;
use crate::lab::{eventually, eventually_some, Cell, Lab, TestCore, PATIENCE, SHARED_POOL};
use crate::migration::Copies;

/// Longest wait for what a machine that is busy may take long for: a start, a claim that is looked at now and then.
const LONG: Duration = Duration::from_secs(90);

/// Of so many places of the former host, and of the new one, one is walked by default.
const FORMER_SHARE: u64 = 17;
const NEW_SHARE: u64 = 8;

/// Two Cells that can be killed, with one shared pool and a guest that runs.
struct Scene {
    core: TestCore,
    /// The guest is on the first.
    cells: [Cell; 2],
    guest: GuestId,
    name: String,
    /// What lies in the pool.
    files: BTreeSet<String>,
    copies: Copies,
    // Taken down last.
    _lab: Lab,
}

/// Which host dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Former,
    New,
}

impl Scene {
    fn set() -> Self {
        let lab = Lab::up(2);
        let core = TestCore::with_shared_storage(&lab);
        let cells = [1, 2].map(|number| Cell::install(lab.cell(number), "nano"));
        for cell in &cells {
            start(&core, cell);
        }
        let name = format!("move.kill-{}", std::process::id());
        let request = CreateGuest { memory: 32 << 20, ..CreateGuest::blank(&name, 1 << 20) };
        let guest = core.wait(core.create_and_wait(&cells[0].name(), &request, PATIENCE)).unwrap().id;
        let copies = Copies::watch(&name);
        let mut scene = Self { core, cells, guest, name, files: BTreeSet::new(), copies, _lab: lab };
        let _ = scene.core.wait(scene.core.start_guest(&scene.cells[0].name(), guest));
        eventually("the guest runs", LONG, || scene.is_over(Side::Former));
        scene.files = scene.listed();
        scene
    }

    fn cell(&self, side: Side) -> &Cell {
        &self.cells[if side == Side::Former { 0 } else { 1 }]
    }

    fn list(&self, request: MessageId) -> Message {
        Message::new(request).strings(Key::Instance, [self.guest.to_string()])
    }

    fn listed(&self) -> BTreeSet<String> {
        let listed = self.cells[0].host().run("ls", &["-A", self.cells[0].mount(SHARED_POOL).to_str().unwrap()]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Name of the Cell that has claimed the guest; "" when none has.
    fn owner(&self) -> String {
        let path = self.cells[0].mount(SHARED_POOL).join(format!("{}.claim", self.guest));
        let claim: Value = serde_json::from_str(&self.cells[0].host().run("cat", &[path.to_str().unwrap()])).unwrap();
        claim["owner"].as_str().unwrap().to_owned()
    }

    fn runs_on(&self, cell: &Cell) -> bool {
        cell.host().virsh(&["list", "--name"]).lines().any(|line| line.trim() == self.name)
    }

    /// Asks a Cell whose service may die: its answer, or none when it has died, or is too slow for the Core's patience.
    fn ask(&self, side: Side, request: Message) -> Option<Message> {
        let cell = self.cell(side);
        let (pid, host, name) = (cell.pid(), cell.host(), cell.name());
        self.core.wait(async {
            let death = async {
                while host.runs(pid) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                biased;
                answer = self.core.request(&name, request) => answer.inspect_err(|error| println!("{error}")).ok(),
                () = death => None,
            }
        })
    }

    fn attach(&self) -> Option<Message> {
        self.ask(Side::New, self.list(MessageId::ATTACH_INSTANCE_REQUEST).bool(Key::Immediate, false))
    }

    fn detach(&self) -> Option<Message> {
        self.ask(Side::Former, self.list(MessageId::DETACH_INSTANCE_REQUEST))
    }

    fn order(&self, attached: &Message) {
        let order = self.list(MessageId::MIGRATE_INSTANCE_REQUEST).string(Key::Migration, "m1").to_session(attached.from);
        // A Core that has noticed the death of the other host does not send it.
        let _ = self.core.send(&self.cells[1].name(), order);
    }

    /// Orders death at the `place`th place from now on.
    fn doom(&self, side: Side, place: u64) {
        std::fs::write(doom(self.cell(side)), place.to_string()).unwrap();
    }

    /// Takes the order back; whether it was carried out.
    fn has_died(&self, side: Side) -> bool {
        let cell = self.cell(side);
        let _ = std::fs::remove_file(doom(cell));
        !cell.host().runs(cell.pid())
    }

    fn is_over(&self, side: Side) -> bool {
        let cell = self.cell(side);
        !cell.host().runs(cell.pid()) || (is_idle(cell) && has(cell, self.guest) && self.runs_on(cell))
    }

    fn restart(&self, side: Side) {
        start(&self.core, self.cell(side));
    }

    /// The new host says that the guest can come. One that was too slow is asked again.
    fn attach_surely(&self) -> Message {
        eventually_some("the new host is ready for the guest", LONG, || self.attach())
    }

    /// Waits until it is decided who has the guest; if it is the former host, the Core begins anew, and nobody dies. `told`: it was told that the guest is let go of.
    fn conclude(&mut self, told: bool, at: &str) {
        let owner = || Some(self.owner()).filter(|owner| !owner.is_empty());
        // A claim that was let go of is for either.
        let decided = || owner().filter(|owner| !told || *owner == self.cell(Side::New).name());
        let owner = eventually_some(&format!("{at}: it is decided"), LONG, decided);
        if owner == self.cell(Side::New).name() {
            return self.check_moved(at);
        }
        eventually(&format!("{at}: it runs on"), LONG, || self.is_over(Side::Former));
        assert!(!has(self.cell(Side::New), self.guest), "{at}: it is the former host's");
        let attached = self.attach_surely();
        let told = self.detach().is_some();
        self.order(&attached);
        self.conclude(told, &format!("{at}, once more"));
    }

    /// The guest is on the new host, which is the former one of the next move.
    fn check_moved(&mut self, at: &str) {
        self.check(Side::New, at);
        self.cells.swap(0, 1);
    }

    /// The guest is there and runs, and nothing of it is on the other host, nor left in the pool.
    fn check(&self, side: Side, at: &str) {
        let other = if side == Side::Former { Side::New } else { Side::Former };
        let (here, there) = (self.cell(side), self.cell(other));
        eventually(&format!("{at}: it runs there"), LONG, || self.runs_on(here));
        eventually(&format!("{at}: nothing is open"), LONG, || is_idle(here) && is_idle(there));
        assert_eq!(self.owner(), here.name(), "{at}");
        for (cell, ids) in [(here, BTreeSet::from([self.guest.to_string()])), (there, BTreeSet::new())] {
            check_host(cell, &ids, at);
        }
        assert_eq!(self.listed(), self.files, "{at}: files in the pool");
        let volume = here.mount(SHARED_POOL).join(format!("{}_sys.qcow2", self.guest));
        here.host().run("qemu-img", &["info", "-U", volume.to_str().unwrap()]);
        let told = self.core.cell(&here.name()).is_some_and(|cell| cell.guests.contains_key(&self.guest));
        let known = || self.core.wait(self.core.get_guest(&here.name(), self.guest)).is_ok();
        assert!(told || known(), "{at}: the Core finds it");
    }
}

fn doom(cell: &Cell) -> PathBuf {
    cell.home().join("doom")
}

fn start(core: &TestCore, cell: &Cell) {
    let doom = doom(cell);
    let _ = std::fs::remove_file(&doom);
    cell.start_mortal(&format!("data=return({0});host=return({0})", doom.display()));
    core.joined(cell);
}

fn is_idle(cell: &Cell) -> bool {
    cell::store::journal::read(&cell.home().join("data")).unwrap().is_empty()
}

fn book(cell: &Cell, file: &str) -> Value {
    serde_json::from_str(&cell.file(&format!("data/{file}"))).unwrap()
}

fn guests_of(cell: &Cell) -> BTreeSet<String> {
    let instances = book(cell, "instance.data")["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn has(cell: &Cell, guest: GuestId) -> bool {
    guests_of(cell).contains(&guest.to_string())
}

/// Books, domains, filters and assignments are those of these guests.
fn check_host(cell: &Cell, ids: &BTreeSet<String>, at: &str) {
    let keys = |value: &Value| -> BTreeSet<String> { value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default() };
    let name = cell.name();
    eventually(&format!("{at}: {name}: guests in the books"), LONG, || guests_of(cell) == *ids);
    let domains = cell.host().virsh(&["list", "--all", "--uuid"]);
    let domains: BTreeSet<String> = domains.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert_eq!(domains, *ids, "{at}: {name}: domains");
    assert_eq!(keys(&book(cell, "storage.data")["groups"]), *ids, "{at}: {name}: volume groups");
    assert_eq!(keys(&book(cell, "network.data")["resources"]), *ids, "{at}: {name}: assignments");
    for filter in cell.host().virsh(&["nwfilter-list"]).lines().filter(|line| line.contains("nano")) {
        assert!(ids.iter().any(|id| filter.contains(id.as_str())), "{at}: {name}: {filter} belongs to nobody");
    }
}

/// The former host dies while it lets go of the guest; how often it did.
fn walk_former(scene: &mut Scene) -> u64 {
    let (first, step) = share_of_today(FORMER_SHARE);
    let mut deaths = 0;
    for place in (first..).step_by(step) {
        let at = format!("the former host dead at place {place}");
        let attached = scene.attach_surely();
        scene.doom(Side::Former, place);
        let told = scene.detach().is_some();
        if told {
            scene.order(&attached);
            eventually("the guest runs on the other host", LONG, || scene.is_over(Side::New));
        }
        let died = scene.has_died(Side::Former);
        if died {
            deaths += 1;
            let away_for_long = place % 2 == 0;
            if away_for_long && scene.owner().is_empty() {
                eventually("who waits takes what nobody has", LONG, || has(scene.cell(Side::New), scene.guest));
            }
            scene.restart(Side::Former);
        }
        scene.conclude(told, &at);
        if !died {
            println!("the former host: {} places, died at {deaths}", place - 1);
            // Another process counts its places from the beginning.
            let [_, former] = &scene.cells;
            former.stop();
            start(&scene.core, former);
            break;
        }
    }
    deaths
}

/// The new host dies while it takes the guest; the former one lets go of it as soon as the new one has said that it can come. How often it died.
fn walk_new(scene: &mut Scene) -> u64 {
    let (first, step) = share_of_today(NEW_SHARE);
    let mut deaths = 0;
    for place in (first..).step_by(step) {
        let at = format!("the new host dead at place {place}");
        scene.doom(Side::New, place);
        let attached = scene.attach();
        let told = attached.is_some() && scene.detach().is_some();
        if let Some(attached) = attached.filter(|_| told) {
            scene.order(&attached);
            eventually("the guest runs", LONG, || scene.is_over(Side::New));
        }
        let died = scene.has_died(Side::New);
        if died {
            deaths += 1;
            scene.restart(Side::New);
        }
        scene.conclude(told, &at);
        if !died {
            println!("the new host: {} places, died at {deaths}", place - 1);
            break;
        }
    }
    deaths
}

/// Both hosts die between what the Core hears of one and what it tells the other.
fn die_between(scene: &mut Scene, former_too: bool, let_go_first: bool) {
    let at = format!("dead between the two, the former host too: {former_too}, it lets go first: {let_go_first}");
    scene.attach_surely();
    scene.cell(Side::New).kill();
    let mut told = let_go_first && scene.detach().is_some();
    if former_too {
        scene.cell(Side::Former).kill();
        scene.restart(Side::Former);
    }
    scene.restart(Side::New);
    if !let_go_first {
        told = scene.detach().is_some();
    }
    scene.conclude(told, &at);
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn killed_in_the_middle_of_a_move_a_host_leaves_the_guest_on_one_of_the_two() {
    let mut scene = Scene::set();
    let mut deaths = walk_former(&mut scene) + walk_new(&mut scene);
    let all = std::env::var_os("CELL_TEST_ALL_CRASHES").is_some();
    let today = share_of_today(2).0;
    for (number, (former_too, let_go_first)) in (1..).zip([(false, true), (false, false), (true, true), (true, false)]) {
        if all || number == today {
            die_between(&mut scene, former_too, let_go_first);
            deaths += 1 + u64::from(former_too);
        }
    }
    println!("{deaths} deaths");
    assert!(deaths >= 3, "only {deaths}");
    assert_eq!(scene.copies.most(), 1, "the guest ran twice at the same time");
    for cell in &scene.cells {
        let doctor = cell.cli(&["doctor"]);
        assert!(doctor.status.success(), "{doctor:?}");
    }
}
