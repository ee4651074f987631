//! The security policy of a guest (contract §6.8).

use std::collections::BTreeSet;

use super::guest;
use crate::host::sim::{Effect, Fault, Operation};
use crate::host::ErrorKind;
use crate::model::{GuestId, Protocol, Rule, SecurityPolicy};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::testing::{about, start_request, Rig};

/// 10.0.0.`last` as the wire has it.
fn address(last: u64) -> u64 {
    (10 << 24) + last
}

fn rule(request: Message, [accept, protocol, from, to, port]: [u64; 5]) -> Message {
    let request = request.bool(Key::Action, accept == 1).uint(Key::Protocol, protocol);
    request.uint(Key::From, from).uint(Key::To, to).uint(Key::Port, port)
}

fn add(id: GuestId, values: [u64; 5]) -> Message {
    rule(about(MessageId::ADD_GUEST_RULE_REQUEST, id), values)
}

fn modify(id: GuestId, index: i64, values: [u64; 5]) -> Message {
    rule(about(MessageId::MODIFY_GUEST_RULE_REQUEST, id).int(Key::Index, index), values)
}

fn remove(id: GuestId, index: i64) -> Message {
    about(MessageId::REMOVE_GUEST_RULE_REQUEST, id).int(Key::Index, index)
}

fn order(id: GuestId, index: i64, mode: i64) -> Message {
    about(MessageId::CHANGE_GUEST_RULE_ORDER_REQUEST, id).int(Key::Index, index).int(Key::Mode, mode)
}

fn default_action(id: GuestId, accept: bool) -> Message {
    about(MessageId::CHANGE_GUEST_RULE_DEFAULT_ACTION_REQUEST, id).bool(Key::Action, accept)
}

async fn told(rig: &mut Rig, id: GuestId) -> [Vec<u64>; 5] {
    let answer = rig.ask(about(MessageId::GET_GUEST_RULE_REQUEST, id)).await;
    assert!(answer.success && answer.id == MessageId::GET_GUEST_RULE_RESPONSE, "{}", answer.error);
    [Key::From, Key::To, Key::Port, Key::Protocol, Key::Action].map(|key| answer.uint_array_params[&key].clone())
}

fn filter(rig: &Rig, id: GuestId) -> Option<SecurityPolicy> {
    rig.sim.state().domains[&id].filter.clone()
}

async fn done(rig: &mut Rig, request: Message) {
    let name = request.id;
    let answer = rig.ask(request).await;
    assert!(answer.success && answer.id == name.response(), "{name}: {}", answer.error);
}

async fn refused(rig: &mut Rig, request: Message, why: &str) {
    let (name, state, files) = (request.id, rig.sim.state(), rig.files());
    let answer = rig.ask(request).await;
    assert!(!answer.success && answer.error.contains(why), "{name}: {}", answer.error);
    assert_eq!((rig.sim.state(), rig.files()), (state, files), "{name}");
}

#[tokio::test(start_paused = true)]
async fn d6_every_request_works_for_a_guest_that_never_had_a_policy() {
    let mut rig = Rig::new().await;
    let fresh = rig.with_guest(1).await;
    assert_eq!(told(&mut rig, fresh).await, [vec![], vec![], vec![], vec![], vec![0]]);
    assert_eq!(filter(&rig, fresh), None, "asking changes nothing");
    done(&mut rig, default_action(fresh, false)).await;
    assert_eq!(filter(&rig, fresh), Some(SecurityPolicy { accept: false, rules: vec![] }));
    let other = rig.with_guest(2).await;
    done(&mut rig, add(other, [0, 0, 0, 0, 22])).await;
    assert!(filter(&rig, other).is_some_and(|policy| policy.accept && policy.rules.len() == 1));
    let third = rig.with_guest(3).await;
    refused(&mut rig, modify(third, 0, [1, 0, 0, 0, 1]), "no rules").await;
    refused(&mut rig, remove(third, 0), "no rules").await;
    refused(&mut rig, order(third, 0, 1), "no rules").await;
    refused(&mut rig, default_action(third, true), "already").await;
}

#[tokio::test(start_paused = true)]
async fn rules_are_added_changed_ordered_removed_told_and_written_down() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    assert!(rig.ask(start_request(id)).await.success);
    done(&mut rig, add(id, [1, 0, address(9), 0, 22])).await;
    done(&mut rig, add(id, [1, 1, 0, address(5), 53])).await;
    done(&mut rig, add(id, [0, 2, 0, 0, 0])).await;
    done(&mut rig, default_action(id, false)).await;
    let expected = [vec![address(9), 0, 0], vec![0, address(5), 0], vec![22, 53, 0], vec![0, 1, 2], vec![0, 0, 1, 1]];
    assert_eq!(told(&mut rig, id).await, expected);
    let policy = filter(&rig, id).unwrap();
    assert_eq!(policy.rules[1].target_address, "10.0.0.5", "e5: the target address is a part of the rule");
    assert_eq!((policy.rules[2].protocol, policy.rules[2].target_port), (Protocol::Icmp, 0), "a3: ICMP without a port");
    // Up is towards the beginning.
    done(&mut rig, order(id, 2, 1)).await;
    assert_eq!(told(&mut rig, id).await[3], [0, 2, 1]);
    done(&mut rig, order(id, 0, -1)).await;
    assert_eq!(told(&mut rig, id).await[3], [2, 0, 1]);
    done(&mut rig, order(id, 1, 0)).await;
    assert_eq!(told(&mut rig, id).await[3], [0, 2, 1]);
    done(&mut rig, modify(id, 2, [0, 0, 0, 0, 80])).await;
    assert_eq!(told(&mut rig, id).await[2], [22, 0, 80]);
    done(&mut rig, remove(id, 1)).await;
    assert_eq!(told(&mut rig, id).await, [vec![address(9), 0], vec![0, 0], vec![22, 80], vec![0, 0], vec![0, 1, 1]]);
    // The running guest, the books and the disk agree.
    let books = rig.node.books.guest(id).unwrap().config.security.clone();
    assert_eq!(filter(&rig, id), books);
    let file: serde_json::Value = serde_json::from_str(&rig.files()["instance.data"]).unwrap();
    assert_eq!(serde_json::from_value::<Option<SecurityPolicy>>(file["instances"][0]["security"].clone()).unwrap(), books);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    done(&mut rig, add(id, [1, 0, 0, 0, 22])).await;
    done(&mut rig, add(id, [1, 2, 0, 0, 7])).await;
    // A duplicate, whatever it does.
    refused(&mut rig, add(id, [0, 0, 0, 0, 22]), "rule 0").await;
    refused(&mut rig, modify(id, 1, [1, 0, 0, 0, 22]), "rule 0").await;
    refused(&mut rig, add(id, [1, 2, 0, 0, 0]), "rule 1").await;
    done(&mut rig, add(id, [1, 0, address(1), 0, 22])).await;
    // The same again.
    refused(&mut rig, modify(id, 0, [1, 0, 0, 0, 22]), "already").await;
    // §14 C4: places that there are not.
    for index in [-1, i64::MIN, 3, i64::MAX] {
        refused(&mut rig, modify(id, index, [1, 0, 0, 0, 9]), "Index").await;
        refused(&mut rig, remove(id, index), "Index").await;
        refused(&mut rig, order(id, index, 1), "Index").await;
    }
    refused(&mut rig, order(id, 0, 1), "first").await;
    refused(&mut rig, order(id, 2, -1), "last").await;
    // §14 A3.
    refused(&mut rig, add(id, [1, 0, 0, 0, 0]), "Port").await;
    refused(&mut rig, add(id, [1, 1, 0, 0, 65536]), "Port").await;
    refused(&mut rig, add(id, [1, 3, 0, 0, 1]), "Protocol").await;
    refused(&mut rig, add(id, [1, 0, 1 << 32, 0, 1]), "From").await;
    refused(&mut rig, add(id, [1, 0, 0, 1 << 32, 1]), "To").await;
    refused(&mut rig, add(guest(9), [1, 0, 0, 0, 1]), "no guest").await;
}

#[tokio::test(start_paused = true)]
async fn a1_a_missing_parameter_is_a_failure_that_names_it() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    done(&mut rig, add(id, [1, 0, 0, 0, 22])).await;
    let all = [
        about(MessageId::GET_GUEST_RULE_REQUEST, id),
        add(id, [1, 0, 0, 0, 23]),
        modify(id, 0, [1, 0, 0, 0, 24]),
        remove(id, 0),
        order(id, 0, 1),
        default_action(id, false),
    ];
    for request in all {
        let strings = request.string_params.keys().chain(request.uint_params.keys());
        let keys: BTreeSet<Key> = strings.chain(request.bool_params.keys()).chain(request.int_params.keys()).copied().collect();
        for key in keys {
            let mut cut = request.clone();
            cut.string_params.remove(&key);
            cut.uint_params.remove(&key);
            cut.bool_params.remove(&key);
            cut.int_params.remove(&key);
            refused(&mut rig, cut, &key.to_string()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d5_a_filter_that_cannot_be_changed_leaves_everything_as_it_was() {
    let requests =
        |id| [add(id, [1, 0, 0, 0, 23]), modify(id, 0, [1, 0, 0, 0, 24]), remove(id, 0), order(id, 0, -1), default_action(id, false)];
    for index in 0..requests(guest(1)).len() {
        for effect in [Effect::None, Effect::Done] {
            for kind in [ErrorKind::Failed, ErrorKind::Unknown] {
                let mut rig = Rig::new().await;
                let id = rig.with_guest(1).await;
                done(&mut rig, add(id, [1, 0, 0, 0, 22])).await;
                done(&mut rig, add(id, [0, 0, 0, 0, 80])).await;
                let before = told(&mut rig, id).await;
                rig.sim.fail_next(Operation::UpdateFilter, Fault { kind, effect });
                refused(&mut rig, requests(id)[index].clone(), "").await;
                assert_eq!(told(&mut rig, id).await, before);
                done(&mut rig, requests(id)[index].clone()).await;
            }
        }
        let mut rig = Rig::new().await;
        let id = rig.with_guest(1).await;
        done(&mut rig, add(id, [1, 0, 0, 0, 22])).await;
        done(&mut rig, add(id, [0, 0, 0, 0, 80])).await;
        let before = told(&mut rig, id).await;
        std::fs::create_dir(rig.directory.path().join("instance.data.tmp")).unwrap();
        refused(&mut rig, requests(id)[index].clone(), "data").await;
        assert_eq!(told(&mut rig, id).await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_puts_the_filter_right_first() {
    let mut rig = Rig::new().await;
    let id = rig.with_guest(1).await;
    done(&mut rig, add(id, [0, 0, 0, 0, 22])).await;
    let wanted = filter(&rig, id);
    let rule = Rule {
        accept: true,
        protocol: Protocol::Udp,
        source_address: String::new(),
        target_address: String::new(),
        target_port: 1,
        interface: 0,
    };
    rig.sim.set_filter_behind(id, Some(SecurityPolicy { accept: true, rules: vec![rule] }));
    rig.sim.fail_next(Operation::UpdateFilter, ErrorKind::Failed);
    assert!(!rig.ask(start_request(id)).await.success, "no guest runs without its filter");
    assert!(rig.ask(start_request(id)).await.success);
    assert_eq!(filter(&rig, id), wanted);
}
