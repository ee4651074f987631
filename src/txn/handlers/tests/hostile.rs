//! Texts that a Core would never send, in the place of every text of every transaction: each is answered, none leads out of a pool, none breaks a
//! later start.

use proptest::prelude::*;

use super::super::{find, HANDLED};
use crate::host::sim::SimState;
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::{DataFile, Store};
use crate::txn::testing::{about, create_request, start_request, Rig, IMAGE, LINK};

/// Paths that lead elsewhere, ends of documents, options, protocols of QEMU, tricks of Unicode, and what is too long.
fn hostile() -> Vec<String> {
    let texts = [
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "/images/local0/../../etc/passwd",
        "a/b",
        "nul\0byte",
        "new\nline\r",
        "\"quotes'",
        "</name><evil attr='1'>&amp;&#0;",
        "]]><![CDATA[x",
        "${HOME}$(id)`id`;|&",
        "-o",
        "--help",
        "nbd:localhost:10809",
        "json:{\"driver\":\"raw\"}",
        "fat:rw:/etc",
        "%s%n%2e%2e%2f",
        "\u{202e}fdp\u{200b}\u{feff}",
        "\u{e9}\u{0301}\u{1f600}",
        "\u{ffff}\u{fffe}",
        "{\"a\":[",
        " ",
        ".hidden",
        "01010101-0101-0101-0101-01010101010g",
    ];
    texts.into_iter().map(str::to_owned).chain(["x".repeat(256), "\u{1f600}".repeat(20_000)]).collect()
}

/// Every key that some transaction reads a text from.
const TEXTS: &[Key] = &[
    Key::Name,
    Key::Type,
    Key::Pool,
    Key::Cell,
    Key::Instance,
    Key::User,
    Key::Group,
    Key::Network,
    Key::Storage,
    Key::Source,
    Key::Target,
    Key::Mode,
    Key::Host,
    Key::Path,
    Key::Image,
    Key::Media,
    Key::Guest,
    Key::Secret,
    Key::Admin,
    Key::Address,
    Key::Gateway,
    Key::Migration,
    Key::Protocol,
    Key::Description,
];
/// And those that it reads lists of texts from.
const LISTS: &[Key] = &[Key::Instance, Key::Address, Key::Module, Key::Server, Key::Source];

fn guest() -> GuestId {
    GuestId::from_bytes([1; 16])
}

/// A request with everything that any transaction asks for, so that each gets to the text that is changed.
fn request(id: MessageId) -> Message {
    let message = Message { id, ..create_request(guest(), "group.guest1") };
    let message = message.string(Key::Guest, guest().to_string()).string(Key::Image, IMAGE).string(Key::Host, "10.226.0.1");
    let message = message.string(Key::Path, "/images").string(Key::Storage, "").string(Key::Type, "nfs").string(Key::Target, "/share");
    let message = message.string(Key::Network, "").string(Key::Gateway, "10.0.0.1").string(Key::Media, IMAGE).string(Key::Migration, "m");
    let message = message.uint(Key::Port, 5801).uint(Key::Size, 1 << 20).uint(Key::Index, 0).uint(Key::Mode, 1).bool(Key::Enable, true);
    let message =
        message.bool(Key::Action, true).bool(Key::Policy, true).uint(Key::Protocol, 0).uint(Key::Disk, 0).bool(Key::Immediate, false);
    let message = message.strings(Key::Server, ["10.0.0.2".into()]).strings(Key::Instance, [guest().to_string()]).uint(Key::Option, 0);
    // A new guest needs an id of its own.
    let own = if id == MessageId::CREATE_GUEST_REQUEST { GuestId::from_bytes([2; 16]) } else { guest() };
    message.string(Key::Instance, own.to_string()).string(Key::Name, "group.other")
}

/// Sends it and waits for whatever it leads to; the answer, where the message has one.
async fn send(rig: &mut Rig, request: Message) -> Option<Message> {
    let entry = find(request.id).unwrap();
    let answer = match entry.answer {
        Some(_) => Some(rig.ask(request).await),
        None => {
            rig.engine.request(LINK, request);
            None
        }
    };
    rig.settle().await;
    rig.take_host_events().await;
    answer
}

/// The guest is there and runs, whatever became of it before.
async fn restore(rig: &mut Rig) {
    let present = rig.node.books.lock().guests.get(&guest()).map(|guest| guest.power);
    if present.is_none() {
        rig.with_guest(1).await;
    }
    if present != Some(PowerState::Running) {
        send(rig, start_request(guest())).await;
    }
    let others: Vec<GuestId> = rig.node.books.lock().guests.keys().filter(|id| **id != guest()).copied().collect();
    for id in others {
        send(rig, about(MessageId::STOP_INSTANCE_REQUEST, id).uints(Key::Option, [0, 1])).await;
        send(rig, about(MessageId::DELETE_GUEST_REQUEST, id)).await;
    }
    rig.sent();
}

/// Nothing lies outside of a pool's directory, and no name leads out of one.
fn assert_inside(state: &SimState, what: &str) {
    for target in state.pools.values().map(|pool| &pool.target).chain(state.directories.keys()) {
        let is_clean = target.starts_with('/') && !target.split('/').any(|part| part == "..") && !target.contains(char::is_control);
        assert!(is_clean, "{what}: the pool {target:?}");
    }
    for volume in state.directories.values().flat_map(|directory| directory.keys()) {
        assert!(!volume.contains(['/', '\0', '\n']) && !volume.starts_with(['.', '-']), "{what}: the volume {volume:?}");
    }
    let paths = state.files.keys().chain(state.layers.keys()).chain(state.contents.keys()).chain(state.parts.keys());
    for path in paths {
        let inside = state.directories.keys().any(|directory| {
            path.strip_prefix(directory.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|name| !name.split('/').any(|part| part == ".."))
        });
        assert!(inside, "{what}: {path:?}");
    }
}

/// The books on disk are read again as they are.
async fn assert_readable(rig: &Rig, what: &str) {
    rig.node.save(&DataFile::ALL).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    for (name, text) in rig.files() {
        std::fs::write(copy.path().join(name), text).unwrap();
    }
    let opened = Store::open(copy.path(), "br0").unwrap();
    assert_eq!(opened.loaded.notices, [], "{what}");
    let books = rig.node.books.lock();
    let kept: Vec<_> = books.guests.values().map(|guest| guest.config.clone()).collect();
    assert_eq!(opened.loaded.instance.instances, kept, "{what}");
}

#[tokio::test(start_paused = true)]
async fn every_text_of_every_transaction_may_be_hostile() {
    let mut rig = Rig::new().await;
    let hostile = hostile();
    for id in HANDLED.iter().filter(|id| **id != MessageId::COMPUTE_POOL_READY_EVENT) {
        for (number, text) in hostile.iter().enumerate() {
            let single = TEXTS.iter().map(|key| request(*id).string(*key, text));
            let listed = LISTS.iter().map(|key| request(*id).strings(*key, [text.clone()]));
            // A third of the texts for each parameter, others for the next one and the next message.
            let turn = usize::try_from(id.0 >> 8).unwrap() + number;
            for (_, request) in single.chain(listed).enumerate().filter(|(key, _)| (key + turn) % 3 == 0) {
                // Whatever the one before did; most did nothing.
                restore(&mut rig).await;
                if let Some(answer) = send(&mut rig, request).await {
                    assert!(answer.success || !answer.error.is_empty());
                    assert!(!answer.error.contains("internal error"), "{id} {text:?}: {}", answer.error);
                    assert!(answer.error.chars().count() <= 1001, "{id}: an error of {} bytes", answer.error.len());
                }
            }
            assert_inside(&rig.sim.state(), &format!("{id} text {number}"));
        }
        assert_readable(&rig, &id.to_string()).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_text_anywhere_is_answered(
        cases in proptest::collection::vec((0..HANDLED.len(), 0..TEXTS.len(), prop_oneof![any::<String>(), "[./\\\\:a-z0-9-]{0,40}"], any::<bool>()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new().await;
            for (id, key, text, alone) in cases {
                restore(&mut rig).await;
                let (id, key) = (HANDLED[id], TEXTS[key]);
                let request = if alone { about(id, guest()).string(key, text) } else { request(id).string(key, text) };
                if let Some(answer) = send(&mut rig, request).await {
                    assert!(!answer.error.contains("internal error"), "{}", answer.error);
                }
            }
            assert_inside(&rig.sim.state(), "any text");
            assert_readable(&rig, "any text").await;
        });
    }

    /// The guest's agent gets exactly the account and the password that were asked for, as JSON.
    #[test]
    fn accounts_and_passwords_reach_the_agent_as_they_are(user in "[^\\x00]{1,40}", secret in "[^\\x00]{1,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new().await;
            let id = rig.with_guest(1).await;
            send(&mut rig, start_request(id)).await;
            rig.sim.set_agent_answer(id, "guest-set-user-password", "{\"return\":{}}");
            let request = Message::new(MessageId::MODIFY_AUTH_REQUEST).string(Key::Guest, id.to_string());
            let answer = send(&mut rig, request.string(Key::User, &user).string(Key::Secret, &secret)).await.unwrap();
            let told = rig.sim.agent_commands(id);
            let Some(command) = told.iter().find(|command| command.contains("guest-set-user-password")) else {
                assert!(!answer.success, "nothing was told, and yet it is done");
                return;
            };
            let command: serde_json::Value = serde_json::from_str(command).unwrap();
            use base64::Engine as _;
            let password = base64::engine::general_purpose::STANDARD.decode(command["arguments"]["password"].as_str().unwrap()).unwrap();
            assert_eq!((command["arguments"]["username"].as_str(), password.as_slice()), (Some(user.as_str()), secret.as_bytes()));
        });
    }
}

/// The passwords that a transaction handles are in its answer to the Core and in the data files, and nowhere else.
#[tokio::test(start_paused = true)]
async fn failures_never_quote_a_password() {
    const MARKER: &str = "m4rk3r-Zx9";
    let mut rig = Rig::new().await;
    for id in HANDLED {
        restore(&mut rig).await;
        let Some(answer) = send(&mut rig, request(*id).string(Key::Secret, MARKER).strings(Key::Module, ["cloud-init".into()])).await
        else {
            continue;
        };
        assert!(!answer.error.contains(MARKER), "{id}: {}", answer.error);
        let shown = format!("{:?}", rig.node.books.lock().guests);
        assert!(!shown.contains(MARKER), "{id}");
    }
}
