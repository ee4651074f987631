use super::*;

/// s1 <- s2 <- s3, s2 <- s4, current on s4: the tree of the captured takeover directory.
fn tree() -> VolumeGroup {
    let mut group = VolumeGroup { system: Volume { name: "a".into(), path: "/p/a".into(), ..Volume::default() }, ..VolumeGroup::default() };
    for (name, on) in [("s1", ""), ("s2", "s1"), ("s3", "s2"), ("s4", "s2")] {
        group.go_to(on);
        group.take_snapshot(name, "", format!("time {name}"), BTreeMap::from([("a".to_owned(), format!("/p/{name}_a"))]));
    }
    group
}

/// Everything that has to agree.
fn check(group: &VolumeGroup) {
    for (name, snapshot) in &group.snapshots {
        assert_eq!(name, &snapshot.name);
        assert_eq!(snapshot.is_root, snapshot.backing.is_empty(), "{name}");
        assert_eq!(snapshot.is_current, *name == group.active_snapshot, "{name}");
        assert!(snapshot.is_root || group.snapshots.contains_key(&snapshot.backing), "{name}");
    }
    assert_eq!(group.snapshots.is_empty(), group.base_snapshot.is_empty());
    assert!(group.snapshots.is_empty() || group.snapshots[&group.base_snapshot].is_root);
}

#[test]
fn a_tree_grows_where_the_current_files_are() {
    let group = tree();
    check(&group);
    assert_eq!((group.base_snapshot.as_str(), group.active_snapshot.as_str()), ("s1", "s4"));
    assert_eq!(group.children("s2"), ["s3", "s4"]);
    assert_eq!(group.snapshots["s4"].backing, "s2");
    let beneath: Vec<bool> = ["s1", "s2", "s3", "s4", "no"].map(|name| group.is_beneath(name)).into();
    assert_eq!(beneath, [true, true, false, true, false]);
    let order: Vec<&str> = group.snapshots_by_time().iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(order, ["s1", "s2", "s3", "s4"]);
}

#[test]
fn d14_the_base_is_another_one_when_the_first_is_struck() {
    let mut group = tree();
    group.strike_snapshot("s1");
    check(&group);
    assert_eq!(group.base_snapshot, "s2");
    assert!(group.snapshots["s2"].is_root);
}

#[test]
fn every_order_of_striking_keeps_the_book_in_agreement() {
    for first in ["s1", "s2", "s3", "s4"] {
        let mut group = tree();
        group.strike_snapshot(first);
        check(&group);
        while let Some(next) = group.snapshots.keys().next_back().cloned() {
            group.strike_snapshot(&next);
            check(&group);
        }
        assert_eq!((group.base_snapshot.as_str(), group.active_snapshot.as_str()), ("", ""));
    }
}

#[test]
fn the_active_ones_parent_is_active_after_it_is_struck() {
    let mut group = tree();
    group.strike_snapshot("s4");
    check(&group);
    assert_eq!(group.active_snapshot, "s2");
}

#[test]
fn a_renamed_volume_is_found_by_every_snapshot() {
    let mut group = tree();
    group.rename_volume("a", "b");
    assert_eq!((group.system.name.as_str(), group.system.file()), ("b", "/p/b"));
    assert!(group.snapshots.values().all(|snapshot| snapshot.files["b"] == format!("/p/{}_a", snapshot.name) && snapshot.files.len() == 1));
}

#[test]
fn a_circle_in_the_book_ends() {
    let mut group = tree();
    group.snapshots.get_mut("s1").unwrap().backing = "s4".into();
    assert!(!group.is_beneath("s3"));
    assert!(group.is_beneath("s1"));
}
