use tokio::time::sleep;

use super::*;
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{start_request, stop_request, Rig};

/// A node with a running guest whose agent knows these commands, and its watch.
async fn watched(commands: &[&str]) -> (Rig, GuestId) {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    rig.settle().await;
    rig.take_host_events().await;
    commands.iter().for_each(|command| learn(&rig, id, command));
    tokio::spawn(keep(rig.node.clone()));
    (rig, id)
}

fn learn(rig: &Rig, id: GuestId, command: &str) {
    rig.sim.set_agent_answer(id, command, "{\"return\":1}");
}

async fn snapshot(rig: &mut Rig, id: GuestId) {
    let request = Message::new(MessageId::CREATE_SNAPSHOT_REQUEST).string(Key::Instance, id.to_string()).string(Key::Name, "one");
    let answer = rig.ask(request).await;
    assert!(answer.success, "{}", answer.error);
}

fn is_frozen(rig: &Rig, id: GuestId) -> bool {
    rig.sim.state().domains[&id].frozen
}

/// Nothing is owed, so nobody asks any more.
async fn is_quiet(rig: &Rig) -> bool {
    let before = rig.sim.operations();
    sleep(PACE * 10).await;
    rig.node.thaws.lines().is_empty() && rig.sim.operations() == before
}

#[tokio::test(start_paused = true)]
async fn file_systems_are_frozen_for_a_snapshot_and_thawed() {
    let (mut rig, id) = watched(&["guest-ping", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]).await;
    snapshot(&mut rig, id).await;
    let told = rig.sim.agent_commands(id);
    assert_eq!(told[..3], [agent::PING, agent::FREEZE, agent::THAW]);
    assert!(!is_frozen(&rig, id));
    sleep(PACE).await;
    assert!(is_quiet(&rig).await);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_thaw_is_asked_until_it_has() {
    let (mut rig, id) = watched(&["guest-ping", "guest-fsfreeze-freeze"]).await;
    snapshot(&mut rig, id).await;
    sleep(PACE * 3).await;
    assert!(is_frozen(&rig, id));
    let lines = rig.node.thaws.lines();
    assert!(lines.len() == 1 && lines[0].contains(&id.to_string()) && lines[0].contains("does not thaw"), "{lines:?}");
    learn(&rig, id, "guest-fsfreeze-thaw");
    sleep(PACE * 2).await;
    assert!(!is_frozen(&rig, id));
    assert!(is_quiet(&rig).await);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_needs_no_thaw() {
    let (mut rig, id) = watched(&["guest-ping", "guest-fsfreeze-freeze"]).await;
    snapshot(&mut rig, id).await;
    sleep(PACE).await;
    assert_eq!(rig.node.thaws.lines().len(), 1);
    assert!(rig.ask(stop_request(id, [0, 1])).await.success);
    sleep(PACE * 2).await;
    assert!(is_quiet(&rig).await);
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_an_agent_that_listens_is_not_frozen() {
    let (mut rig, id) = watched(&["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]).await;
    snapshot(&mut rig, id).await;
    assert_eq!(rig.sim.agent_commands(id), [agent::PING]);
    assert!(is_quiet(&rig).await);
}
