//! Books to bytes and back. Reading takes a file apart so that one bad entry costs nothing but itself.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use super::{DataFile, StoreError};
use crate::model::{GuestConfig, GuestId, Pool, Resource, VolumeGroup};

/// A book in the form of the reference: one blank of indent a level, no newline at the end (contract §8).
///
/// # Errors
/// [`StoreError::Encode`] when the value has no JSON form.
pub fn encode<T: Serialize>(file: DataFile, book: &T) -> Result<Vec<u8>, StoreError> {
    let mut content = Vec::with_capacity(4096);
    book.serialize(&mut Serializer::with_formatter(&mut content, PrettyFormatter::with_indent(b" ")))
        .map_err(|source| StoreError::Encode { file, source: source.into() })?;
    Ok(content)
}

/// A book and what of its file did not fit into it.
pub(super) struct Decoded<B> {
    pub(super) book: B,
    pub(super) kept: Kept,
    /// Entries that can't be read; they are in `kept`.
    pub(super) entries: Vec<Complaint>,
    /// Keys of the file that this version does not know; they are in `kept`.
    pub(super) unknown: Vec<String>,
    /// Keys of the file whose value can't be read; they have their default in `book`.
    pub(super) reset: Vec<Complaint>,
}

/// What is wrong with a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Which entry: `instances[3]`; empty for the file itself.
    pub(super) entry: String,
    /// Path of the key in it; empty when it is the entry as a whole.
    pub(super) key: String,
    pub(super) reason: String,
}

/// Takes a file apart.
///
/// # Errors
/// Why the file as a whole is of no use.
pub(super) fn decode<B: DeserializeOwned>(file: DataFile, content: &[u8]) -> Result<Decoded<B>, String> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(content).map_err(|error| if content.is_empty() { "it is empty".to_owned() } else { error.to_string() })?;
    let mut kept = Kept::default();
    let mut entries = Vec::new();
    for container in containers(file) {
        match object.get_mut(*container) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if file == DataFile::Instance => take_bad_items(container, list, &mut kept, &mut entries),
            Some(Value::Object(map)) if file != DataFile::Instance => take_bad_members(container, map, &mut kept, &mut entries),
            Some(_) => return Err(format!("'{container}' is of the wrong type")),
        }
    }
    let unknown: Vec<String> = object.keys().filter(|key| !keys(file).contains(&key.as_str())).cloned().collect();
    for key in &unknown {
        kept.members.extend(object.remove_entry(key));
    }
    let mut reset = Vec::new();
    let book = loop {
        let document = Value::Object(object);
        let complaint = match parse(&document) {
            Ok(book) => break book,
            Err(complaint) => complaint,
        };
        let Value::Object(mut rest) = document else { return Err(complaint.reason) };
        let first = complaint.key.split(['.', '[']).next().unwrap_or_default();
        if rest.remove(first).is_none() {
            return Err(complaint.reason);
        }
        object = rest;
        reset.push(complaint);
    };
    Ok(Decoded { book, kept, entries, unknown, reset })
}

/// The parts of a file whose entries are read one by one.
const fn containers(file: DataFile) -> &'static [&'static str] {
    match file {
        DataFile::Instance => &["instances"],
        DataFile::Storage => &["pools", "groups"],
        DataFile::Network => &["resources"],
    }
}

/// The keys of a file (contract §8.2, §8.4, §8.5).
const fn keys(file: DataFile) -> &'static [&'static str] {
    match file {
        DataFile::Instance => &["instances", "storage_pool", "storage_url", "max_guest", "arrivals"],
        DataFile::Storage => &["mode", "system_paths", "data_paths", "pools", "groups", "current_pool"],
        DataFile::Network => &["default_bridge", "resources", "dns", "gateway", "allocation_mode"],
    }
}

fn take_bad_items(container: &str, list: &mut Vec<Value>, kept: &mut Kept, complaints: &mut Vec<Complaint>) {
    let mut seen = HashSet::new();
    let mut good = Vec::with_capacity(list.len());
    for (index, value) in std::mem::take(list).into_iter().enumerate() {
        let checked = parse::<GuestConfig>(&value).and_then(|guest| unique(&mut seen, guest.id));
        match checked {
            Ok(()) => good.push(value),
            Err(complaint) => {
                complaints.push(Complaint { entry: describe(container, index, &value), ..complaint });
                kept.items.push(Item { container: container.to_owned(), index, value });
            }
        }
    }
    *list = good;
}

fn take_bad_members(container: &str, map: &mut Map<String, Value>, kept: &mut Kept, complaints: &mut Vec<Complaint>) {
    let mut seen = HashSet::new();
    for (key, value) in std::mem::take(map) {
        let checked = match container {
            "pools" => parse::<Pool>(&value).map(drop),
            "groups" => guest_key(&key, &mut seen).and_then(|()| parse::<VolumeGroup>(&value).map(drop)),
            _ => guest_key(&key, &mut seen).and_then(|()| parse::<Resource>(&value).map(drop)),
        };
        match checked {
            Ok(()) => {
                map.insert(key, value);
            }
            Err(complaint) => {
                complaints.push(Complaint { entry: format!("{container}.{key}"), ..complaint });
                kept.entries.push(Entry { container: container.to_owned(), key, value });
            }
        }
    }
}

fn guest_key(key: &str, seen: &mut HashSet<GuestId>) -> Result<(), Complaint> {
    let id = key.parse::<GuestId>().map_err(|error| Complaint::whole(error.to_string()))?;
    unique(seen, id)
}

fn unique(seen: &mut HashSet<GuestId>, id: GuestId) -> Result<(), Complaint> {
    if seen.insert(id) {
        Ok(())
    } else {
        Err(Complaint::whole(format!("an entry before it has the same id {id}")))
    }
}

/// An item of a list by its index and, for people, its name.
fn describe(container: &str, index: usize, value: &Value) -> String {
    match value.get("name").and_then(Value::as_str) {
        Some(name) => format!("{container}[{index}] ({name})"),
        None => format!("{container}[{index}]"),
    }
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, Complaint> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { String::new() } else { path };
        // The library's reason quotes the value.
        let reason =
            if key.contains("secret") { "it is not a text".to_owned() } else { error.inner().to_string().chars().take(200).collect() };
        Complaint { entry: String::new(), key, reason }
    })
}

impl Complaint {
    fn whole(reason: String) -> Self {
        Self { entry: String::new(), key: String::new(), reason }
    }
}

/// Parts of a file that this version can't read. They are put back into every new version of the file.
#[derive(Default)]
pub(super) struct Kept {
    items: Vec<Item>,
    entries: Vec<Entry>,
    members: Vec<(String, Value)>,
}

struct Item {
    container: String,
    index: usize,
    value: Value,
}

struct Entry {
    container: String,
    key: String,
    value: Value,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.entries.is_empty() && self.members.is_empty()
    }

    /// The content with the kept parts in it. Where the book has meanwhile got an entry of the same key, the book's counts.
    pub(super) fn put_back(&self, file: DataFile, content: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        if self.is_empty() {
            return Ok(content);
        }
        let mut object: Map<String, Value> =
            serde_json::from_slice(&content).map_err(|source| StoreError::Encode { file, source: source.into() })?;
        for item in &self.items {
            if let Some(list) = container(&mut object, &item.container, Value::Array(Vec::new())).as_array_mut() {
                list.insert(item.index.min(list.len()), item.value.clone());
            }
        }
        for entry in &self.entries {
            if let Some(map) = container(&mut object, &entry.container, Value::Object(Map::new())).as_object_mut() {
                map.entry(&entry.key).or_insert_with(|| entry.value.clone());
            }
        }
        for (key, value) in &self.members {
            object.entry(key).or_insert_with(|| value.clone());
        }
        encode(file, &object)
    }
}

/// A part of the document; `empty` takes its place where it is missing or `null`.
fn container<'a>(object: &'a mut Map<String, Value>, name: &str, empty: Value) -> &'a mut Value {
    let part = object.entry(name).or_insert(Value::Null);
    if part.is_null() {
        *part = empty;
    }
    part
}
