use super::*;

#[test]
fn a_missing_bridge_says_what_to_do() {
    let error = HostNetwork::new("nosuchbr0").bridge().unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.to_string().contains("ip link add nosuchbr0 type bridge"), "{error}");
}

#[test]
fn an_interface_that_sysfs_shows_without_a_bridge_is_another_kind() {
    let sysfs = tempfile::tempdir().unwrap();
    let interface = sysfs.path().join("eth9");
    std::fs::create_dir(&interface).unwrap();
    std::fs::write(interface.join("ifindex"), "9\n").unwrap();
    assert!(other_kind(sysfs.path(), "eth9", 9));
    assert!(!other_kind(sysfs.path(), "eth9", 4), "an interface of another namespace says nothing");
    assert!(!other_kind(sysfs.path(), "br0", 9));
    std::fs::create_dir(interface.join("bridge")).unwrap();
    assert!(!other_kind(sysfs.path(), "eth9", 9));
}
