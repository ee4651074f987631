use std::time::Duration;

use super::*;
use crate::host::sim::{Effect, Fault, Operation, SimShare};
use crate::model::LOCAL_POOL;
use crate::proto::message::{Message, MessageId};
use crate::txn::testing::pair::{look, ready_request, with_export, Pair, MOUNT, POOL};
use crate::txn::testing::{about, create_request, export_request, reset_request, start_request, Rig, LINK, TIMEOUT};

async fn attached() -> (Rig, SimShare) {
    let share = SimShare::new();
    let mut rig = with_export("Cell_a", &share).await;
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    (rig, share)
}

async fn pools_told(rig: &mut Rig) -> (Vec<String>, Vec<String>, Vec<u64>) {
    let answer = rig.ask(Message::new(MessageId::GET_COMPUTE_POOL_CELL_REQUEST)).await;
    let texts = |key| answer.string_array_params[&key].clone();
    (texts(Key::Storage), texts(Key::Error), answer.uint_array_params[&Key::Attach].clone())
}

#[tokio::test(start_paused = true)]
async fn new_guests_go_to_the_attached_pool_and_back_to_local_storage_when_it_is_detached() {
    let (mut rig, share) = attached().await;
    assert_eq!(pools_told(&mut rig).await, (vec![POOL.into()], vec![String::new()], vec![1]));
    let storage = rig.ask(Message::new(MessageId::QUERY_CELL_STORAGE_REQUEST)).await;
    assert_eq!(storage.uint_params[&Key::Mode], 1);
    let files = rig.files();
    assert!(files["instance.data"].contains("\"storage_url\": \"/pools/nas\""), "{}", files["instance.data"]);
    assert!(files["instance.data"].contains("\"storage_pool\": \"nas\""));
    assert!(files["storage.data"].contains("\"mode\": \"nfs\"") && files["storage.data"].contains("\"current_pool\": \"nas\""));

    let shared = rig.with_guest(1).await;
    assert_eq!(share.state().volumes.len(), 2);
    assert_eq!(share.state().claims[&shared].owner, "Cell_a");
    // B19: both books go back, and the pool stays for its guest
    assert!(rig.ask(ready_request("")).await.success);
    let files = rig.files();
    assert!(files["instance.data"].contains("\"storage_pool\": \"local0\"") && !files["instance.data"].contains("storage_url"));
    let local = rig.with_guest(2).await;
    assert_eq!(rig.node.books.guest(local).unwrap().config.storage_pool, LOCAL_POOL);
    assert!(!share.state().claims.contains_key(&local) && !share.state().guests.contains_key(&local));
    assert_eq!(pools_told(&mut rig).await.0, [POOL]);
    assert!(rig.ask(start_request(shared)).await.success, "its guest goes on");

    // without guests it goes
    rig.sim.set_power_behind(shared, false);
    rig.take_host_events().await;
    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, shared)).await.success);
    rig.settle().await;
    assert_eq!(share.state(), Default::default(), "nothing is left of the deleted guest");
    assert!(rig.ask(ready_request("")).await.success);
    assert_eq!(pools_told(&mut rig).await.0, [""; 0]);
    assert!(!rig.sim.state().pools.contains_key(POOL));
}

/// §14 B17: a failure at any step leaves host and books as they were, and the next attempt does it all again.
#[tokio::test(start_paused = true)]
async fn b17_a_failure_at_any_step_of_attaching_switches_nothing() {
    let steps = {
        let share = SimShare::new();
        let mut rig = with_export("Cell_a", &share).await;
        let before = rig.sim.operations();
        rig.ask(ready_request(POOL)).await;
        rig.sim.operations() - before
    };
    assert!(steps >= 2, "look and mount: {steps}");
    for step in 1..=steps {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown, ErrorKind::Unavailable] {
                let mut rig = with_export("Cell_a", &SimShare::new()).await;
                let (state, files) = (rig.sim.state(), rig.files());
                rig.sim.fail_at(step, Fault { kind, effect });
                let answer = rig.ask(ready_request(POOL)).await;
                rig.settle().await;
                if !answer.success {
                    assert_eq!((rig.sim.state(), rig.files()), (state, files), "step {step} {kind:?} {effect:?}");
                }
                assert!(rig.ask(ready_request(POOL)).await.success, "step {step} {kind:?} {effect:?}");
                assert_eq!(pools_told(&mut rig).await.2, [1]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b11_free_space_is_that_of_the_pool_where_new_guests_go() {
    let (mut rig, _) = attached().await;
    assert_eq!(rig.node.books.lock().disk_paths(), [MOUNT]);
    assert!(rig.ask(ready_request("")).await.success);
    assert_eq!(rig.node.books.lock().disk_paths(), ["/images"]);
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_fails_is_told_and_switches_nothing() {
    let mut rig = Rig::new().await;
    let (state, files) = (rig.sim.state(), rig.files());
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(!answer.success && answer.error.contains("10.0.0.1:/share can't be mounted"), "{}", answer.error);
    rig.settle().await;
    assert_eq!((rig.sim.state(), rig.files()), (state, files));
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_cannot_be_written_down_is_taken_back() {
    let mut rig = with_export("Cell_a", &SimShare::new()).await;
    let state = rig.sim.state();
    std::fs::create_dir(rig.directory.path().join("storage.data.tmp")).unwrap();
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(!answer.success);
    rig.settle().await;
    assert_eq!(rig.sim.state(), state);
    assert!(rig.node.books.lock().current_shared().is_none());
}

/// §14 A4: also what comes last in the request is read before the storage is switched.
#[tokio::test(start_paused = true)]
async fn a4_everything_is_validated_before_anything_is_switched() {
    let ok = || ready_request(POOL);
    let cases = [
        ("Storage(25)", ok().string(Key::Storage, "../x")),
        ("Type(1)", ok().string(Key::Type, "iscsi")),
        ("Host(29)", ok().string(Key::Host, "")),
        ("Host(29)", ok().string(Key::Host, "-o evil")),
        ("Target(27)", ok().string(Key::Target, "share")),
        ("Gateway(57)", ok().string(Key::Network, "net").string(Key::Gateway, "nowhere")),
        ("Gateway(57)", ok().string(Key::Network, "net")),
        ("Mode(28)", ok().string(Key::Network, "net").string(Key::Gateway, "10.0.0.1").strings(Key::Server, []).string(Key::Mode, "magic")),
        ("local pool", ok().string(Key::Storage, LOCAL_POOL)),
    ];
    for (expected, request) in cases {
        let mut rig = with_export("Cell_a", &SimShare::new()).await;
        let (state, files) = (rig.sim.state(), rig.files());
        let answer = rig.ask(request).await;
        assert!(!answer.success && answer.error.contains(expected), "{expected}: {}", answer.error);
        rig.settle().await;
        assert_eq!((rig.sim.state(), rig.files()), (state, files), "{expected}");
    }
}

/// §14 B18: a known name with another source is another pool.
#[tokio::test(start_paused = true)]
async fn b18_a_known_pool_is_compared_with_what_the_core_says() {
    let (mut rig, _) = attached().await;
    let id = rig.with_guest(1).await;
    let (other, fresh) = (NfsSource { host: "10.0.0.2".into(), path: "/share".into() }, SimShare::new());
    rig.sim.put_export(&other, &fresh);
    let elsewhere = || ready_request(POOL).string(Key::Host, "10.0.0.2");
    let (state, files) = (rig.sim.state(), rig.files());
    let refused = rig.ask(elsewhere()).await;
    assert!(refused.error.contains("is 10.0.0.1:/share here, with 1 guests in it"), "{}", refused.error);
    rig.settle().await;
    assert_eq!((rig.sim.state(), rig.files()), (state, files));

    assert!(rig.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await.success);
    rig.settle().await;
    // a source that can't be mounted leaves the one that was there
    let nowhere = rig.ask(ready_request(POOL).string(Key::Host, "10.0.0.3")).await;
    assert!(!nowhere.success);
    rig.settle().await;
    assert_eq!(rig.sim.state().pools[POOL].source.as_ref().unwrap().host, "10.0.0.1");
    assert!(rig.ask(elsewhere()).await.success);
    assert_eq!(rig.sim.state().pools[POOL].source, Some(other));
    rig.with_guest(2).await;
    assert_eq!(fresh.state().volumes.len(), 2, "new guests go to the new server");
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_leaves_its_compute_pool_detaches_the_storage() {
    let (mut rig, _) = attached().await;
    rig.engine.request(LINK, Message::new(MessageId::COMPUTE_CELL_REMOVED_EVENT));
    rig.settle().await;
    assert!(!rig.sim.state().pools.contains_key(POOL));
    assert!(rig.node.books.lock().shared_pools().is_empty());
    assert_eq!(rig.sent(), [], "it has no answer");
}

/// A dead server blocks its own guests and nothing else.
#[tokio::test(start_paused = true)]
async fn a_silent_server_holds_up_nothing_but_its_own_guests() {
    let (mut rig, share) = attached().await;
    let shared = rig.with_guest(1).await;
    assert!(rig.ask(ready_request("")).await.success);
    let local = rig.with_guest(2).await;
    share.set_dead(true);
    rig.engine.request(LINK, start_request(shared).from_session(5));
    let begun = Instant::now();
    assert!(rig.ask(start_request(local)).await.success);
    assert!(rig.ask(create_request(GuestId::from_bytes([3; 16]), "g.new")).await.success);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let refused = rig.answer(5).await;
    assert!(!refused.success);
    assert!(begun.elapsed() < TIMEOUT);
    let (_, errors, attached) = pools_told(&mut rig).await;
    assert_eq!(attached, [0]);
    assert!(errors[0].contains("does not answer"), "{}", errors[0]);
    assert!(!look(&mut rig).await);
    share.set_dead(false);
    assert!(look(&mut rig).await, "it is used again when it is back");
    rig.settle().await;
    assert!(rig.ask(start_request(shared)).await.success);
}

#[tokio::test(start_paused = true)]
async fn the_core_moves_new_guests_off_a_silent_server_while_creates_hang_on_it() {
    let (mut rig, share) = attached().await;
    // As long as the real host waits for a directory.
    rig.sim.set_deadline(Duration::from_secs(4));
    share.set_dead(true);
    let begun = Instant::now();
    for number in 1..=3 {
        let request = create_request(GuestId::from_bytes([number; 16]), &format!("g.hangs{number}"));
        rig.engine.request(LINK, request.from_session(number.into()));
    }
    let moved = rig.ask(ready_request("")).await;
    assert!(moved.success, "{}", moved.error);
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    for number in 1..=3 {
        let refused = rig.answer(number).await;
        assert!(refused.error.contains("has not answered in time"), "{}", refused.error);
    }
    let begun = Instant::now();
    let local = GuestId::from_bytes([9; 16]);
    assert!(rig.ask(create_request(local, "g.local")).await.success);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(rig.node.books.guest(local).unwrap().config.storage_pool, LOCAL_POOL);
    rig.settle().await;
}

/// Whoever waits for the pools stands in the way of everybody who makes a volume, so nobody waits for longer than its answer.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_pools_beyond_its_deadline() {
    let (mut rig, _) = attached().await;
    let node = rig.node.clone();
    let making = node.layout.read().await;
    let moves =
        [ready_request(""), ready_request("other"), Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, "/elsewhere")];
    for request in moves {
        let begun = Instant::now();
        let refused = rig.ask(request).await;
        assert!(refused.error.contains("volumes are being made"), "{}", refused.error);
        assert!(begun.elapsed() < TIMEOUT);
        rig.settle().await;
        assert!(node.layout.try_read().is_ok(), "nobody is left in line");
    }
    drop(making);
    let moving = node.layout.write().await;
    let id = GuestId::from_bytes([9; 16]);
    let refused = rig.ask(create_request(id, "g.late")).await;
    assert!(refused.error.contains("the storage pools are being changed"), "{}", refused.error);
    rig.settle().await;
    drop(moving);
    assert!(rig.ask(create_request(id, "g.late")).await.success);
}

#[tokio::test(start_paused = true)]
async fn the_core_gets_its_list_of_guests_although_the_known_server_is_silent_and_a_new_one_is_refused_in_time() {
    let (mut rig, share) = attached().await;
    rig.with_guest(1).await;
    share.set_dead(true);
    let begun = Instant::now();
    let answer = rig.ask(ready_request(POOL)).await;
    assert!(answer.success && answer.uint_params[&Key::Count] == 1, "{}", answer.error);
    assert!(begun.elapsed() < TIMEOUT);
    rig.settle().await;
    let mut fresh = with_export("Cell_b", &share).await;
    let begun = Instant::now();
    let refused = fresh.ask(ready_request(POOL)).await;
    assert!(refused.error.contains("does not answer"), "{}", refused.error);
    assert!(begun.elapsed() < TIMEOUT);
}

/// §14 D4: whatever changes about a guest is written beside its disks.
#[tokio::test(start_paused = true)]
async fn d4_what_the_pool_says_about_a_guest_follows_every_change() {
    let (mut rig, share) = attached().await;
    let id = rig.with_guest(1).await;
    let written = |share: &SimShare| share.state().guests[&id].clone();
    assert_eq!(written(&share).config, *rig.node.books.guest(id).unwrap().config);
    rig.node.books.lock().update(id, |config| config.monitor_secret = crate::model::Secret::new("changed")).unwrap();
    rig.node.save(&[DataFile::Instance]).await.unwrap();
    assert_eq!(written(&share).config.monitor_secret.reveal(), "changed");
    rig.node.books.lock().storage.groups.get_mut(&id).unwrap().active_snapshot = "s1".into();
    rig.node.save(&[DataFile::Storage]).await.unwrap();
    assert_eq!(written(&share).volumes.active_snapshot, "s1");
    // one that can't be written now is written later, and the change itself stands
    rig.sim.fail_next(Operation::SaveShared, ErrorKind::Failed);
    rig.node.books.lock().update(id, |config| config.cores = 2).unwrap();
    rig.node.save(&[DataFile::Instance]).await.unwrap();
    assert_eq!(written(&share).config.cores, 1);
    assert!(look(&mut rig).await);
    assert_eq!(written(&share).config.cores, 2);
}

#[tokio::test(start_paused = true)]
async fn what_another_host_owns_is_neither_started_nor_deleted_nor_written() {
    let mut pair = Pair::new().await;
    let id = pair.b.with_guest(1).await;
    pair.share.change(|state| {
        let claim = state.claims.get_mut(&id).unwrap();
        claim.owner = "Cell_a".into();
        claim.generation += 1;
    });
    let before = pair.share.state();
    let refused = pair.b.ask(start_request(id)).await;
    assert!(refused.error.contains("belongs to Cell_a now"), "{}", refused.error);
    let refused = pair.b.ask(about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    assert!(refused.error.contains("belongs to Cell_a now"), "{}", refused.error);
    pair.b.node.books.lock().update(id, |config| config.cores = 2).unwrap();
    pair.b.node.save(&[DataFile::Instance]).await.unwrap();
    assert_eq!(pair.share.state(), before);
    assert_eq!(pair.share.most_copies(), 0);
}

/// The settings, the policy, the drive, the password and the disks of a guest are those of the host that has it.
#[tokio::test(start_paused = true)]
async fn what_another_host_owns_is_not_changed() {
    let mut pair = Pair::new().await;
    let (runs, stopped) = (pair.running_on_b(1).await, pair.b.with_guest(2).await);
    pair.b.sim.put_media("cd", 1 << 20);
    pair.b.sim.put_media("other", 1 << 20);
    let drive = |request, media: &str| about(request, runs).string(Key::Media, media).string(Key::Host, "10.0.0.1").uint(Key::Port, 5801);
    assert!(pair.b.ask(drive(MessageId::INSERT_MEDIA_REQUEST, "cd")).await.success);
    pair.b.settle().await;
    pair.b.sent();
    pair.share.change(|state| {
        for claim in state.claims.values_mut() {
            claim.owner = "Cell_a".into();
            claim.generation += 1;
        }
    });
    let (state, files, share) = (pair.b.sim.state(), pair.b.files(), pair.share.state());
    let setting = |request| Message::new(request).string(Key::Guest, runs.to_string());
    let rule = |request| {
        let rule = about(request, runs).bool(Key::Action, true).uint(Key::From, 0).uint(Key::To, 0);
        rule.uint(Key::Port, 22).uint(Key::Protocol, 0)
    };
    let requests = [
        setting(MessageId::MODIFY_CORE_REQUEST).uint(Key::Core, 3),
        setting(MessageId::MODIFY_MEMORY_REQUEST).uint(Key::Memory, 128 << 20),
        setting(MessageId::MODIFY_PRIORITY_REQUEST).uint(Key::Priority, 2),
        setting(MessageId::MODIFY_DISK_THRESHOLD_REQUEST).uints(Key::Limit, [1, 2, 3, 4]),
        setting(MessageId::MODIFY_NETWORK_THRESHOLD_REQUEST).uints(Key::Limit, [1, 2]),
        setting(MessageId::MODIFY_AUTO_START_REQUEST).bool(Key::Enable, true),
        setting(MessageId::RESET_SECRET_REQUEST),
        setting(MessageId::MODIFY_AUTH_REQUEST).string(Key::User, "").string(Key::Secret, "new"),
        Message::new(MessageId::MODIFY_GUEST_NAME_REQUEST).string(Key::Guest, stopped.to_string()).string(Key::Name, "g.other"),
        rule(MessageId::ADD_GUEST_RULE_REQUEST),
        about(MessageId::CHANGE_GUEST_RULE_DEFAULT_ACTION_REQUEST, runs).bool(Key::Action, false),
        about(MessageId::EJECT_MEDIA_REQUEST, runs),
        export_request(stopped),
        reset_request(stopped),
        about(MessageId::CREATE_SNAPSHOT_REQUEST, stopped).string(Key::Name, "s1"),
    ];
    for request in requests {
        let refused = pair.b.ask(request.clone()).await;
        assert!(!refused.success && refused.error.contains("belongs to Cell_a now"), "{}: {}", request.id, refused.error);
    }
    pair.b.settle().await;
    assert_eq!((pair.b.sim.state(), pair.b.files(), pair.share.state()), (state, files, share));
    assert_eq!(pair.b.sent(), []);
}

/// libvirt starts no guest of a shared pool; the service does after a boot of the host, once, when the Core has spoken.
#[tokio::test(start_paused = true)]
async fn guests_that_start_with_the_host_wait_for_the_core() {
    let (mut rig, _) = attached().await;
    let id = GuestId::from_bytes([1; 16]);
    assert!(rig.ask(create_request(id, "g.auto").bool(Key::Option, true)).await.success);
    rig.settle().await;
    assert!(!rig.sim.state().domains[&id].autostart);
    rig.take_host_events().await;
    assert_eq!(rig.node.books.guest(id).unwrap().power, PowerState::Running);

    // stopped by hand: a reconnect does not start it
    rig.sim.set_power_behind(id, false);
    rig.take_host_events().await;
    assert!(rig.ask(ready_request(POOL)).await.success);
    rig.settle().await;
    assert_eq!(rig.sim.state().domains[&id].power, PowerState::Stopped);

    rig.sim.lose_power("second boot");
    assert!(look(&mut rig).await);
    assert_eq!(rig.sim.state().domains[&id].power, PowerState::Stopped, "the Core has not spoken");
    for _ in 0..2 {
        assert!(rig.ask(ready_request(POOL)).await.success);
        rig.settle().await;
        assert_eq!(rig.sim.state().domains[&id].power, PowerState::Running);
    }
    rig.sim.set_power_behind(id, false);
    rig.take_host_events().await;
    assert!(rig.ask(ready_request(POOL)).await.success);
    rig.settle().await;
    assert_eq!(rig.sim.state().domains[&id].power, PowerState::Stopped, "once a boot");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_to_start_with_its_host_gets_no_mark_in_libvirt() {
    let (mut rig, share) = attached().await;
    let id = rig.with_guest(1).await;
    let request = Message::new(MessageId::MODIFY_AUTO_START_REQUEST).string(Key::Guest, id.to_string()).bool(Key::Enable, true);
    assert!(rig.ask(request).await.success);
    assert!(!rig.sim.state().domains[&id].autostart);
    assert!(share.state().guests[&id].config.auto_start, "and the other hosts know");
}

#[tokio::test(start_paused = true)]
async fn a_mark_for_autostart_that_somebody_left_is_taken_away() {
    let (mut rig, _) = attached().await;
    let id = rig.with_guest(1).await;
    rig.node.host.hypervisor.set_autostart(id, true).await.unwrap();
    assert!(look(&mut rig).await);
    assert!(!rig.sim.state().domains[&id].autostart);
    assert_eq!(rig.sim.state().pools[POOL].target, MOUNT);
}
