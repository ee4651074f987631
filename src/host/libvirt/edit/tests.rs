//! Edits of the domains that the reference left behind: what is asked for changes, and nothing else.

use super::*;
use crate::model::Secret;

const DOMAINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/takeover/reference-1.4.1/domains");

fn captured() -> Vec<Node> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| Node::parse(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
    let domains: Vec<Node> = std::fs::read_dir(DOMAINS).unwrap().map(read).collect();
    assert_eq!(domains.len(), 5);
    domains
}

fn edited(domain: &Node, edit: &DomainEdit) -> Node {
    let mut after = domain.clone();
    apply(&mut after, edit, "cannot").unwrap();
    // What is handed to libvirt is read back as the same tree.
    assert_eq!(Node::parse(&after.document().unwrap()).unwrap(), after);
    after
}

/// The domain without the elements at these paths.
fn without(domain: &Node, paths: &[&[&str]]) -> Node {
    fn cut(node: &mut Node, path: &[&str]) {
        match path {
            [] => {}
            [last] => node.remove(last),
            [first, rest @ ..] => node.children_mut(first).for_each(|child| cut(child, rest)),
        }
    }
    let mut domain = domain.clone();
    paths.iter().for_each(|path| cut(&mut domain, path));
    domain
}

fn disks(domain: &Node) -> Vec<&Node> {
    domain.find(&["devices"]).unwrap().children.iter().filter(|node| node.name == "disk").collect()
}

fn no_limits() -> DomainEdit {
    DomainEdit::DiskLimits { read_speed: 0, write_speed: 0, read_iops: 0, write_iops: 0 }
}

#[test]
fn every_core_count_gets_a_topology_that_libvirt_takes_and_nothing_else_changes() {
    for domain in captured() {
        // 66 and 130 are those that the reference's formula gets wrong (§14 E1, E7).
        for cores in [1, 2, 3, 5, 8, 33, 66, 130, 255] {
            let after = edited(&domain, &DomainEdit::Cores(cores));
            assert_eq!(after.text_at(&["vcpu"]), Some(cores.to_string().as_str()));
            let topology = after.find(&["cpu", "topology"]).unwrap();
            let count = |name: &str| topology.attribute(name).unwrap().parse::<u32>().unwrap();
            assert_eq!(count("sockets") * count("dies") * count("cores") * count("threads"), cores);
            let changed: &[&[&str]] = &[&["vcpu"], &["cpu", "topology"]];
            assert_eq!(without(&after, changed), without(&domain, changed));
        }
        let mut zero = domain.clone();
        assert_eq!(apply(&mut zero, &DomainEdit::Cores(0), "cannot").unwrap_err().kind, ErrorKind::Invalid);
    }
}

#[test]
fn cores_that_were_listed_or_partly_off_are_all_on() {
    let text = "<domain><vcpu placement='static' current='1'>4</vcpu><vcpus><vcpu id='0' enabled='yes'/></vcpus></domain>";
    let after = edited(&Node::parse(text).unwrap(), &DomainEdit::Cores(2));
    let expected = "<domain><vcpu placement='static'>2</vcpu><cpu><topology sockets='1' cores='1' threads='2'/></cpu></domain>";
    assert_eq!(after, Node::parse(expected).unwrap());
}

#[test]
fn memory_is_set_in_kib_whatever_the_unit_was() {
    for domain in captured() {
        let after = edited(&domain, &DomainEdit::Memory(3 << 30));
        for name in ["memory", "currentMemory"] {
            let node = after.find(&[name]).unwrap();
            assert_eq!((node.attribute("unit"), node.text.as_str()), (Some("KiB"), "3145728"));
        }
        let changed: &[&[&str]] = &[&["memory"], &["currentMemory"]];
        assert_eq!(without(&after, changed), without(&domain, changed));
    }
    let after = edited(&Node::parse("<domain><memory unit='GiB'>1</memory></domain>").unwrap(), &DomainEdit::Memory(1 << 20));
    assert_eq!(after.find(&["memory"]).unwrap(), &Node::parse("<memory unit='KiB'>1024</memory>").unwrap());
}

#[test]
fn e2_a_priority_changes_cputune_alone_and_keeps_the_monitor_password() {
    for domain in captured() {
        let secrets: Vec<&str> = passwords(&domain).collect();
        assert!(secrets.iter().all(|secret| !secret.is_empty()) && secrets.len() == 1);
        for (priority, shares, quota) in [(0, "2000", "1000000"), (1, "1000", "500000"), (2, "500", "250000")] {
            let after = edited(&domain, &DomainEdit::Priority(priority));
            assert_eq!(after.text_at(&["cputune", "shares"]), Some(shares));
            assert_eq!(after.text_at(&["cputune", "quota"]), Some(quota));
            assert_eq!(after.text_at(&["cputune", "period"]), Some("1000000"));
            assert_eq!(without(&after, &[&["cputune"]]), without(&domain, &[&["cputune"]]));
            assert_eq!(passwords(&after).collect::<Vec<_>>(), secrets);
        }
        assert!(apply(&mut domain.clone(), &DomainEdit::Priority(3), "cannot").is_err());
    }
    let pinned = Node::parse("<domain><cputune><vcpupin vcpu='0' cpuset='1'/><shares>7</shares></cputune></domain>").unwrap();
    assert!(edited(&pinned, &DomainEdit::Priority(1)).find(&["cputune", "vcpupin"]).is_some());
}

#[test]
fn b4_each_limit_of_a_disk_is_set_where_it_belongs_and_lifted() {
    let iotune: &[&[&str]] = &[&["devices", "disk", "iotune"]];
    for domain in captured() {
        let after = edited(&domain, &DomainEdit::DiskLimits { read_speed: 10, write_speed: 20, read_iops: 0, write_iops: 40 });
        let (limited, drives): (Vec<&Node>, Vec<&Node>) = disks(&after).into_iter().partition(|disk| is_disk(disk));
        assert!(!limited.is_empty() && !drives.is_empty());
        for disk in limited {
            assert_eq!(disk.text_at(&["iotune", "read_bytes_sec"]), Some("10"));
            assert_eq!(disk.text_at(&["iotune", "write_bytes_sec"]), Some("20"));
            assert_eq!(disk.find(&["iotune", "read_iops_sec"]), None);
            assert_eq!(disk.text_at(&["iotune", "write_iops_sec"]), Some("40"));
        }
        assert!(drives.iter().all(|drive| drive.find(&["iotune"]).is_none()));
        assert_eq!(without(&after, iotune), without(&domain, iotune));
        assert_eq!(edited(&after, &no_limits()), without(&domain, iotune));
    }
}

#[test]
fn limits_that_libvirt_would_not_take_beside_ours_go() {
    let disk = |tune: &str| Node::parse(&format!("<domain><devices><disk>{tune}</disk></devices></domain>")).unwrap();
    let present = disk(
        "<iotune><total_bytes_sec>5</total_bytes_sec><total_bytes_sec_max>9</total_bytes_sec_max><write_iops_sec>3</write_iops_sec>\
         <write_iops_sec_max>4</write_iops_sec_max><size_iops_sec>6</size_iops_sec></iotune>",
    );
    let after = edited(&present, &DomainEdit::DiskLimits { read_speed: 1, write_speed: 0, read_iops: 0, write_iops: 0 });
    assert_eq!(after, disk("<iotune><size_iops_sec>6</size_iops_sec><read_bytes_sec>1</read_bytes_sec></iotune>"));
}

#[test]
fn the_limits_of_the_network_are_those_of_a_new_guest_and_lifted_by_zero() {
    let bandwidth: &[&[&str]] = &[&["devices", "interface", "bandwidth"]];
    for domain in captured() {
        let after = edited(&domain, &DomainEdit::NetworkLimits { receive_speed: 4 << 20, send_speed: 100 });
        let limits = after.find(&["devices", "interface", "bandwidth"]).unwrap();
        let values = |direction: &str| {
            let node = limits.find(&[direction]).unwrap();
            ["average", "peak", "burst"].map(|name| node.attribute(name).unwrap().to_owned())
        };
        assert_eq!(values("inbound"), ["4096", "8192", "4096"]);
        assert_eq!(values("outbound"), ["1", "1", "1"], "a limit below 1 KiB/s is not lifted");
        assert_eq!(without(&after, bandwidth), without(&domain, bandwidth));
        let one = edited(&after, &DomainEdit::NetworkLimits { receive_speed: 0, send_speed: 100 });
        assert_eq!(one.find(&["devices", "interface", "bandwidth", "inbound"]), None);
        assert_eq!(edited(&one, &DomainEdit::NetworkLimits { receive_speed: 0, send_speed: 0 }), without(&domain, bandwidth));
    }
}

#[test]
fn a_monitor_password_changes_nothing_but_itself_and_is_never_too_long() {
    for domain in captured() {
        let mut after = edited(&domain, &DomainEdit::MonitorSecret(Secret::new("~!@#$%^&*()_")));
        assert_eq!(passwords(&after).collect::<Vec<_>>(), ["~!@#$%^&"], "f3");
        let former = passwords(&domain).next().unwrap().to_owned();
        devices(&mut after, "graphics").for_each(|graphics| graphics.set("passwd", &former));
        assert_eq!(after, domain);
    }
    let spice = Node::parse("<domain><devices><graphics type='spice' port='5901'/></devices></domain>").unwrap();
    let after = edited(&spice, &DomainEdit::MonitorSecret(Secret::new("0123456789")));
    assert_eq!(passwords(&after).collect::<Vec<_>>(), ["0123456789"]);
    assert!(apply(&mut spice.clone(), &DomainEdit::MonitorSecret(Secret::new("a\u{1}b")), "cannot").is_err());
}
