use super::*;

const DOMAINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1/domains");

#[test]
fn media_go_into_the_drive_and_out_and_nothing_else_changes() {
    for entry in std::fs::read_dir(DOMAINS).unwrap() {
        let domain = Node::parse(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
        assert_eq!(inside(&domain), None);
        let mut with = domain.clone();
        let drive = set(&mut with, Some("/x/<a>.iso")).unwrap();
        assert_eq!((inside(&with).as_deref(), drive.attribute("type")), (Some("/x/<a>.iso"), Some("file")));
        let mut back = with.clone();
        set(&mut back, None).unwrap();
        assert_eq!(inside(&back), None);
        let rest = |tree: &Node| {
            let mut tree = tree.clone();
            if let Some(devices) = tree.child_mut("devices") {
                devices.children.retain(|device| !is_drive(device));
            }
            tree
        };
        assert_eq!((rest(&with), rest(&back)), (rest(&domain), rest(&domain)));
        assert_eq!(Node::parse(&with.document().unwrap()).unwrap(), with);
    }
}

#[test]
fn nothing_is_said_of_the_tray_which_the_guest_moves_meanwhile() {
    let open = "<domain><devices><disk type='file' device='cdrom'><target dev='hda' bus='ide' tray='open'/></disk></devices></domain>";
    for file in [Some("/x.iso"), None] {
        let drive = set(&mut Node::parse(open).unwrap(), file).unwrap();
        let target = drive.find(&["target"]).unwrap();
        assert_eq!((target.attribute("dev"), target.attribute("bus"), target.attribute("tray")), (Some(DRIVE), Some("ide"), None));
    }
}

#[test]
fn the_cloud_init_image_is_no_media_and_a_guest_without_the_drive_is_told_so() {
    let seed = "<domain><devices><disk type='file' device='cdrom'><source file='/seed.iso'/><target dev='hdb' bus='ide'/></disk></devices></domain>";
    let mut seed = Node::parse(seed).unwrap();
    assert_eq!(inside(&seed), None);
    assert_eq!(set(&mut seed, Some("/x.iso")).unwrap_err().kind, ErrorKind::Unsupported);
}
