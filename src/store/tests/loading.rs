//! What is read, and that nothing gets lost by it.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::model::{AddressMode, PoolMode};

#[test]
fn reference_files_come_back_byte_for_byte() {
    let home = tempdir().unwrap();
    for file in DataFile::ALL {
        fs::copy(takeover().join(file.name()), home.path().join(file.name())).unwrap();
    }
    assert_eq!(rewrite(home.path()), []);
    for file in DataFile::ALL {
        let (before, after) = (takeover().join(file.name()), home.path().join(file.name()));
        assert_eq!(json_of(&before), json_of(&after), "{file:?}");
        assert_eq!(fs::read_to_string(before).unwrap(), fs::read_to_string(&after).unwrap(), "{file:?}");
        assert_eq!(fs::metadata(after).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(others(home.path()), ["instance.data.bak", "network.data.bak", "storage.data.bak"]);
}

#[test]
fn reference_values_are_understood() {
    let home = tempdir().unwrap();
    for file in DataFile::ALL {
        fs::copy(takeover().join(file.name()), home.path().join(file.name())).unwrap();
    }
    let loaded = open(home.path()).loaded;
    assert_eq!(loaded.instance.instances.len(), 5);
    let web = loaded.instance.instances.iter().find(|guest| guest.name == "manager.web").unwrap();
    assert_eq!(web.limits(), [16_777_216, 8_388_608, 600, 500, 0, 0]);
    assert_eq!(web.disks, [67_108_864, 33_554_432]);
    assert_eq!(web.security.as_ref().unwrap().rules.len(), 2);
    assert_eq!(loaded.storage.groups[&web.id].data.len(), 1);
    assert_eq!(loaded.storage.pools["local0"].mode, PoolMode::Local);
    assert_eq!(loaded.network.resources[&web.id].monitor_port, web.monitor_port);
    assert_eq!(loaded.network.allocation_mode, AddressMode::Dhcp);
}

#[test]
fn first_start_gives_the_defaults() {
    let home = tempdir().unwrap();
    let data = home.path().join("data");
    let loaded = Store::open(&data, "br7").unwrap().loaded;
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o740 & !umask());
    assert_eq!(loaded.notices, []);
    assert_eq!((loaded.instance.max_guest, loaded.instance.storage_pool.as_str()), (100, "local0"));
    assert_eq!(loaded.network.default_bridge, "br7");
    assert_eq!(loaded.storage.current_pool, "local0");
    assert!(loaded.storage.pools.is_empty());
}

fn umask() -> u32 {
    let path = tempdir().unwrap().path().join("probe");
    fs::DirBuilder::new().recursive(true).create(&path).unwrap();
    0o777 & !fs::metadata(path).unwrap().permissions().mode()
}

#[test]
fn absent_fields_mean_what_the_contract_says() {
    let home = tempdir().unwrap();
    let mut windows = guest(1, "m.win");
    windows["template"]["operating_system"] = "windows".into();
    windows.as_object_mut().unwrap().remove("auth_user");
    let mut old = guest(2, "m.old");
    for key in ["template", "auth_user"] {
        old.as_object_mut().unwrap().remove(key);
    }
    old["disks"] = Value::Null;
    old["storage_volumes"] = Value::Null;
    fs::write(home.path().join("instance.data"), json!({"instances": [windows, old]}).to_string()).unwrap();
    let pools = json!({"local0": {"name": "local0", "mode": 0, "target": "/srv/images/local0", "volumes": null}});
    fs::write(home.path().join("storage.data"), json!({"pools": pools, "groups": null}).to_string()).unwrap();
    fs::write(home.path().join("network.data"), json!({"default_bridge": "", "dns": null, "resources": null}).to_string()).unwrap();

    let loaded = Store::open(home.path(), "br3").unwrap().loaded;

    assert_eq!(loaded.notices, []);
    let [windows, old] = &loaded.instance.instances[..] else { panic!() };
    assert_eq!(windows.auth_user, "Administrator");
    assert_eq!((old.auth_user.as_str(), old.operating_system(), old.disks.len()), ("root", "linux", 0));
    assert_eq!((loaded.instance.max_guest, loaded.instance.storage_pool.as_str()), (100, "local0"));
    assert_eq!((loaded.storage.mode.as_str(), loaded.storage.current_pool.as_str()), ("local", "local0"));
    assert_eq!(loaded.storage.system_paths, ["/srv/images"]);
    assert_eq!(loaded.storage.data_paths, ["/srv/images"]);
    assert_eq!(loaded.network.default_bridge, "br3");

    rewrite(home.path());
    // Objects, never null: the reference panics on it (contract §14 C5).
    let storage = json_of(&home.path().join("storage.data"));
    assert_eq!((&storage["groups"], &storage["pools"]["local0"]["volumes"]), (&json!({}), &json!({})));
}

#[test]
fn a_bad_guest_is_reported_and_stays_in_the_file() {
    let home = tempdir().unwrap();
    let mut bad = guest(2, "m.bad");
    bad["cores"] = json!("two");
    let mut bad_secret = guest(3, "m.secret");
    bad_secret["monitor_secret"] = json!(73_737_373);
    let double = guest(1, "m.double");
    let instances = json!([guest(1, "m.one"), bad, "nonsense", bad_secret, double, guest(4, "m.four")]);
    write_instances(home.path(), &instances);

    let notices = rewrite(home.path());

    let said: Vec<String> = notices.iter().map(Notice::to_string).collect();
    assert_eq!(said.len(), 4);
    assert!(said[0].starts_with("instance.data: instances[1] (m.bad).cores: invalid type: string \"two\", expected u32;"), "{}", said[0]);
    assert!(said[1].starts_with("instance.data: instances[2]: "), "{}", said[1]);
    assert!(said[2].starts_with("instance.data: instances[3] (m.secret).monitor_secret: it is not a text;"), "{}", said[2]);
    assert!(said[3].contains("instances[4] (m.double): an entry before it has the same id"), "{}", said[3]);
    assert!(!said.concat().contains("73737373"));
    assert!(notices.iter().all(|notice| !notice.is_loss()));
    assert_eq!(json_of(&home.path().join("instance.data"))["instances"], instances);
    let names: Vec<String> = open(home.path()).loaded.instance.instances.iter().map(|guest| guest.name.clone()).collect();
    assert_eq!(names, ["m.one", "m.four"]);
}

#[test]
fn bad_groups_pools_and_resources_stay_in_their_files() {
    let home = tempdir().unwrap();
    let id = "00000000-0000-4000-8000-000000000001";
    let volume = json!({"name": "a", "format": "qcow2", "key": "/a", "path": "/a", "capacity": 1, "pool": "local0"});
    let storage = json!({
        "mode": "local", "system_paths": ["/a"], "data_paths": ["/a"], "current_pool": "local0",
        "pools": {"local0": {"name": "local0", "mode": 0, "target": "/a/local0", "volumes": {}}, "odd": {"name": "odd", "mode": 7}},
        "groups": {id: {"system": volume, "data": null}, "not-an-id": {"system": volume, "data": null}},
    });
    let network = json!({
        "default_bridge": "br0",
        "resources": {id: {"monitor_port": 99_999, "hardware_address": "", "internal_address": "", "external_address": ""}},
    });
    fs::write(home.path().join("storage.data"), storage.to_string()).unwrap();
    fs::write(home.path().join("network.data"), network.to_string()).unwrap();

    let notices = rewrite(home.path());

    let entries: Vec<&str> =
        notices.iter().filter_map(|n| if let Notice::Entry { entry, .. } = n { Some(entry.as_str()) } else { None }).collect();
    assert_eq!(entries, ["pools.odd", "groups.not-an-id", &format!("resources.{id}")]);
    assert_eq!(json_of(&home.path().join("storage.data")), storage);
    assert_eq!(json_of(&home.path().join("network.data")), network);
}

#[test]
fn unknown_keys_stay() {
    let home = tempdir().unwrap();
    let mut new = guest(1, "m.new");
    new["gpu"] = json!({"model": "x", "count": 2});
    let content = json!({"instances": [new], "storage_pool": "local0", "max_guest": 100, "schema": [1, null]});
    fs::write(home.path().join("instance.data"), content.to_string()).unwrap();

    let loaded = open(home.path()).loaded;
    assert_eq!(loaded.instance.instances[0].extra.keys().collect::<Vec<_>>(), ["gpu"]);
    assert_eq!(loaded.notices, [Notice::UnknownKey { file: DataFile::Instance, key: "schema".into() }]);
    rewrite(home.path());
    assert_eq!(json_of(&home.path().join("instance.data")), content);
}

#[test]
fn a_file_cut_off_anywhere_is_set_aside_and_the_last_good_copy_used() {
    let whole = fs::read(takeover().join("storage.data")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        let home = tempdir().unwrap();
        fs::write(home.path().join("storage.data"), &whole[..length]).unwrap();
        fs::write(home.path().join("storage.data.bak"), &whole).unwrap();
        let opened = Store::open_on(std::sync::Arc::new(disk::RealDisk), home.path(), "br0", "T").unwrap();
        let [Notice::Damaged { aside, recovered: true, .. }] = &opened.loaded.notices[..] else { panic!("{:?}", opened.loaded.notices) };
        assert_eq!(aside, "storage.data.damaged-T");
        assert_eq!(opened.loaded.storage.groups.len(), 5);
        assert_eq!(fs::read(home.path().join(aside)).unwrap(), &whole[..length]);
        assert_eq!(fs::read(home.path().join("storage.data")).unwrap(), whole);
    }
}

#[test]
fn a_damaged_file_without_a_good_copy_is_set_aside() {
    let home = tempdir().unwrap();
    for (name, content) in [("instance.data", "{\"instances\": 5}"), ("instance.data.bak", "garbage"), ("instance.data.damaged-T", "first")]
    {
        fs::write(home.path().join(name), content).unwrap();
    }
    let loaded = Store::open_on(std::sync::Arc::new(disk::RealDisk), home.path(), "br0", "T").unwrap().loaded;
    assert_eq!(loaded.instance, InstanceBook::default());
    let said: Vec<String> = loaded.notices.iter().map(Notice::to_string).collect();
    assert!(said.iter().any(|s| s.contains("'instances' is of the wrong type") && s.contains("instance.data.damaged-T-2")), "{said:?}");
    assert!(loaded.notices.iter().all(Notice::is_loss));
    assert_eq!(others(home.path()), ["instance.data.bak.damaged-T", "instance.data.damaged-T", "instance.data.damaged-T-2", "rebuild"]);
    assert_eq!(fs::read_to_string(home.path().join("instance.data.damaged-T")).unwrap(), "first");
    assert!(!home.path().join("instance.data").exists());
}

/// Nothing but the mark shows a loss to the starts after the one that found it, which may end at any point.
#[tokio::test]
async fn a_loss_is_known_to_every_start_until_it_is_made_good() {
    let damaged_journal = "00000000 {}\n";
    let cases = [
        ("instance.data", "{", None),
        ("instance.data", "{", Some("{\"instances\":[]}")),
        ("storage.data", "{\"pools\":{},\"groups\":{},\"mode\":1}", None),
        ("journal.data", damaged_journal, None),
    ];
    for (name, content, copy) in cases {
        let mut finished = false;
        for point in 1.. {
            let home = tempdir().unwrap();
            fs::write(home.path().join(name), content).unwrap();
            copy.iter().for_each(|copy| fs::write(home.path().join(format!("{name}.bak")), copy).unwrap());
            let process = crate::host::sim::SimProcess::default();
            process.die_at(point);
            let first = testing::open(&testing::TestDisk::new(process.clone()), home.path());
            finished = first.is_ok();
            assert!(first.map_or(true, |opened| opened.loaded.lost));
            for _ in 0..2 {
                assert!(Store::look(home.path(), "br0").unwrap().lost, "{name} {point}");
                assert!(open(home.path()).loaded.lost, "{name} {point}");
            }
            open(home.path()).store.made_good().await.unwrap();
            assert!(!open(home.path()).loaded.lost && !home.path().join("rebuild").exists(), "{name} {point}");
            if finished && !process.is_dead() {
                break;
            }
        }
        assert!(finished);
    }
}

#[test]
fn a_missing_file_comes_from_the_last_good_copy() {
    let home = tempdir().unwrap();
    fs::copy(takeover().join("instance.data"), home.path().join("instance.data.bak")).unwrap();
    let loaded = open(home.path()).loaded;
    assert_eq!(loaded.notices, [Notice::Missing { file: DataFile::Instance }]);
    assert_eq!(loaded.instance.instances.len(), 5);
    assert!(home.path().join("instance.data").exists());
}

#[test]
fn a_bad_value_of_the_file_itself_gets_its_default_and_the_rest_is_used() {
    let home = tempdir().unwrap();
    let bad = json!({"default_bridge": 7, "gateway": "10.0.0.1", "allocation_mode": "carrier pigeon", "x": 1}).to_string();
    fs::write(home.path().join("network.data"), &bad).unwrap();
    let loaded = Store::open_on(std::sync::Arc::new(disk::RealDisk), home.path(), "br0", "T").unwrap().loaded;
    assert_eq!((loaded.network.default_bridge.as_str(), loaded.network.gateway.as_str()), ("br0", "10.0.0.1"));
    assert_eq!(loaded.network.allocation_mode, AddressMode::None);
    let keys: Vec<&str> =
        loaded.notices.iter().filter_map(|n| if let Notice::Reset { key, .. } = n { Some(key.as_str()) } else { None }).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys.contains(&"default_bridge") && keys.contains(&"allocation_mode"));
    assert_eq!(fs::read_to_string(home.path().join("network.data.damaged-T")).unwrap(), bad);
    assert_eq!(json_of(&home.path().join("network.data"))["x"], 1);
}

#[test]
fn an_unreadable_directory_is_an_error_with_advice() {
    let home = tempdir().unwrap();
    let file = home.path().join("data");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file, "br0").err().unwrap();
    assert!(error.to_string().starts_with("can't make the directory "), "{error}");
}

/// Puts `value` at the place that `path` picks.
fn mutate(document: &mut Value, path: &[usize], value: Option<Value>) {
    let Some((first, rest)) = path.split_first() else {
        *document = value.unwrap_or(Value::Null);
        return;
    };
    match document {
        Value::Array(list) if !list.is_empty() => {
            let index = first % list.len();
            match (rest.is_empty(), &value) {
                (true, None) => drop(list.remove(index)),
                _ => mutate(&mut list[index], rest, value),
            }
        }
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first % map.len()).unwrap().clone();
            match (rest.is_empty(), &value) {
                (true, None) => drop(map.remove(&key)),
                _ => mutate(&mut map[&key], rest, value),
            }
        }
        _ => *document = value.unwrap_or(Value::Null),
    }
}

fn any_value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        any::<i64>().prop_map(|n| Some(n.into())),
        any::<f64>().prop_map(|n| Some(n.into())),
        any::<bool>().prop_map(|b| Some(b.into())),
        ".{0,12}".prop_map(|s| Some(s.into())),
        Just(Some(json!([]))),
        Just(Some(json!({"a": [1]}))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_load_and_stay_somewhere(content in proptest::collection::vec(any::<u8>(), 0..200), file in 0_usize..3) {
        let home = tempdir().unwrap();
        let file = DataFile::ALL[file];
        fs::write(home.path().join(file.name()), &content).unwrap();
        let loaded = open(home.path()).loaded;
        prop_assert!(!loaded.notices.is_empty());
        prop_assert!(fs::read_dir(home.path()).unwrap().any(|entry| fs::read(entry.unwrap().path()).unwrap() == content));
    }

    #[test]
    fn no_mutation_of_a_file_loses_a_guest(
        changes in proptest::collection::vec((proptest::collection::vec(0_usize..40, 1..6), any_value()), 1..6),
        file in 0_usize..3,
    ) {
        let home = tempdir().unwrap();
        let file = DataFile::ALL[file];
        let mut document = json_of(&takeover().join(file.name()));
        for (path, value) in changes {
            mutate(&mut document, &path, value);
        }
        let content = document.to_string();
        fs::write(home.path().join(file.name()), &content).unwrap();
        let notices = rewrite(home.path());
        if notices.iter().any(Notice::is_loss) {
            let kept = others(home.path()).into_iter().any(|name| fs::read_to_string(home.path().join(name)).unwrap() == content);
            prop_assert!(kept, "the file was not set aside: {notices:?}");
            return Ok(());
        }
        let after = json_of(&home.path().join(file.name()));
        for container in ["instances", "pools", "groups", "resources"] {
            let (before, after) = (&document[container], &after[container]);
            prop_assert_eq!(size(before), size(after), "{}: {:?}", container, notices);
        }
        // Once read and written, a file is stable.
        let again = rewrite(home.path());
        prop_assert_eq!(again.len(), notices.len());
        prop_assert_eq!(json_of(&home.path().join(file.name())), after);
    }
}

fn size(part: &Value) -> usize {
    part.as_array().map_or_else(|| part.as_object().map_or(0, serde_json::Map::len), Vec::len)
}
