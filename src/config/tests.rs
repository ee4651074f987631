use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{json, Value};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::*;
use crate::model::Virtualization;

fn domain(text: &str) -> Result<Loaded<DomainSettings>, ConfigError> {
    with_file(text, load_domain)
}

fn cell(text: &str) -> Result<Loaded<CellSettings>, ConfigError> {
    with_file(text, load_cell)
}

fn with_file<T>(text: &str, load: impl FnOnce(&Path) -> T) -> T {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("some.cfg");
    fs::write(&path, text).unwrap();
    load(&path)
}

/// The good file with one key changed.
fn domain_with(key: &str, value: Value) -> String {
    let mut file = json!({"domain": "nano", "group_address": "224.0.0.226", "group_port": 5599});
    file[key] = value;
    file.to_string()
}

#[test]
fn the_reference_file_is_read() {
    let loaded =
        domain("{\n \"domain\": \"lab\",\n \"group_address\": \"239.1.2.3\",\n \"group_port\": 7000,\n \"timeout\": 30\n}").unwrap();
    assert_eq!(loaded.settings.domain, "lab");
    assert_eq!(loaded.settings.group.to_string(), "239.1.2.3:7000");
    assert_eq!(loaded.settings.timeout, Duration::from_secs(30));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn the_timeout_is_ten_seconds_when_zero_null_or_absent() {
    for value in [json!(0), Value::Null] {
        assert_eq!(domain(&domain_with("timeout", value)).unwrap().settings.timeout, Duration::from_secs(10));
    }
    assert_eq!(domain(&domain_with("domain", json!("x"))).unwrap().settings.timeout, Duration::from_secs(10));
}

#[test]
fn a_wrong_value_names_the_file_the_key_and_what_is_right() {
    let cases = [
        ("domain", json!(""), "such as \"nano\""),
        ("domain", json!("   "), "such as \"nano\""),
        ("domain", json!("na\nno"), "control character"),
        ("domain", json!("x".repeat(256)), "at most 255"),
        ("domain", json!(5), "the number 5 and has to be a text"),
        ("domain", json!(null), "is missing; add for example \"domain\": \"nano\""),
        ("group_address", json!("192.168.1.1"), "not multicast"),
        ("group_address", json!("224.0.0"), "such as \"224.0.0.226\""),
        ("group_address", json!("ff02::1"), "IPv4 multicast"),
        ("group_address", json!(["224.0.0.226"]), "a list"),
        ("group_port", json!(0), "from 2 to 65535"),
        ("group_port", json!(1), "from 2 to 65535"),
        ("group_port", json!(65536), "from 2 to 65535"),
        ("group_port", json!(-5599), "from 2 to 65535"),
        ("group_port", json!(5599.5), "from 2 to 65535"),
        ("group_port", json!("5599"), "the text \"5599\" and has to be a whole number"),
        ("group_port", json!(true), "whole number"),
        ("timeout", json!(-1), "whole number from 0"),
        ("timeout", json!("10s"), "whole number from 0"),
        ("timeout", json!(100_000), "whole number from 0 to 86400"),
    ];
    for (key, value, right) in cases {
        let text = domain(&domain_with(key, value.clone())).unwrap_err().to_string();
        assert!(text.contains("some.cfg: ") && text.contains(&format!("\"{key}\"")) && text.contains(right), "{key}={value}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn broken_json_is_shown_with_line_and_column() {
    let text = domain("{\n \"domain\": \"nano\"\n \"group_port\": 1\n}").unwrap_err().to_string();
    assert!(text.contains("line 3 column 2"), "{text}");
    for (content, expected) in
        [("", "is empty"), ("[1]", "a list where a JSON object"), ("null", "null where"), ("\"x\"", "the text \"x\" where")]
    {
        let text = domain(content).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn unknown_keys_only_warn_and_typos_are_recognised() {
    let loaded = domain(&domain_with("grup_port", json!(1))).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(
        loaded.warnings[0].contains("\"grup_port\"") && loaded.warnings[0].contains("\"group_port\" may be meant"),
        "{:?}",
        loaded.warnings
    );
    let loaded = domain(&domain_with("colour", json!({}))).unwrap();
    assert!(loaded.warnings[0].contains("known keys: domain, group_address, group_port, timeout"), "{:?}", loaded.warnings);
    let loaded = domain(&domain_with("domain", json!(" nano"))).unwrap();
    assert_eq!(loaded.settings.domain, " nano");
    assert!(loaded.warnings[0].contains("blank"));
}

#[test]
fn a_missing_or_unreadable_file_is_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    assert!(matches!(load_domain(&scratch.path().join("domain.cfg")), Err(ConfigError::Missing(_))));
    // A directory can't be read as a file, not even by root.
    assert!(matches!(load_domain(scratch.path()), Err(ConfigError::Io { what: "read", .. })));
    let path = scratch.path().join("binary.cfg");
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(matches!(load_domain(&path), Err(ConfigError::Io { .. })));
    fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(matches!(load_domain(&path), Err(ConfigError::Io { .. })));
}

#[test]
fn a_new_file_has_the_reference_form_and_is_not_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("domain.cfg");
    DomainSettings::default().write_new(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\n \"domain\": \"nano\",\n \"group_address\": \"224.0.0.226\",\n \"group_port\": 5599,\n \"timeout\": 10\n}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(load_domain(&path).unwrap().settings, DomainSettings::default());
    let other = DomainSettings { domain: "other".into(), ..DomainSettings::default() };
    assert!(other.write_new(&path).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn without_a_cell_cfg_everything_has_its_default() {
    let scratch = tempfile::tempdir().unwrap();
    let settings = load_cell(&scratch.path().join("cell.cfg")).unwrap().settings;
    assert_eq!(settings, CellSettings::default());
    assert_eq!(settings.bridge, "br0");
    assert_eq!(settings.libvirt_uri, "qemu:///system");
    assert_eq!(settings.virtualization, Virtualization::Auto);
    assert_eq!((settings.core_address, &settings.core_name), (None, &None));
    assert_eq!(cell("{}").unwrap().settings, settings);
}

#[test]
fn every_key_of_cell_cfg_is_read() {
    let loaded = cell(
        r#"{"bridge": "br-lan", "libvirt_uri": "test:///default", "virtualization": "qemu", "core_address": "10.0.0.1:5601",
            "image_tls": "verify", "image_ca": "/ca.pem", "image_cache_mib": 3,
            "log_level": "warn,cell::txn=debug", "log_days": 3, "log_file_mib": 1, "log_total_mib": 2}"#,
    )
    .unwrap();
    let settings = loaded.settings;
    assert!(loaded.warnings.is_empty());
    assert_eq!((settings.bridge.as_str(), settings.libvirt_uri.as_str()), ("br-lan", "test:///default"));
    assert_eq!(settings.virtualization, Virtualization::Qemu);
    assert_eq!(settings.core_address, Some("10.0.0.1:5601".parse().unwrap()));
    assert_eq!(settings.images, ImageSettings { tls: ImageTls::Verify, ca: Some("/ca.pem".into()), cache_bytes: 3 << 20 });
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("cell::txn", LevelFilter::DEBUG);
    assert_eq!(settings.log, LogSettings { filter, days: 3, file_bytes: 1 << 20, total_bytes: 2 << 20 });
}

#[test]
fn a_core_without_a_port_has_the_usual_one() {
    assert_eq!(cell(r#"{"core_name": "Core_1"}"#).unwrap().settings.core_name.as_deref(), Some("Core_1"));
    assert_eq!(cell(r#"{"core_name": ""}"#).unwrap().settings.core_name, None);
    let settings = cell(r#"{"core_address": "10.0.0.1"}"#).unwrap().settings;
    assert_eq!(settings.core_address, Some(std::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5600)));
    assert_eq!(cell(r#"{"core_address": ""}"#).unwrap().settings.core_address, None);
}

#[test]
fn naming_an_authority_means_that_image_servers_are_checked() {
    assert_eq!(cell(r#"{"image_ca": "/ca.pem"}"#).unwrap().settings.images.tls, ImageTls::Verify);
    let contrary = cell(r#"{"image_ca": "/ca.pem", "image_tls": "insecure"}"#).unwrap();
    assert_eq!(contrary.settings.images.tls, ImageTls::Insecure);
    assert!(contrary.warnings[0].contains("image_ca"), "{:?}", contrary.warnings);
    assert_eq!(cell(r#"{"image_cache_mib": 0}"#).unwrap().settings.images.cache_bytes, 0);
}

#[test]
fn wrong_values_of_cell_cfg_name_the_key_and_what_is_right() {
    let cases = [
        (r#"{"bridge": ""}"#, "bridge", "such as \"br0\""),
        (r#"{"bridge": "a/b"}"#, "bridge", "such as \"br0\""),
        (r#"{"bridge": "a-very-long-bridge"}"#, "bridge", "such as \"br0\""),
        (r#"{"bridge": 0}"#, "bridge", "such as \"br0\""),
        (r#"{"libvirt_uri": "system"}"#, "libvirt_uri", "qemu:///system"),
        (r#"{"virtualization": "KVM!"}"#, "virtualization", "\"auto\", \"kvm\" or \"qemu\""),
        (r#"{"core_address": "core.example"}"#, "core_address", "IPv4 address"),
        (r#"{"core_name": " Core_1"}"#, "core_name", "cell status"),
        (r#"{"core_name": "a\nb"}"#, "core_name", "cell status"),
        (r#"{"core_address": "224.0.0.1"}"#, "core_address", "IPv4 address"),
        (r#"{"core_address": "10.0.0.1:0"}"#, "core_address", "IPv4 address"),
        (r#"{"core_address": "10.0.0.1:70000"}"#, "core_address", "IPv4 address"),
        (r#"{"image_tls": "maybe"}"#, "image_tls", "\"verify\" or \"insecure\""),
        (r#"{"image_ca": "ca.pem"}"#, "image_ca", "absolute path"),
        (r#"{"image_cache_mib": -1}"#, "image_cache_mib", "from 0"),
        (r#"{"log_level": "inof"}"#, "log_level", "error, warn, info"),
        (r#"{"log_level": "info,cell=loud"}"#, "log_level", "error, warn, info"),
        (r#"{"log_days": 0}"#, "log_days", "from 1"),
        (r#"{"log_file_mib": 64, "log_total_mib": 100}"#, "log_total_mib", "at least twice"),
    ];
    for (content, key, right) in cases {
        let text = cell(content).unwrap_err().to_string();
        assert!(text.contains(&format!("\"{key}\"")) && text.contains(right), "{content}: {text}");
    }
}

/// The keys that a file may have, from the warning about one that it may not.
fn known<T>(load: impl FnOnce(&Path) -> Result<Loaded<T>, ConfigError>, good: Value) -> Vec<String> {
    let mut file = good;
    file["zzz"] = json!(1);
    let warning = with_file(&file.to_string(), load).unwrap().warnings.remove(0);
    let mut keys: Vec<_> = warning.split("known keys: ").nth(1).unwrap().split(", ").map(str::to_owned).collect();
    keys.sort();
    keys
}

fn known_keys() -> [(&'static str, Vec<String>); 2] {
    let domain = json!({"domain": "nano", "group_address": "224.0.0.226", "group_port": 5599});
    [("domain.cfg.example", known(load_domain, domain)), ("cell.cfg.example", known(load_cell, json!({})))]
}

#[test]
fn the_shipped_examples_hold_every_key_with_its_default() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let domain = load_domain(&shipped.join("domain.cfg.example")).unwrap();
    assert_eq!((domain.settings, domain.warnings), (DomainSettings::default(), vec![]));
    let cell = load_cell(&shipped.join("cell.cfg.example")).unwrap();
    assert_eq!((cell.settings, cell.warnings), (CellSettings::default(), vec![]));
    for (name, known) in known_keys() {
        let file: serde_json::Map<String, Value> = serde_json::from_str(&fs::read_to_string(shipped.join(name)).unwrap()).unwrap();
        let mut shown: Vec<_> = file.into_iter().map(|(key, _)| key).collect();
        shown.sort();
        assert_eq!(shown, known, "{name}");
    }
}

#[test]
fn the_manual_explains_every_key() {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    for key in known_keys().into_iter().flat_map(|(_, keys)| keys) {
        assert!(manual.contains(&format!("\n| `{key}` |")), "{key}");
    }
}

proptest! {
    #[test]
    fn no_file_whatever_makes_it_panic(text in "\\PC*") {
        let _ = domain(&text);
        let _ = cell(&text);
    }

    #[test]
    fn no_value_whatever_makes_it_panic(key in "domain|group_address|group_port|timeout|bridge|log_level|core_address|log_days", text in any::<String>(), number in any::<i64>()) {
        for value in [json!(text), json!(number)] {
            let _ = domain(&domain_with(&key, value.clone()));
            let _ = cell(&json!({&key: value}).to_string());
        }
    }
}
