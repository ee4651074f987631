use super::*;
use crate::model::{Protocol, Rule};

const TAKEOVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1");

fn captured() -> Vec<GuestConfig> {
    let text = std::fs::read_to_string(format!("{TAKEOVER}/data/instance.data")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let guests: Vec<GuestConfig> = serde_json::from_value(file["instances"].clone()).unwrap();
    assert_eq!(guests.len(), 5);
    guests
}

fn guest(security: Option<SecurityPolicy>) -> GuestConfig {
    let guest = captured().swap_remove(0);
    GuestConfig { security, internal_address: String::new(), external_address: String::new(), ..guest }
}

fn policy(accept: bool, rules: Vec<Rule>) -> Option<SecurityPolicy> {
    Some(SecurityPolicy { accept, rules })
}

fn rule(accept: bool, protocol: Protocol, port: u16) -> Rule {
    Rule { accept, protocol, source_address: String::new(), target_address: String::new(), target_port: port, interface: 0 }
}

/// Each rule in one line: action, direction, state matching, what it matches with its attributes.
fn lines(guest: &GuestConfig, tracking: Tracking) -> Vec<String> {
    let document = Node::parse(&build(guest, tracking).unwrap()).unwrap();
    let mut rules: Vec<&Node> = document.children.iter().filter(|node| node.name == "rule").collect();
    rules.sort_by_key(|rule| rule.attribute("priority").unwrap().parse::<i32>().unwrap());
    let text = |node: &Node| {
        let attributes: Vec<String> = node.attributes.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        format!("{}{}", node.name, attributes.join(""))
    };
    let line = |rule: &Node| {
        let loose = if rule.attribute("statematch") == Some("false") { " loose" } else { "" };
        format!("{} {}{loose} {}", rule.attribute("action").unwrap(), rule.attribute("direction").unwrap(), text(&rule.children[0]))
    };
    rules.into_iter().map(line).collect()
}

fn position(lines: &[String], line: &str) -> usize {
    lines.iter().position(|found| found == line).unwrap_or_else(|| panic!("no '{line}' in {lines:#?}"))
}

#[test]
fn a_guest_of_the_reference_keeps_its_policy_in_a_filter_of_the_same_name() {
    for guest in captured() {
        let theirs = Node::parse(&std::fs::read_to_string(format!("{TAKEOVER}/nwfilters/{}.xml", name(guest.id))).unwrap()).unwrap();
        let ours = Node::parse(&build(&guest, Tracking::Connections).unwrap()).unwrap();
        assert_eq!((ours.attribute("name"), ours.text_at(&["uuid"])), (theirs.attribute("name"), theirs.text_at(&["uuid"])));
        // The reference has one rule for outgoing traffic, one for each of the policy, and the default.
        let policy = guest.policy();
        assert_eq!(theirs.children.iter().filter(|node| node.name == "rule").count(), policy.rules.len() + 2);
        let lines = lines(&guest, Tracking::Connections);
        for rule in policy.rules.iter().filter(|_| guards(Some(&policy))) {
            let port = format!("dstportstart={}", rule.target_port);
            let found = lines.iter().any(|line| line.contains(&port) && line.contains(&rule.source_address));
            assert!(found || rule.protocol == Protocol::Icmp, "{rule:?} {lines:#?}");
        }
        assert_eq!(lines.contains(&"drop in all".to_owned()), !policy.accept);
    }
}

#[test]
fn nobody_pretends_to_be_another() {
    let mut one = guest(None);
    one.hardware_address = "00:16:3e:01:02:03".into();
    let mac = ["drop out mac match=no srcmacaddr=00:16:3e:01:02:03", "drop out arp match=no arpsrcmacaddr=00:16:3e:01:02:03"];
    assert_eq!(lines(&one, Tracking::Connections), mac, "without an assigned address it may use any");
    one.internal_address = "10.0.0.5/24".into();
    one.external_address = "192.0.2.7/32".into();
    let lines = lines(&one, Tracking::None);
    let [arp, ip] = ["drop out arp", "drop out ip"].map(|line| position(&lines, line));
    for address in ["10.0.0.5", "192.0.2.7", "0.0.0.0"] {
        assert!(position(&lines, &format!("accept out arp arpsrcipaddr={address}")) < arp);
    }
    assert!(position(&lines, "accept out ip srcipaddr=10.0.0.5") < ip);
    assert!(position(&lines, "accept out ip srcipaddr=0.0.0.0 protocol=udp") < ip, "it may ask for its address");
    assert!(position(&lines, mac[0]) < position(&lines, "accept out ip srcipaddr=10.0.0.5"));
}

#[test]
fn e6_reject_lets_answers_arp_neighbour_discovery_and_dhcp_pass() {
    let lines = lines(&guest(policy(false, vec![rule(true, Protocol::Tcp, 22)])), Tracking::Connections);
    let [all, all6, rest] = ["drop in all", "drop in all-ipv6", "drop in mac"].map(|line| position(&lines, line));
    for passes in [
        "accept out all",
        "accept inout all state=RELATED",
        "accept in loose udp srcportstart=67 dstportstart=68",
        "accept in tcp dstportstart=22",
    ] {
        assert!(position(&lines, passes) < all, "{passes}");
    }
    for passes in
        ["accept out all-ipv6", "accept in loose icmpv6 type=135", "accept out loose icmpv6 type=136", "accept in tcp-ipv6 dstportstart=22"]
    {
        assert!(position(&lines, passes) < all6, "{passes}");
    }
    for passes in ["accept in arp", "accept in ip", "accept in ipv6"] {
        assert!(position(&lines, passes) < rest, "{passes}");
    }
}

#[test]
fn e4_e5_icmp_has_no_port_and_the_target_address_counts() {
    let mut web = rule(true, Protocol::Tcp, 80);
    web.target_address = "10.0.0.9".into();
    web.source_address = "10.0.0.1".into();
    let one = guest(policy(false, vec![rule(true, Protocol::Icmp, 7), web, rule(false, Protocol::Udp, 0)]));
    for (tracking, expected) in [
        (Tracking::Connections, ["accept in icmp", "accept in tcp srcipaddr=10.0.0.1 dstipaddr=10.0.0.9 dstportstart=80", "drop in udp"]),
        (
            Tracking::None,
            [
                "accept in ip protocol=icmp",
                "accept in ip srcipaddr=10.0.0.1 dstipaddr=10.0.0.9 dstportstart=80 protocol=tcp",
                "drop in ip protocol=udp",
            ],
        ),
    ] {
        let lines = lines(&one, tracking);
        let places = expected.map(|line| position(&lines, line));
        assert!(places.is_sorted(), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("ipv6") && line.contains("=80")), "an IPv4 address is no IPv6 rule");
    }
}

#[test]
fn a_kernel_that_follows_no_connections_is_as_strict_as_the_reference() {
    let lines = lines(&guest(policy(false, vec![rule(true, Protocol::Tcp, 22)])), Tracking::None);
    assert_eq!(lines.last().unwrap(), "drop in mac");
    for passes in ["accept in arp", "accept in ipv6 protocol=icmpv6 type=135", "accept in ip dstportstart=22 protocol=tcp"] {
        position(&lines, passes);
    }
    assert!(!lines.iter().any(|line| line.contains(" all")));
}

#[test]
fn a_policy_that_turns_nothing_away_costs_no_rules() {
    for tracking in [Tracking::Connections, Tracking::None] {
        let none = lines(&guest(None), tracking);
        assert_eq!(lines(&guest(policy(true, vec![rule(true, Protocol::Tcp, 22)])), tracking), none);
        assert_ne!(lines(&guest(policy(true, vec![rule(false, Protocol::Tcp, 22)])), tracking), none);
        assert_ne!(lines(&guest(policy(false, vec![])), tracking), none);
    }
}

#[test]
fn priorities_are_libvirts_and_keep_the_order_of_the_rules() {
    let rules: Vec<Rule> = (1..=MAX_RULES).map(|port| rule(false, Protocol::Tcp, u16::try_from(port).unwrap())).collect();
    let mut one = guest(policy(true, rules));
    for tracking in [Tracking::Connections, Tracking::None] {
        let document = Node::parse(&build(&one, tracking).unwrap()).unwrap();
        let of = |node: &Node| {
            Some((node.attribute("priority")?.parse::<i32>().unwrap(), node.children[0].attribute("dstportstart")?.to_owned()))
        };
        let found: Vec<(i32, String)> = document.children.iter().filter_map(of).filter(|(priority, _)| *priority >= -800).collect();
        assert!(found.iter().all(|(priority, _)| (-1000..1000).contains(priority)));
        assert!(found.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!(found.last().unwrap().1, MAX_RULES.to_string());
    }
    one.security.as_mut().unwrap().rules.push(rule(true, Protocol::Udp, 1));
    assert_eq!(build(&one, Tracking::None).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn a_filter_is_compared_by_what_it_says() {
    let text = build(&guest(policy(false, vec![])), Tracking::Connections).unwrap();
    assert!(same(&text, &text.replace("action=\"drop\" direction=\"in\"", "direction=\"in\" action=\"drop\"")).unwrap());
    assert!(!same(&text, &build(&guest(None), Tracking::Connections).unwrap()).unwrap());
}

proptest::proptest! {
    /// A text in the place of an address or a MAC is refused, or changes nothing of the filter but values.
    #[test]
    fn hostile_texts_are_refused_or_stay_texts(source in "[<>&'\"/a-z0-9.:\\]!-]{0,24}", target in proptest::prelude::any::<String>(), mac in proptest::prelude::any::<String>()) {
        let rules = vec![Rule { source_address: source, target_address: target, ..rule(false, Protocol::Tcp, 80) }];
        let changed = GuestConfig { hardware_address: mac, ..guest(policy(true, rules)) };
        for tracking in [Tracking::Connections, Tracking::None] {
            match build(&changed, tracking) {
                Err(error) => proptest::prop_assert_eq!(error.kind, ErrorKind::Invalid),
                Ok(document) => {
                    let document = Node::parse(&document).unwrap();
                    let known = ["uuid", "rule", "filterref"];
                    proptest::prop_assert!(document.children.iter().all(|child| known.contains(&child.name.as_str())), "{:?}", document);
                }
            }
        }
    }
}
