use super::*;

const LIVE: &str = r"<domain><devices>
  <disk type='block' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
  <disk type='volume' device='disk'><source pool='local0' volume='g_sys.qcow2' index='2'/><target dev='sda' bus='scsi'/></disk>
  <disk type='file' device='disk'><source file='/p/g_0.2.qcow2'/><target dev='sdb' bus='scsi'/></disk>
</devices></domain>";

fn pair(present: &str, new: &str) -> (String, String) {
    (present.to_owned(), new.to_owned())
}

#[test]
fn disks_are_found_by_volume_and_by_file() {
    let document = Node::parse(LIVE).unwrap();
    assert_eq!(target_of(&document, "/p/g_sys.qcow2").as_deref(), Some("sda"));
    assert_eq!(target_of(&document, "/p/g_0.2.qcow2").as_deref(), Some("sdb"));
    assert_eq!(target_of(&document, "/p/g_1.qcow2"), None);
}

#[test]
fn an_order_names_every_disk_so_that_no_other_is_touched() {
    let document = Node::parse(LIVE).unwrap();
    let order = snapshot(&document, &[pair("/p/g_sys.qcow2", "/p/<new>.qcow2")], "test").unwrap();
    let order = Node::parse(&order).unwrap();
    let told: Vec<_> =
        order.find(&["disks"]).unwrap().children.iter().map(|disk| (disk.attribute("name"), disk.attribute("snapshot"))).collect();
    assert_eq!(told, [(Some("hda"), Some("no")), (Some("sda"), Some("external")), (Some("sdb"), Some("no"))]);
    let source = order.find(&["disks"]).unwrap().children[1].find(&["source"]).unwrap();
    assert_eq!(source.attribute("file"), Some("/p/<new>.qcow2"));
    assert_eq!(snapshot(&document, &[pair("/p/other", "/p/new")], "test").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_definition_loses_nothing_but_the_name_of_the_volume() {
    let document = "<domain type='kvm' xmlns:qemu='http://x'>\n  <name>a &amp; b</name><!-- kept -->\n  <graphics passwd='p&lt;1'/>\n  \
        <disk><source pool='local0' volume='g_sys.qcow2' startupPolicy='optional'/></disk>\n  <qemu:commandline/></domain>";
    let (changed, pools) = with_volumes(document, &[pair("g_sys.qcow2", "g_sys.2.qcow2")]).unwrap();
    assert_eq!(pools.into_iter().collect::<Vec<_>>(), ["local0"]);
    let expected = document.replace(
        "pool='local0' volume='g_sys.qcow2' startupPolicy='optional'",
        "pool=\"local0\" volume=\"g_sys.2.qcow2\" startupPolicy=\"optional\"",
    );
    assert_eq!(changed, expected);
    let (same, none) = with_volumes(document, &[pair("other", "g_sys.2.qcow2")]).unwrap();
    assert_eq!((same.as_str(), none.len()), (document, 0));
}
