use super::*;
use crate::host::sim::Operation;
use crate::host::ErrorKind;
use crate::model::LOCAL_POOL;
use crate::model::{GuestId, VolumeGroup};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, start_request, Rig};

/// A node with two guests, one with a snapshot, and one domain of somebody else.
async fn rig() -> (Rig, GuestId, GuestId) {
    let mut rig = Rig::new().await;
    let (one, two) = (rig.with_guest(1).await, rig.with_guest(2).await);
    let snapshot = about(MessageId::CREATE_SNAPSHOT_REQUEST, one).string(Key::Name, "s1").string(Key::Description, "");
    assert!(rig.ask(snapshot).await.success);
    rig.settle().await;
    let foreign = GuestConfig {
        id: GuestId::from_bytes([9; 16]),
        name: "foreign".into(),
        storage_volumes: vec!["disk.qcow2".into()],
        ..(*rig.node.books.guest(two).unwrap().config).clone()
    };
    rig.sim.host().hypervisor.define(&foreign).await.unwrap();
    (rig, one, two)
}

async fn reboot(rig: Rig) -> Rig {
    rig.reboot(None).await.ok().unwrap()
}

#[tokio::test(start_paused = true)]
async fn guests_whose_book_is_lost_come_back_from_what_libvirt_shows() {
    for with_volumes in [true, false] {
        let (rig, one, two) = rig().await;
        let before = [one, two].map(|id| rig.node.books.guest(id).unwrap().config);
        let group = rig.node.books.lock().storage.groups[&one].clone();
        let path = |name: &str| rig.directory.path().join(name);
        std::fs::write(path("instance.data"), "gone").unwrap();
        std::fs::remove_file(path("instance.data.bak")).unwrap();
        if !with_volumes {
            let mut storage: serde_json::Value = serde_json::from_slice(&std::fs::read(path("storage.data")).unwrap()).unwrap();
            storage["groups"] = serde_json::json!({});
            std::fs::write(path("storage.data"), storage.to_string()).unwrap();
        }
        let mut rig = reboot(rig).await;
        assert_eq!(rig.node.guest_counts().0, 2, "the foreign domain is none of ours");
        for config in before {
            let now = rig.node.books.guest(config.id).unwrap();
            let facts = |config: &GuestConfig| {
                let GuestConfig { name, cores, memory, disks, monitor_port, hardware_address, storage_volumes, .. } = config.clone();
                (name, cores, memory, disks, monitor_port, hardware_address, storage_volumes)
            };
            assert_eq!(facts(&now.config), facts(&config));
            assert_eq!(now.config.storage_pool, LOCAL_POOL);
            let domain = rig.sim.state().domains[&config.id].config.clone();
            assert!(now.config.monitor_secret == domain.monitor_secret && !domain.monitor_secret.is_empty());
            assert!(rig.files()["network.data"].contains(&config.hardware_address));
            assert!(rig.ask(start_request(config.id)).await.success);
        }
        let now = rig.node.books.lock().storage.groups[&one].clone();
        let files =
            |group: &VolumeGroup| group.snapshots.iter().map(|(name, snapshot)| (name.clone(), snapshot.files.clone())).collect::<Vec<_>>();
        assert_eq!(files(&now), files(&group));
        assert_eq!(now.snapshots == group.snapshots, with_volumes, "time and description are in storage.data alone");
        assert_eq!(now.system.path, group.system.path);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_entered_while_no_file_was_lost() {
    let (mut rig, one, _) = rig().await;
    let deleted = Message::new(MessageId::DELETE_GUEST_REQUEST).string(Key::Instance, one.to_string());
    assert!(rig.ask(deleted).await.success);
    let rig = reboot(rig).await;
    assert_eq!(rig.node.guest_counts().0, 1);
}

/// No file, and no good copy of it either.
fn lose(directory: impl Fn(&str) -> std::path::PathBuf, name: &str) {
    std::fs::write(directory(name), "gone").unwrap();
    std::fs::remove_file(directory(&format!("{name}.bak"))).unwrap();
}

#[tokio::test(start_paused = true)]
async fn guests_come_back_though_the_start_that_saw_the_loss_got_no_further() {
    for with_old_copy in [false, true] {
        let (rig, one, two) = rig().await;
        let remains = rig.die().await;
        lose(|name| remains.path(name), "instance.data");
        if with_old_copy {
            std::fs::write(remains.path("instance.data.bak"), r#"{"instances":null,"max_guest":100}"#).unwrap();
        }
        for _ in 0..2 {
            remains.start_in_vain();
            assert!(remains.path("rebuild").exists());
        }
        let rig = remains.boot(None).await.ok().unwrap();
        assert!(rig.node.books.guest(one).is_ok() && rig.node.books.guest(two).is_ok(), "{with_old_copy}");
        assert_eq!(rig.node.guest_counts().0, 2);
        assert!(rig.files()["instance.data"].contains(&one.to_string()));
        assert!(!rig.directory.path().join("rebuild").exists(), "all is entered");
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_seen_now_is_entered_by_a_later_start() {
    for hidden in [Operation::Definitions, Operation::InspectDisk] {
        let (rig, one, two) = rig().await;
        let remains = rig.die().await;
        lose(|name| remains.path(name), "instance.data");
        remains.sim.fail_next(hidden, ErrorKind::Failed);
        let rig = remains.boot(None).await.ok().unwrap();
        assert!(rig.node.guest_counts().0 < 2, "{hidden:?}");
        assert!(rig.directory.path().join("rebuild").exists());
        let rig = reboot(rig).await;
        assert!(rig.node.books.guest(one).is_ok() && rig.node.books.guest(two).is_ok(), "{hidden:?}");
        assert!(!rig.directory.path().join("rebuild").exists());
    }
}

/// As after the loss of the whole file: the pool is as a start takes it, the guests are in their own book.
fn lose_groups(rig: &Rig) {
    let path = rig.directory.path().join("storage.data");
    let mut storage: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    storage["groups"] = serde_json::json!({});
    storage["pools"][LOCAL_POOL]["volumes"] = serde_json::json!({});
    std::fs::write(&path, "gone").unwrap();
    std::fs::write(rig.directory.path().join("storage.data.bak"), storage.to_string()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn guests_whose_volumes_are_lost_get_them_and_their_snapshots_back() {
    let (mut rig, one, two) = rig().await;
    let snapshot = about(MessageId::CREATE_SNAPSHOT_REQUEST, one).string(Key::Name, "s2").string(Key::Description, "");
    assert!(rig.ask(snapshot).await.success);
    rig.settle().await;
    let before = rig.node.books.lock().storage.clone();
    lose_groups(&rig);
    let mut rig = reboot(rig).await;
    let after = rig.node.books.lock().storage.clone();
    assert_eq!(after.pools[LOCAL_POOL].volumes, before.pools[LOCAL_POOL].volumes);
    assert_eq!(after.groups[&two], before.groups[&two]);
    let (now, then) = (&after.groups[&one], &before.groups[&one]);
    assert_eq!(
        (&now.system, &now.data, &now.active_snapshot, &now.base_snapshot),
        (&then.system, &then.data, &then.active_snapshot, &then.base_snapshot)
    );
    let shape = |group: &VolumeGroup| {
        let shape = |snapshot: &crate::model::Snapshot| {
            (snapshot.name.clone(), snapshot.backing.clone(), snapshot.is_current, snapshot.files.clone())
        };
        group.snapshots.values().map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shape(now), shape(then));
    assert!(rig.files()["storage.data"].contains("s2"));
    let struck = about(MessageId::DELETE_SNAPSHOT_REQUEST, one).string(Key::Name, "s1");
    assert!(rig.ask(struck).await.success, "they are as good as before");
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_known_volumes_leaves_no_disk_when_it_is_deleted() {
    let (mut rig, one, two) = rig().await;
    {
        let mut books = rig.node.books.lock();
        books.storage.groups.clear();
        books.storage.pools.get_mut(LOCAL_POOL).unwrap().volumes.clear();
        books.update(two, |config| config.storage_pool = "nowhere".into()).unwrap();
    }
    let files =
        |rig: &Rig, id: GuestId| rig.sim.state().directories["/images/local0"].keys().filter(|name| name.contains(&id.to_string())).count();
    assert!(files(&rig, one) >= 4 && files(&rig, two) >= 2);
    let delete = |id: GuestId| Message::new(MessageId::DELETE_GUEST_REQUEST).string(Key::Instance, id.to_string());
    assert!(rig.ask(delete(one)).await.success);
    assert_eq!(files(&rig, one), 0);
    let refused = rig.ask(delete(two)).await;
    assert!(!refused.success && refused.error.contains("nowhere"), "{}", refused.error);
    assert!(files(&rig, two) >= 2 && rig.node.books.guest(two).is_ok() && rig.sim.state().domains.contains_key(&two));
}
