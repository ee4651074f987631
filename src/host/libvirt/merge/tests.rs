use super::*;

/// A disk as libvirt shows it while its guest runs.
const DOMAIN: &str = "<domain><devices>
  <disk type='volume' device='disk'>
    <driver name='qemu' type='qcow2'/>
    <source pool='local0' volume='d.qcow2' index='1'/>
    <backingStore type='file' index='3'>
      <format type='qcow2'/>
      <source file='/pool/c.qcow2'/>
      <backingStore type='volume' index='1'>
        <format type='qcow2'/>
        <source pool='local0' volume='v.qcow2'/>
        <backingStore type='file' index='4'><format type='qcow2'/><source file='/pool/b &amp; a.qcow2'/><backingStore/></backingStore>
      </backingStore>
    </backingStore>
    <target dev='sda' bus='ide'/>
  </disk>
  <disk type='file' device='disk'><source file='/pool/data.qcow2'/><backingStore/><target dev='sdb' bus='ide'/></disk>
</devices></domain>";

fn judged(path: &str, merge: LiveMerge) -> Result<bool> {
    let document = Node::parse(DOMAIN).unwrap();
    let (disk, _) = find(&document, path, "no").unwrap();
    is_done(&chain(disk), &merge, "no")
}

fn up(base: Option<&str>) -> LiveMerge {
    LiveMerge::Up { disk: "/pool/d.qcow2".into(), base: base.map(str::to_owned) }
}

fn down(top: &str, base: &str) -> LiveMerge {
    LiveMerge::Down { disk: "/pool/d.qcow2".into(), top: top.into(), base: base.into() }
}

#[test]
fn a_disk_is_found_by_its_file_and_by_its_volume() {
    let document = Node::parse(DOMAIN).unwrap();
    assert_eq!(find(&document, "/pool/d.qcow2", "no").unwrap().1, "sda");
    assert_eq!(find(&document, "/pool/data.qcow2", "no").unwrap().1, "sdb");
    assert_eq!(find(&document, "/pool/c.qcow2", "no").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn what_is_there_already_is_not_begun_again() {
    let disk = "/pool/d.qcow2";
    assert!(judged(disk, up(Some("/pool/c.qcow2"))).unwrap());
    assert!(!judged(disk, up(Some("/pool/b & a.qcow2"))).unwrap());
    // The layer that the guest was started with.
    assert!(!judged(disk, up(Some("/pool/v.qcow2"))).unwrap());
    assert!(!judged(disk, down("/pool/v.qcow2", "/pool/b & a.qcow2")).unwrap());
    assert!(!judged(disk, up(None)).unwrap());
    assert!(judged("/pool/data.qcow2", up(None)).unwrap());
    assert!(!judged(disk, down("/pool/c.qcow2", "/pool/v.qcow2")).unwrap());
    assert!(judged(disk, down("/pool/gone.qcow2", "/pool/c.qcow2")).unwrap());
}

#[test]
fn a_chain_of_other_images_is_left_alone() {
    let disk = "/pool/d.qcow2";
    let merges = [
        up(Some("/pool/other.qcow2")),
        down("/pool/c.qcow2", "/pool/other.qcow2"),
        down("/pool/c.qcow2", "/pool/b & a.qcow2"),
        down("/pool/b & a.qcow2", "/pool/c.qcow2"),
    ];
    for merge in merges {
        let error = judged(disk, merge).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.context.contains("it is based on /pool/c.qcow2, then v.qcow2, then /pool/b & a.qcow2"), "{}", error.context);
    }
    assert!(judged("/pool/data.qcow2", down("/a", "/b")).unwrap_err().context.contains("based on nothing"));
}
