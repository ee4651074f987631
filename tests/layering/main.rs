//! Keeps the layers of `src/lib.rs` apart: who may name whom, and what only one place may do.
//!
//! The sources are read as tokens, so comments and texts don't count and macro arguments do. Test code is left out: a test may reach further.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod source;

use std::path::Path;

use source::Source;

/// What each module of the first level may name, beside itself. A path allows everything below it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `start` checks the settings before it detaches, and `status` asks the service through its status socket
    // and `doctor` prints what the doctor has found
    ("cli", &["process", "app", "config", "model", "observe", "doctor"]),
    ("app", &["process", "config", "model", "proto", "net", "txn", "host", "store", "observe", "doctor", "faults"]),
    // it compares the books with the host, beside the service or without one
    ("doctor", &["host", "model", "store"]),
    ("process", &["model"]),
    ("config", &["model"]),
    ("model", &[]),
    ("proto", &[]),
    ("net", &["proto", "model"]),
    ("txn", &["host", "proto::message", "model", "store"]),
    ("host", &["model", "faults"]),
    ("store", &["model", "faults"]),
    // places at which tests end the process; nothing in other builds
    ("faults", &[]),
    ("observe", &["model"]),
];

/// The parts behind the traits of `host`, and which of their siblings each may name. They know the traits; only `app` chooses one.
/// `cloudinit` is none: its documents are functions of a guest's configuration, and it names none of these.
const HOST_PARTS: &[(&str, &[&str])] = &[
    // libvirt keeps the books of a pool, storage makes the files in it
    ("libvirt", &["storage"]),
    ("storage", &[]),
    ("network", &[]),
    ("sim", &[]),
];

/// Identifiers that only these places may use, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("virt", &["host/libvirt/"], "libvirt is behind the traits of host"),
    (
        "unsafe",
        &["host/libvirt/events.rs", "host/libvirt/block_job.rs"],
        "the calls of libvirt that the virt crate does not wrap need it: events and their callbacks, block jobs",
    ),
    // `status` asks the service through a Unix socket with a deadline
    ("socket2", &["net/", "cli/status.rs", "host/network/"], "the sockets of the domain are in net, those that guests see in host/network"),
    ("UdpSocket", &["net/", "host/network/"], "the sockets of the domain are in net, those that guests see in host/network"),
];

/// Identifiers that a layer does without, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "proto/",
        &["tokio", "UdpSocket", "SystemTime", "thread"],
        "protocol code takes `now` and bytes, and gives bytes, events and the next deadline",
    ),
    ("model/", &["tokio", "nix", "tracing"], "the model is plain data"),
    ("txn/", &["virt", "nix", "Command"], "transactions touch the host through its traits"),
    ("observe/", &["virt"], "pages and metrics read snapshots"),
];

/// Where a file asks to be split.
const LINES: usize = 700;

fn tree() -> Vec<Source> {
    Source::tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn under(path: &[String], prefix: &str) -> bool {
    prefix.split("::").zip(path).filter(|(wanted, found)| wanted == found).count() == prefix.split("::").count()
}

/// Complaints about one source.
fn judge(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |text: String| complaints.push(format!("{}: {text}", source.name));
    let own = source.module.first().map_or("main", String::as_str);
    let rule = ALLOWED.iter().find(|(module, _)| *module == own);
    if rule.is_none() && !source.module.is_empty() {
        complain(format!("`{own}` is a new layer: say in tests/layering what it may name"));
    }
    let allowed = rule.map_or(&[][..], |(_, allowed)| allowed);
    for path in &source.references {
        let Some(target) = path.first() else { continue };
        if target != own && !allowed.iter().any(|prefix| under(path, prefix)) {
            complain(format!("`{own}` names `{}`", path.join("::")));
        }
        let part = path.get(1).filter(|_| target == "host").filter(|name| HOST_PARTS.iter().any(|(part, _)| part == name));
        if let Some(part) = part.filter(|part| own != "app" && source.module.get(1) != Some(*part)) {
            let sibling = own == "host"
                && HOST_PARTS.iter().any(|(from, to)| source.module.get(1).is_some_and(|own| own == from) && to.contains(&part.as_str()));
            if !sibling {
                complain(format!("`{}` names `host::{part}`, which is behind the traits", source.module.join("::")));
            }
        }
    }
    for (word, places, why) in RESERVED {
        if source.words.contains(*word) && !places.iter().any(|place| source.name.starts_with(place)) {
            complain(format!("`{word}` belongs to {}: {why}", places.join(", ")));
        }
    }
    for (place, words, why) in FORBIDDEN {
        for word in words.iter().filter(|word| source.name.starts_with(place) && source.words.contains(**word)) {
            complain(format!("`{word}` has no place here: {why}"));
        }
    }
    if source.texts.iter().any(|text| text == "qemu-img") && source.name != "host/storage/qemu_img.rs" {
        complain("only host/storage/qemu_img.rs runs qemu-img".into());
    }
    if !source.opens_with_contract {
        complain("opens without a `//!` contract".into());
    }
    if source.lines > LINES {
        complain(format!("{} lines: {LINES} is where a file asks to be split", source.lines));
    }
    complaints
}

#[test]
fn every_source_keeps_to_its_layer() {
    let tree = tree();
    assert!(tree.iter().any(|source| source.name == "host/mod.rs"), "the sources were not found");
    let complaints: Vec<String> = tree.iter().flat_map(judge).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let table: Vec<&str> =
        manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1).take_while(|line| !line.starts_with('[')).collect();
    let dependencies: Vec<&&str> = table.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(dependencies.len() > 10, "the table was not found");
    for line in dependencies {
        let reason = line.rsplit_once('#').map_or("", |(_, reason)| reason.trim());
        assert!(reason.len() > 10, "no reason beside: {line}");
    }
}

#[test]
fn members_take_their_dependencies_from_the_workspace() {
    for manifest in ["Cargo.toml", "corelet/Cargo.toml"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest)).unwrap();
        let mut table = "";
        for line in text.lines() {
            if line.starts_with('[') {
                table = line;
            } else if matches!(table, "[dependencies]" | "[dev-dependencies]") && line.contains('=') {
                assert!(line.contains("workspace = true") || line.contains("path = "), "{manifest}: {line}");
            }
        }
    }
}

/// The checks above must be able to fail: each of these sources breaks one rule.
#[test]
fn breaches_are_found() {
    let breach = |name: &str, text: &str| judge(&Source::read(name, text)).join("\n");
    for (name, text, complaint) in [
        ("txn/a.rs", "//! A.\nuse crate::{model::Guest, net::driver};", "`txn` names `net::driver`"),
        ("txn/a.rs", "//! A.\nuse crate::proto::{message::Message, kcp};", "`txn` names `proto::kcp`"),
        ("txn/handlers/a.rs", "//! A.\nuse super::super::super::app::App;", "`txn` names `app::App`"),
        ("txn/a.rs", "//! A.\nfn f() { select! { x = crate::host::libvirt::now() => {} } }", "names `host::libvirt`"),
        ("host/storage/mod.rs", "//! A.\nuse super::libvirt::Pool;", "names `host::libvirt`"),
        ("model/a.rs", "//! A.\nuse tokio::sync::mpsc;", "`tokio` has no place here"),
        ("proto/kcp/a.rs", "//! A.\nfn f() { std::thread::sleep(d) }", "`thread` has no place here"),
        ("app.rs", "//! A.\nuse virt::connect::Connect;", "`virt` belongs to host/libvirt/"),
        ("host/libvirt/pool.rs", "//! A.\nfn f() { unsafe { g() } }", "`unsafe` belongs to"),
        ("host/storage/mod.rs", "//! A.\nfn f() { Command::new(\"qemu-img\"); }", "only host/storage/qemu_img.rs"),
        ("model/a.rs", "use std::fmt;", "opens without"),
        ("shell/a.rs", "//! A.", "`shell` is a new layer"),
    ] {
        assert!(breach(name, text).contains(complaint), "{name}: {text}\nfound: {}", breach(name, text));
    }
    for (name, text) in [
        ("txn/a.rs", "//! A.\nuse crate::host::Host;\n// crate::net\nconst T: &str = \"crate::net::driver\";"),
        ("txn/a.rs", "//! A.\n#[cfg(test)]\nmod checks { use crate::net::driver; }"),
        ("host/libvirt/mod.rs", "//! A.\nuse super::HostError;\nuse self::pool::Pool;\nuse virt::connect::Connect;"),
    ] {
        assert_eq!(breach(name, text), "");
    }
}
