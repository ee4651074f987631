mod faulty;
mod loading;
mod small;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use super::*;
use crate::model::{InstanceBook, NetworkBook, StorageBook};

/// Data files that the reference left.
fn takeover() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/takeover/reference-1.4.1/data")
}

fn open(directory: &Path) -> Opened {
    Store::open(directory, "br0").unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The files of a directory but the three books and the journal.
fn others(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "journal.data" && !DataFile::ALL.iter().any(|file| file.name() == name));
    names.sort();
    names
}

/// A guest object with what the reference always writes.
fn guest(id: u8, name: &str) -> Value {
    json!({
        "name": name, "id": format!("00000000-0000-4000-8000-0000000000{id:02x}"), "user": "admin", "group": "manager", "cores": 1,
        "memory": 67_108_864, "disks": [67_108_864], "auto_start": false, "monitor_port": 5901, "monitor_secret": "s3cret",
        "storage_mode": 0, "storage_pool": "local0", "storage_volumes": ["a"], "network_mode": 1, "network_source": "br0",
        "hardware_address": "00:16:3e:00:00:01", "auth_user": "root", "internal_address": "", "external_address": "",
        "template": {"operating_system": "linux", "disk": "sata", "network": "virtio", "display": "vga", "control": "vnc"}
    })
}

fn write_instances(directory: &Path, instances: &Value) {
    fs::write(directory.join("instance.data"), json!({"instances": instances, "storage_pool": "local0", "max_guest": 100}).to_string())
        .unwrap();
}

/// A source that gives fixed books.
struct Books {
    instance: InstanceBook,
    storage: StorageBook,
    network: NetworkBook,
}

impl From<Loaded> for Books {
    fn from(loaded: Loaded) -> Self {
        Self { instance: loaded.instance, storage: loaded.storage, network: loaded.network }
    }
}

impl Source for Books {
    fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError> {
        match file {
            DataFile::Instance => encode(file, &self.instance),
            DataFile::Storage => encode(file, &self.storage),
            DataFile::Network => encode(file, &self.network),
        }
    }
}

/// Opens a directory, writes all books as they were loaded and gives what was noticed.
fn rewrite(directory: &Path) -> Vec<Notice> {
    let Opened { store, writer, mut loaded } = open(directory);
    let notices = std::mem::take(&mut loaded.notices);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let books = std::sync::Arc::new(Books::from(loaded));
        let (written, flushed) =
            tokio::join!(writer.run(books, tokio_util::sync::CancellationToken::new()), async move { store.flush(&DataFile::ALL).await });
        flushed.unwrap();
        written.unwrap();
    });
    notices
}
