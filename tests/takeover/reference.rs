//! What the reference Cell asks of a data directory when it starts (contract §8.6), and of single values wherever it reads them (§8.2, §8.4, §8.5).
//!
//! Reads the files alone and shares no code with the node. What it can't see in them: a running guest's memory statistics, libvirt's network
//! "default", the bridge's address and the two ports, which are the host's and not the directory's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Fields of a guest that are never left out (§8.2), and what Go decodes them into.
const GUEST: [(&str, Kind); 18] = [
    ("name", Kind::Text),
    ("id", Kind::Text),
    ("user", Kind::Text),
    ("group", Kind::Text),
    ("cores", Kind::Number),
    ("memory", Kind::Number),
    ("disks", Kind::List),
    ("auto_start", Kind::Flag),
    ("monitor_port", Kind::Number),
    ("monitor_secret", Kind::Text),
    ("storage_mode", Kind::Number),
    ("storage_pool", Kind::Text),
    ("storage_volumes", Kind::List),
    ("network_mode", Kind::Number),
    ("network_source", Kind::Text),
    ("hardware_address", Kind::Text),
    ("internal_address", Kind::Text),
    ("external_address", Kind::Text),
];

const RESOURCE: [(&str, Kind); 4] =
    [("monitor_port", Kind::Number), ("hardware_address", Kind::Text), ("internal_address", Kind::Text), ("external_address", Kind::Text)];

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// Unsigned.
    Number,
    Flag,
    /// Or `null`.
    List,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Number => value.is_u64(),
            Self::Flag => value.is_boolean(),
            Self::List => value.is_array() || value.is_null(),
        }
    }
}

/// Everything that the reference would stumble over; `domains` are the ids that libvirt knows.
pub fn check(files: &BTreeMap<String, Vec<u8>>, domains: &BTreeSet<String>) -> Result<(), Vec<String>> {
    let mut found = Vec::new();
    let mut parsed = BTreeMap::new();
    for (name, content) in files {
        form(name, content, &mut found);
        match serde_json::from_slice::<Value>(content) {
            Ok(value) => drop(parsed.insert(name.as_str(), value)),
            Err(error) => found.push(format!("{name} is no JSON: {error}")),
        }
    }
    if let (Some(instance), Some(storage), Some(network)) =
        (parsed.get("instance.data"), parsed.get("storage.data"), parsed.get("network.data"))
    {
        storage_book(storage, &mut found);
        if text(network, "default_bridge").is_empty() {
            found.push("network.data: default_bridge is empty".into());
        }
        let ids = guests(instance).map(|guest| text(guest, "id").to_owned()).collect::<BTreeSet<_>>();
        for guest in guests(instance) {
            one_guest(guest, storage, network, domains, &mut found);
        }
        let strays = network["resources"].as_object().into_iter().flat_map(Map::keys).filter(|id| !ids.contains(*id));
        found.extend(strays.map(|id| format!("network.data: resources of {id}, which is no guest")));
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(found)
    }
}

/// One blank of indent a level, no newline at the end.
fn form(name: &str, content: &[u8], found: &mut Vec<String>) {
    if content.ends_with(b"\n") {
        found.push(format!("{name} ends with a newline"));
    }
    let second = content.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    if !second.starts_with(b" \"") {
        found.push(format!("{name} is not indented by one blank"));
    }
}

fn guests(instance: &Value) -> impl Iterator<Item = &Value> {
    instance["instances"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn storage_book(storage: &Value, found: &mut Vec<String>) {
    match storage["pools"].as_object() {
        Some(pools) if !pools.is_empty() => {
            for (name, pool) in pools {
                if !pool["volumes"].is_object() {
                    found.push(format!("storage.data: volumes of pool {name} are no object"));
                }
                if text(pool, "name") != name || !pool["mode"].is_u64() {
                    found.push(format!("storage.data: pool {name} has another name or no mode"));
                }
            }
        }
        _ => found.push("storage.data: pools must be there, or the reference begins anew".into()),
    }
    let current = match text(storage, "current_pool") {
        "" => "local0",
        name => name,
    };
    if !storage["pools"][current].is_object() {
        found.push(format!("storage.data: the current pool {current} is not there"));
    }
    if !storage["groups"].is_object() {
        found.push("storage.data: groups are no object".into());
    }
    for (id, group) in storage["groups"].as_object().into_iter().flatten() {
        snapshots(id, group, found);
    }
}

fn snapshots(id: &str, group: &Value, found: &mut Vec<String>) {
    let Some(all) = group["snapshots"].as_object().filter(|all| !all.is_empty()) else { return };
    let mut complain = |what: String| found.push(format!("storage.data: group {id}: {what}"));
    let (base, active) = (text(group, "base_snapshot"), text(group, "active_snapshot"));
    if all.get(base).is_none_or(|base| base["is_root"] != true) {
        complain(format!("base_snapshot {base:?} is no root, so none would be listed"));
    }
    let current: Vec<&String> = all.iter().filter(|(_, snapshot)| snapshot["is_current"] == true).map(|(name, _)| name).collect();
    if current.iter().any(|name| *name != active) || current.len() != usize::from(!active.is_empty()) {
        complain(format!("active_snapshot is {active:?}, current are {current:?}"));
    }
    for (name, snapshot) in all {
        let backing = text(snapshot, "backing");
        if !backing.is_empty() && !all.contains_key(backing) {
            complain(format!("snapshot {name} is based on {backing:?}, which is not there"));
        }
        for volume in volume_names(group) {
            if !snapshot["files"][volume].is_string() {
                complain(format!("snapshot {name} has no image of {volume}"));
            }
        }
    }
}

fn volume_names(group: &Value) -> impl Iterator<Item = &str> {
    let data = group["data"].as_array().into_iter().flatten();
    std::iter::once(&group["system"]).chain(data).map(|volume| text(volume, "name"))
}

fn one_guest(guest: &Value, storage: &Value, network: &Value, domains: &BTreeSet<String>, found: &mut Vec<String>) {
    let id = text(guest, "id");
    let mut complain = |what: String| found.push(format!("guest {} ({id}): {what}", text(guest, "name")));
    if !domains.contains(id) {
        complain("has no domain".into());
    }
    for (field, kind) in GUEST {
        if !kind.fits(&guest[field]) {
            complain(format!("{field} is {}", guest[field]));
        }
    }
    match guest["template"].is_object() {
        false if text(guest, "auth_user").is_empty() => complain("neither template nor auth_user: the reference crashes".into()),
        false => complain("without its template: the reference crashes when cloud-init asks".into()),
        true => {}
    }
    let group = &storage["groups"][id];
    if group.is_object() {
        let names: BTreeSet<&str> = volume_names(group).collect();
        let volumes: Vec<&str> = guest["storage_volumes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if volumes.len() != volume_names(group).count() {
            complain(format!("{} volumes, but its group has {}", volumes.len(), volume_names(group).count()));
        }
        for volume in volumes.iter().filter(|volume| !names.contains(**volume)) {
            complain(format!("volume {volume} is not in its group"));
        }
        for volume in &volumes {
            if storage["pools"][text(guest, "storage_pool")]["volumes"][*volume] != true {
                complain(format!("volume {volume} is not in its pool's list"));
            }
        }
    } else {
        complain("has no entry in groups".into());
    }
    let resource = &network["resources"][id];
    if !resource.is_object() {
        return complain("has no entry in resources: the reference could not delete it".into());
    }
    for (field, kind) in RESOURCE {
        if !kind.fits(&resource[field])
            || (resource[field] != guest[field] && !text(guest, field).is_empty())
            || (field == "monitor_port" && resource[field] != guest[field])
        {
            complain(format!("{field} of its resources is {}, of itself {}", resource[field], guest[field]));
        }
    }
}
