use super::*;

const TAKEOVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1");

fn rule(protocol: Protocol, port: u16) -> Rule {
    Rule { accept: true, protocol, source_address: String::new(), target_address: String::new(), target_port: port, interface: 0 }
}

fn matches(policy: &SecurityPolicy) -> Vec<Node> {
    let document = Node::parse(&build(GuestId::from_bytes([1; 16]), Some(policy)).unwrap()).unwrap();
    document.children.into_iter().flat_map(|node| node.children).collect()
}

#[test]
fn each_guest_of_the_reference_gets_the_filter_that_the_reference_gave_it() {
    let text = std::fs::read_to_string(format!("{TAKEOVER}/data/instance.data")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let guests: Vec<crate::model::GuestConfig> = serde_json::from_value(file["instances"].clone()).unwrap();
    assert_eq!(guests.len(), 5);
    for guest in guests {
        let theirs = std::fs::read_to_string(format!("{TAKEOVER}/nwfilters/{}.xml", name(guest.id))).unwrap();
        let ours = build(guest.id, guest.security.as_ref()).unwrap();
        assert!(same(&ours, &theirs).unwrap(), "{ours}\n{theirs}");
    }
}

#[test]
fn icmp_has_no_port_and_the_target_address_counts() {
    let mut web = rule(Protocol::Tcp, 80);
    web.target_address = "10.0.0.9".into();
    let policy = SecurityPolicy { accept: false, rules: vec![rule(Protocol::Icmp, 7), web, rule(Protocol::Udp, 0)] };
    let found = matches(&policy);
    assert_eq!(found[0].attributes, [("protocol".to_owned(), "icmp".to_owned())]);
    assert_eq!((found[1].attribute("dstipaddr"), found[1].attribute("dstportstart")), (Some("10.0.0.9"), Some("80")));
    assert_eq!(found[2].attributes, [("protocol".to_owned(), "udp".to_owned())]);
}

#[test]
fn priorities_keep_the_order_of_the_rules() {
    let policy = SecurityPolicy { accept: false, rules: vec![rule(Protocol::Tcp, 1); MAX_RULES] };
    let document = Node::parse(&build(GuestId::from_bytes([1; 16]), Some(&policy)).unwrap()).unwrap();
    let priorities: Vec<i32> = document.children.iter().filter_map(|node| node.attribute("priority")?.parse().ok()).collect();
    assert_eq!((priorities[0], *priorities.last().unwrap()), (-1000, 1000));
    assert!(priorities.windows(2).all(|pair| pair[0] < pair[1]));
    let policy = SecurityPolicy { accept: false, rules: vec![rule(Protocol::Tcp, 1); MAX_RULES + 1] };
    assert_eq!(build(GuestId::from_bytes([1; 16]), Some(&policy)).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn another_default_is_another_filter() {
    let id = GuestId::from_bytes([1; 16]);
    let accept = build(id, None).unwrap();
    assert!(same(&accept, &build(id, Some(&SecurityPolicy { accept: true, rules: vec![] })).unwrap()).unwrap());
    assert!(!same(&accept, &build(id, Some(&SecurityPolicy { accept: false, rules: vec![] })).unwrap()).unwrap());
}
