use super::*;
use crate::host::libvirt::xml::Node;
use crate::model::{GuestId, Secret, Template};

const TAKEOVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1");

fn machine() -> Machine {
    Machine { kind: "kvm", emulator: "/usr/bin/qemu-system-x86_64".into(), max_cpus: 255 }
}

/// The guests that the reference left behind.
fn captured() -> Vec<GuestConfig> {
    let text = std::fs::read_to_string(format!("{TAKEOVER}/data/instance.data")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(file["instances"].clone()).unwrap()
}

fn guest() -> GuestConfig {
    captured().into_iter().find(|guest| guest.name == "manager.web").unwrap()
}

fn parsed(guest: &GuestConfig) -> Node {
    Node::parse(&build(guest, &machine(), None).unwrap()).unwrap()
}

fn devices<'a>(domain: &'a Node, kind: &str) -> Vec<&'a Node> {
    domain.find(&["devices"]).unwrap().children.iter().filter(|device| device.name == kind).collect()
}

/// Every element, attribute and text of `ours` is in `theirs`, which libvirt has filled up with its defaults.
fn assert_contained(ours: &Node, theirs: &Node, path: &str) {
    let path = format!("{path}/{}", ours.name);
    assert_eq!(ours.text, theirs.text, "{path}");
    for (key, value) in &ours.attributes {
        let found = theirs.attribute(key);
        // "pc" is replaced by the newest machine, and a block CD-ROM without a medium becomes a file.
        if (key.as_str(), value.as_str(), found) == ("machine", "pc", Some("pc-i440fx-7.2")) || (value == "block" && found == Some("file"))
        {
            continue;
        }
        assert_eq!(found, Some(value.as_str()), "{path}@{key}");
    }
    let mut left: Vec<&Node> = theirs.children.iter().collect();
    for child in &ours.children {
        let found = left.iter().position(|other| other.name == child.name && key_of(other) == key_of(child));
        let found = found.unwrap_or_else(|| panic!("{path}: no {} like {:?}", child.name, key_of(child)));
        assert_contained(child, left.remove(found), &path);
    }
}

/// What tells elements of one name apart.
fn key_of(node: &Node) -> Option<&str> {
    match node.name.as_str() {
        "disk" => node.find(&["target"]).and_then(|target| target.attribute("dev")),
        "controller" | "input" => node.attribute("type"),
        "boot" => node.attribute("dev"),
        _ => None,
    }
}

#[test]
fn each_guest_of_the_reference_gets_the_domain_that_the_reference_gave_it() {
    let guests = captured();
    assert_eq!(guests.len(), 5);
    for guest in guests {
        let theirs = std::fs::read_to_string(format!("{TAKEOVER}/domains/{}.xml", guest.id)).unwrap();
        assert_contained(&parsed(&guest), &Node::parse(&theirs).unwrap(), &guest.name);
    }
}

#[test]
fn topology_is_valid_for_every_count_and_the_references_where_that_was_valid() {
    assert_eq!(Topology::of(0), None);
    for count in 1..=512 {
        let shape = Topology::of(count).unwrap();
        assert_eq!(shape.sockets * shape.cores * shape.threads, count, "{shape:?}");
    }
    let table =
        [(1, (1, 1, 1)), (2, (1, 1, 2)), (32, (1, 16, 2)), (64, (1, 32, 2)), (68, (2, 17, 2)), (128, (2, 32, 2)), (256, (4, 32, 2))];
    let ours = [(3, (1, 3, 1)), (7, (1, 7, 1)), (66, (1, 33, 2)), (130, (1, 65, 2))];
    for (count, (sockets, cores, threads)) in table.into_iter().chain(ours) {
        assert_eq!(Topology::of(count), Some(Topology { sockets, cores, threads }), "{count} cores");
    }
}

#[test]
fn what_can_not_work_is_refused_with_the_value() {
    let refused = |change: fn(&mut GuestConfig)| {
        let mut guest = guest();
        change(&mut guest);
        let error = build(&guest, &machine(), None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        error.to_string()
    };
    assert!(refused(|guest| guest.cores = 0).contains("no core"));
    assert!(refused(|guest| guest.cores = 256).contains("256 cores are more than the 255"));
    assert!(refused(|guest| guest.memory = 4096).contains("4096 bytes"));
    assert!(refused(|guest| guest.cpu_priority = 3).contains("priority 3"));
    assert!(refused(|guest| guest.name = "a/b".into()).contains("a/b"));
    assert!(refused(|guest| guest.name = "a\u{0}b".into()).contains("control character"));
    assert!(!refused(|guest| guest.monitor_secret = Secret::new("top\nsecret")).contains("secret'"));
    for change in [
        (|guest| guest.template.disk = "invalid".into()) as fn(&mut GuestConfig),
        |guest| guest.template.network = "invalid".into(),
        |guest| guest.template.display = "invalid".into(),
        |guest| guest.template.control = "invalid".into(),
        |guest| guest.template.usb = "invalid".into(),
        |guest| guest.template.tablet = "invalid".into(),
    ] {
        assert!(refused(change).contains("'invalid'"));
    }
}

#[test]
fn hostile_names_stay_names() {
    let mut guest = guest();
    guest.name = "x]]><!-- \"&amp;'<disk type='block'>".into();
    guest.monitor_secret = Secret::new("'/><x&");
    let domain = parsed(&guest);
    assert_eq!(domain.text_at(&["name"]), Some(guest.name.as_str()));
    assert_eq!(domain.children.iter().filter(|node| node.name == "devices").count(), 1);
    assert_eq!(devices(&domain, "graphics")[0].attribute("passwd"), Some("'/><x&"));
}

#[test]
fn ide_has_two_places_and_further_disks_go_to_sata() {
    let mut guest = guest();
    guest.template.disk = "ide".into();
    guest.storage_volumes = (0..4).map(|index| format!("v{index}")).collect();
    let domain = parsed(&guest);
    let targets: Vec<_> = devices(&domain, "disk")
        .iter()
        .map(|disk| disk.find(&["target"]).unwrap())
        .map(|target| (target.attribute("dev").unwrap(), target.attribute("bus").unwrap()))
        .collect();
    assert_eq!(targets, [("hda", "ide"), ("hdc", "ide"), ("hdd", "ide"), ("sda", "sata"), ("sdb", "sata")]);
}

#[test]
fn disk_letters_go_on_after_z() {
    let mut guest = guest();
    guest.storage_volumes = (0..54).map(|index| format!("v{index}")).collect();
    let domain = parsed(&guest);
    let targets: Vec<_> = devices(&domain, "disk").iter().filter_map(|disk| disk.find(&["target"])?.attribute("dev")).collect();
    assert_eq!([targets[1], targets[26], targets[27], targets[52], targets[53]], ["sda", "sdz", "sdaa", "sdaz", "sdba"]);
}

#[test]
fn network_limits_are_kib_and_never_zero() {
    let mut guest = guest();
    (guest.receive_speed, guest.send_speed) = (10 << 20, 100);
    let domain = parsed(&guest);
    let bandwidth = devices(&domain, "interface")[0].find(&["bandwidth"]).unwrap();
    let read = |direction: &str| {
        let node = bandwidth.find(&[direction]).unwrap();
        ["average", "peak", "burst"].map(|key| node.attribute(key).unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(read("inbound"), [10 << 10, 20 << 10, 10 << 10]);
    assert_eq!(read("outbound"), [1, 1, 1]);
    guest.send_speed = 0;
    let domain = parsed(&guest);
    assert!(devices(&domain, "interface")[0].find(&["bandwidth", "outbound"]).is_none());
}

#[test]
fn a_vnc_password_has_eight_characters_and_an_empty_one_lets_nobody_in() {
    let mut guest = guest();
    guest.monitor_secret = Secret::new("123456789012");
    assert_eq!(devices(&parsed(&guest), "graphics")[0].attribute("passwd"), Some("12345678"));
    guest.monitor_secret = Secret::default();
    assert_eq!(devices(&parsed(&guest), "graphics")[0].attribute("passwd"), Some(""));
    guest.template.control = "spice".into();
    guest.monitor_secret = Secret::new("123456789012");
    assert_eq!(devices(&parsed(&guest), "graphics")[0].attribute("passwd"), Some("123456789012"));
}

#[test]
fn the_template_chooses_the_devices() {
    let mut guest = guest();
    guest.template = Template {
        operating_system: "windows".into(),
        disk: "scsi".into(),
        network: "virtio".into(),
        display: "none".into(),
        control: "spice".into(),
        usb: "nec-xhci".into(),
        tablet: "virtio".into(),
    };
    let domain = parsed(&guest);
    let controllers: Vec<_> = devices(&domain, "controller").iter().filter_map(|node| node.attribute("model")).collect();
    assert_eq!(controllers, ["pci-root", "virtio-scsi", "nec-xhci"]);
    assert_eq!(devices(&domain, "input")[0].attribute("bus"), Some("virtio"));
    assert_eq!(devices(&domain, "video")[0].find(&["model"]).unwrap().attribute("type"), Some("none"));
    guest.template.tablet = String::new();
    assert!(devices(&parsed(&guest), "input").is_empty());
}

#[test]
fn the_console_is_logged_where_asked_and_only_then() {
    let guest = guest();
    assert!(devices(&parsed(&guest), "serial").is_empty());
    let document = build(&guest, &machine(), Some(Path::new("/var/log/g & h.log"))).unwrap();
    let domain = Node::parse(&document).unwrap();
    let log = devices(&domain, "serial")[0].find(&["log"]).unwrap();
    assert_eq!((log.attribute("file"), log.attribute("append")), (Some("/var/log/g & h.log"), Some("on")));
}

#[test]
fn the_filter_is_the_guests_own() {
    let mut guest = guest();
    guest.id = GuestId::from_bytes([7; 16]);
    let domain = parsed(&guest);
    let expected = format!("nano-nwfilter-{}", guest.id);
    assert_eq!(devices(&domain, "interface")[0].find(&["filterref"]).unwrap().attribute("filter"), Some(expected.as_str()));
}

/// Texts, as a hostile Core would choose them.
fn hostile() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let picked = ["</name><x/>", "]]>", "<![CDATA[", "&amp;&#10;", "'\"", "a\0b", "../../x", "${x}", "\u{202e}\u{feff}", "&", "\n"];
    prop_oneof![proptest::sample::select(picked.to_vec()).prop_map(str::to_owned), any::<String>(), "[<>&'\"/a-z\\]\\[!-]{0,24}"]
}

/// Tags and names of attributes, without their values.
fn shape(node: &Node) -> Vec<String> {
    let own = format!("{} {:?}", node.name, node.attributes.iter().map(|(key, _)| key).collect::<Vec<_>>());
    std::iter::once(own).chain(node.children.iter().flat_map(shape)).collect()
}

fn values(node: &Node) -> Vec<String> {
    let own = node.attributes.iter().map(|(_, value)| value.clone()).chain([node.text.clone()]);
    own.chain(node.children.iter().flat_map(values)).collect()
}

proptest::proptest! {
    /// Each text is refused, or is in the document exactly once more than in one with harmless texts, and changes nothing else of it.
    #[test]
    fn hostile_texts_are_refused_or_stay_texts(texts in [hostile(), hostile(), hostile(), hostile(), hostile(), hostile()]) {
        let [name, secret, pool, volume, bridge, mac] = texts;
        let plain = GuestConfig { storage_volumes: vec!["v".into()], disks: vec![1 << 20], boot_image: String::new(), ..guest() };
        let changed = GuestConfig { name: name.clone(), monitor_secret: Secret::new(secret.clone()), storage_pool: pool.clone(), storage_volumes: vec![volume.clone()],
            network_source: bridge.clone(), hardware_address: mac.clone(), ..plain.clone() };
        match build(&changed, &machine(), None) {
            Err(error) => {
                proptest::prop_assert_eq!(error.kind, ErrorKind::Invalid);
                proptest::prop_assert!(secret.chars().count() < 4 || !error.to_string().contains(&secret) || name.contains(&secret));
            }
            Ok(document) => {
                let (ours, harmless) = (Node::parse(&document).unwrap(), parsed(&plain));
                proptest::prop_assert_eq!(shape(&ours), shape(&harmless));
                let found = values(&ours);
                for text in [name.trim(), &pool, &volume, &bridge, &mac] {
                    proptest::prop_assert!(found.iter().any(|value| value == text), "{:?} is missing", text);
                }
            }
        }
    }
}
