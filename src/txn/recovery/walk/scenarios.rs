//! What is walked through: each request with the node that it is asked of.

use std::future::Future;
use std::pin::Pin;

use super::{Source, Stage};
use crate::host::sim::{SimImage, SimShare};
use crate::host::NfsSource;
use crate::model::{GuestId, LOCAL_POOL};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::pair::{attach_request, detach_request, failover_request, ready_request, with_export, Pair, POOL};
use crate::txn::testing::{about, clone_request, create_request, reset_request, start_request, Rig, IMAGE, IMAGE_SIZE};

pub(super) type Build = fn() -> Pin<Box<dyn Future<Output = Stage>>>;

macro_rules! scenarios {
    ($($name:literal => $body:expr;)+) => {
        pub(super) const SCENARIOS: &[(&str, Build)] = &[$(($name, || Box::pin($body))),+];
    };
}

scenarios! {
    "create" => async {
        let request = create_request(id(1), "group.new").strings(Key::Module, ["cloud-init".to_owned()]);
        Stage::new(Rig::new().await, request.uints(Key::Disk, [64 * MIB, 32 * MIB, 16 * MIB]))
    };
    "create on a shared pool" => async {
        let (rig, share) = on_share().await;
        Stage { share: Some(share), ..Stage::new(rig, create_request(id(1), "group.new")) }
    };
    "clone" => async {
        let told_by = Some(MessageId::GUEST_CREATED_EVENT);
        Stage { told_by, ..Stage::new(with_image().await, clone_request(id(1), "group.new")) }
    };
    "delete" => async {
        let mut rig = Rig::new().await;
        let (gone, kept) = (rig.with_guest(1).await, rig.with_guest(2).await);
        done(&mut rig, snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, gone, "s1")).await;
        done(&mut rig, snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, kept, "s1")).await;
        Stage::new(rig, about(MessageId::DELETE_GUEST_REQUEST, gone))
    };
    "delete on a shared pool" => async {
        let (mut rig, share) = on_share().await;
        let gone = rig.with_guest(1).await;
        Stage { share: Some(share), ..Stage::new(rig, about(MessageId::DELETE_GUEST_REQUEST, gone)) }
    };
    "reset" => async {
        let mut rig = with_image().await;
        let guest = rig.with_guest(1).await;
        rig.node.books.lock().update(guest, |config| config.initialized = true).unwrap();
        rig.node.save(&crate::store::DataFile::ALL).await.unwrap();
        Stage { told_by: Some(MessageId::SYSTEM_RESET_EVENT), ..Stage::new(rig, reset_request(guest)) }
    };

    "grow" => async {
        let (rig, guest) = with_tree(false).await;
        Stage::new(rig, disk(MessageId::RESIZE_DISK_REQUEST, guest).uint(Key::Size, 80 * MIB))
    };
    "grow while it runs" => async {
        let (rig, guest) = with_tree(true).await;
        Stage::new(rig, disk(MessageId::RESIZE_DISK_REQUEST, guest).uint(Key::Size, 80 * MIB))
    };
    "shrink" => async {
        let (rig, guest) = with_tree(false).await;
        Stage::new(rig, disk(MessageId::SHRINK_DISK_REQUEST, guest))
    };

    "snapshot" => async { tree(false, MessageId::CREATE_SNAPSHOT_REQUEST, "new").await };
    "live snapshot" => async { tree(true, MessageId::CREATE_SNAPSHOT_REQUEST, "new").await };
    "live snapshot of frozen file systems" => async {
        let stage = tree(true, MessageId::CREATE_SNAPSHOT_REQUEST, "new").await;
        let guest = *stage.rig.sim.state().domains.keys().next().unwrap();
        for command in ["guest-ping", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"] {
            stage.rig.sim.set_agent_answer(guest, command, "{\"return\":1}");
        }
        stage
    };
    "restore" => async { tree(false, MessageId::RESTORE_SNAPSHOT_REQUEST, "s1").await };
    "delete a leaf" => async { tree(false, MessageId::DELETE_SNAPSHOT_REQUEST, "s3").await };
    "delete and merge the current disks" => async { tree(false, MessageId::DELETE_SNAPSHOT_REQUEST, "s4").await };
    "delete and merge a snapshot" => async { tree(false, MessageId::DELETE_SNAPSHOT_REQUEST, "s1").await };

    "attach" => async { planned_move(false).await };
    "attach, let go of late" => async { planned_move(true).await };
    "failover" => async {
        let mut pair = Pair::new().await;
        let ids = [pair.b.with_guest(1).await, pair.b.with_guest(2).await];
        let told_by = Some(MessageId::INSTANCE_MIGRATED_EVENT);
        let only = [ids[0]];
        Stage { told_by, share: Some(pair.share), ..Stage::new(pair.a, failover_request(&only, "Cell_b")) }
    };
    "detach" => async {
        let mut pair = Pair::new().await;
        let ids = [pair.running_on_b(1).await, pair.b.with_guest(2).await];
        Stage { share: Some(pair.share), ..Stage::new(pair.b, detach_request(&ids)) }
    };
    "purge" => async {
        let mut pair = Pair::new().await;
        pair.running_on_b(1).await;
        Stage { share: Some(pair.share), ..Stage::new(pair.b, detach_request(&[])) }
    };

    "memory" => async { setting(|guest| guest_request(MessageId::MODIFY_MEMORY_REQUEST, guest).uint(Key::Memory, 128 * MIB)).await };
    "name" => async { setting(|guest| guest_request(MessageId::MODIFY_GUEST_NAME_REQUEST, guest).string(Key::Name, "group.other")).await };
    "disk limits" => async {
        setting(|guest| guest_request(MessageId::MODIFY_DISK_THRESHOLD_REQUEST, guest).uints(Key::Limit, [1 << 20, 2 << 20, 3, 4])).await
    };
    "automatic start" => async { setting(|guest| guest_request(MessageId::MODIFY_AUTO_START_REQUEST, guest).bool(Key::Enable, true)).await };
    "rule" => async {
        setting(|guest| {
            about(MessageId::ADD_GUEST_RULE_REQUEST, guest)
                .bool(Key::Action, true)
                .uint(Key::Protocol, 0)
                .uint(Key::From, 0)
                .uint(Key::To, 0)
                .uint(Key::Port, 22)
        })
        .await
    };
    "monitor password" => async { setting(|guest| guest_request(MessageId::RESET_SECRET_REQUEST, guest)).await };
    "account" => async {
        let mut rig = Rig::new().await;
        let guest = rig.with_guest(1).await;
        rig.sim.set_agent_answer(guest, "guest-set-user-password", "{\"return\":{}}");
        done(&mut rig, start_request(guest)).await;
        rig.take_host_events().await;
        Stage::new(rig, guest_request(MessageId::MODIFY_AUTH_REQUEST, guest).string(Key::User, "").string(Key::Secret, "n3w"))
    };

    "insert" => async {
        let (rig, guest) = with_media(false).await;
        Stage::new(rig, media(about(MessageId::INSERT_MEDIA_REQUEST, guest), Key::Media))
    };
    "eject" => async {
        let (rig, guest) = with_media(true).await;
        Stage::new(rig, about(MessageId::EJECT_MEDIA_REQUEST, guest))
    };
    "start with media" => async {
        let mut rig = Rig::new().await;
        rig.sim.put_media(MEDIA, 4096);
        let guest = rig.with_guest(1).await;
        Stage::new(rig, media(about(MessageId::START_INSTANCE_REQUEST, guest).uint(Key::Option, 1), Key::Source))
    };

    "attach a pool" => async {
        let share = SimShare::new();
        let rig = with_export("Cell_a", &share).await;
        let told_by = Some(MessageId::COMPUTE_CELL_READY_EVENT);
        Stage { told_by, share: Some(share), ..Stage::new(rig, ready_request(POOL)) }
    };
    "another export" => async {
        let (mut rig, share) = on_share().await;
        done(&mut rig, ready_request(POOL)).await;
        rig.sim.put_export(&NfsSource { host: "10.0.0.2".into(), path: "/share".into() }, &share);
        let told_by = Some(MessageId::COMPUTE_CELL_READY_EVENT);
        rig.forget();
        Stage { told_by, share: Some(share), ..Stage::new(rig, ready_request(POOL).string(Key::Host, "10.0.0.2")) }
    };
    "detach a pool" => async {
        let (rig, share) = on_share().await;
        let told_by = Some(MessageId::COMPUTE_CELL_READY_EVENT);
        rig.forget();
        Stage { told_by, share: Some(share), ..Stage::new(rig, ready_request("")) }
    };
    "storage path" => async {
        Stage::new(Rig::new().await, Message::new(MessageId::MODIFY_CELL_STORAGE_REQUEST).string(Key::Path, "/data/images"))
    };
    "address pool" => async {
        let mut rig = Rig::new().await;
        rig.with_guest(1).await;
        let request = Message::new(MessageId::COMPUTE_POOL_READY_EVENT).string(Key::Pool, "p").string(Key::Storage, "").string(Key::Network, "n");
        let request = request.string(Key::Gateway, "10.0.0.1").strings(Key::Server, ["10.0.0.2".to_owned()]).string(Key::Mode, "dhcp");
        Stage { told_by: Some(MessageId::COMPUTE_CELL_READY_EVENT), ..Stage::new(rig, request) }
    };
}

const MIB: u64 = 1 << 20;
const MEDIA: &str = "media-1";

fn id(number: u8) -> GuestId {
    GuestId::from_bytes([number; 16])
}

async fn done(rig: &mut Rig, request: Message) {
    let answer = rig.ask(request).await;
    assert!(answer.success, "{}", answer.error);
    rig.settle().await;
    rig.sent();
}

fn guest_request(request: MessageId, guest: GuestId) -> Message {
    Message::new(request).string(Key::Guest, guest.to_string())
}

fn disk(request: MessageId, guest: GuestId) -> Message {
    guest_request(request, guest).uint(Key::Disk, 0)
}

pub(super) fn snapshot(request: MessageId, guest: GuestId, name: &str) -> Message {
    about(request, guest).string(Key::Name, name).string(Key::Description, "why")
}

async fn setting(request: fn(GuestId) -> Message) -> Stage {
    let mut rig = Rig::new().await;
    let guest = rig.with_guest(1).await;
    Stage::new(rig, request(guest))
}

async fn with_image() -> Rig {
    let rig = Rig::new().await;
    rig.sim.put_image(IMAGE, SimImage { size: IMAGE_SIZE, capacity: 64 * MIB });
    rig
}

/// Guests come here; `late`: their host lets go of them only when ours is there again, should it die before.
async fn planned_move(late: bool) -> Stage {
    let mut pair = Pair::new().await;
    let guests = vec![pair.running_on_b(1).await, pair.b.with_guest(2).await];
    let request = attach_request(&guests);
    let (share, source) = (Some(pair.share), Some(Source { rig: pair.b, guests, detached: false, late }));
    Stage { share, source, others_change_share: true, ..Stage::new(pair.a, request) }
}

/// A node whose new guests go to a shared pool.
async fn on_share() -> (Rig, SimShare) {
    let share = SimShare::new();
    let mut rig = with_export("Cell_a", &share).await;
    done(&mut rig, ready_request(POOL)).await;
    assert_ne!(rig.node.books.lock().storage.current_pool, LOCAL_POOL);
    (rig, share)
}

/// A guest with the tree s1 <- s2 <- s3 and s2 <- s4, current on s4, with a content of its own everywhere.
pub(super) async fn with_tree(running: bool) -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    let guest = rig.with_guest(1).await;
    for (number, name) in [(1, "s1"), (2, "s2"), (3, "s3")] {
        write(&rig, guest, number);
        done(&mut rig, snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, name)).await;
    }
    done(&mut rig, snapshot(MessageId::RESTORE_SNAPSHOT_REQUEST, guest, "s2")).await;
    write(&rig, guest, 4);
    done(&mut rig, snapshot(MessageId::CREATE_SNAPSHOT_REQUEST, guest, "s4")).await;
    write(&rig, guest, 9);
    if running {
        done(&mut rig, start_request(guest)).await;
        rig.take_host_events().await;
        rig.sent();
    }
    rig.forget();
    (rig, guest)
}

fn write(rig: &Rig, guest: GuestId, value: u64) {
    let files: Vec<String> = rig.node.books.lock().storage.groups[&guest].volumes().map(|volume| volume.file().to_owned()).collect();
    for file in files {
        rig.sim.write_block(&file, 0, value);
        rig.sim.write_block(&file, value, value);
    }
}

async fn tree(running: bool, request: MessageId, name: &str) -> Stage {
    let (rig, guest) = with_tree(running).await;
    Stage::new(rig, snapshot(request, guest, name))
}

fn media(request: Message, key: Key) -> Message {
    request.string(key, MEDIA).string(Key::Host, "10.226.0.1").uint(Key::Port, 5801)
}

/// A running guest.
async fn with_media(inserted: bool) -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    rig.sim.put_media(MEDIA, 4096);
    let guest = rig.with_guest(1).await;
    done(&mut rig, start_request(guest)).await;
    if inserted {
        done(&mut rig, media(about(MessageId::INSERT_MEDIA_REQUEST, guest), Key::Media)).await;
    }
    rig.take_host_events().await;
    rig.forget();
    (rig, guest)
}
