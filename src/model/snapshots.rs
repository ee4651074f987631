//! The tree of a guest's snapshots (contract §8.4): who is based on whom, and what becomes of it by a change.
//!
//! Contract: pure changes of the book. `is_root`, `is_current`, `base_snapshot` and `active_snapshot` agree after each of them, whatever they
//! were before; a book that names itself in a circle ends no loop.

use std::collections::{BTreeMap, BTreeSet};

use super::{Snapshot, Volume, VolumeGroup};

impl VolumeGroup {
    /// Snapshots in the order in which they were taken.
    pub fn snapshots_by_time(&self) -> Vec<&Snapshot> {
        let mut all: Vec<&Snapshot> = self.snapshots.values().collect();
        all.sort_by(|one, other| (&one.create_time, &one.name).cmp(&(&other.create_time, &other.name)));
        all
    }

    /// Names of the snapshots that are directly based on this one.
    pub fn children(&self, name: &str) -> Vec<String> {
        self.snapshots.values().filter(|snapshot| snapshot.backing == name).map(|snapshot| snapshot.name.clone()).collect()
    }

    /// True when the current files are based on this snapshot, directly or not.
    pub fn is_beneath(&self, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = self.active_snapshot.as_str();
        while let Some(snapshot) = self.snapshots.get(next).filter(|_| seen.insert(next)) {
            if snapshot.name == name {
                return true;
            }
            next = &snapshot.backing;
        }
        false
    }

    /// Enters a snapshot of the current files, which are based on it from now on. `files`: volume name -> frozen image.
    pub fn take_snapshot(&mut self, name: &str, description: &str, create_time: String, files: BTreeMap<String, String>) {
        let backing = self.active_snapshot.clone();
        let snapshot = Snapshot {
            name: name.to_owned(),
            description: description.to_owned(),
            create_time,
            is_root: backing.is_empty(),
            backing,
            files,
            ..Snapshot::default()
        };
        self.snapshots.insert(name.to_owned(), snapshot);
        self.go_to(name);
    }

    /// The current files are based on this snapshot now; "" for none.
    pub fn go_to(&mut self, name: &str) {
        name.clone_into(&mut self.active_snapshot);
        for snapshot in self.snapshots.values_mut() {
            snapshot.is_current = snapshot.name == name;
        }
        self.settle_base();
    }

    /// Strikes a snapshot; what was based on it is based on its parent now.
    pub fn strike_snapshot(&mut self, name: &str) {
        let Some(struck) = self.snapshots.remove(name) else { return };
        for child in self.snapshots.values_mut().filter(|snapshot| snapshot.backing == name) {
            child.backing.clone_from(&struck.backing);
            child.is_root = struck.backing.is_empty();
        }
        let active = if self.active_snapshot == name { struck.backing } else { self.active_snapshot.clone() };
        self.go_to(&active);
    }

    /// The base is a root as long as there is one (contract §14 D14): the reference lists nothing without it.
    fn settle_base(&mut self) {
        if self.snapshots.get(&self.base_snapshot).is_some_and(|base| base.is_root) {
            return;
        }
        let ordered = self.snapshots_by_time();
        let base = ordered.iter().find(|snapshot| snapshot.is_root).or(ordered.first()).map(|snapshot| snapshot.name.clone());
        self.base_snapshot = base.unwrap_or_default();
    }

    /// Gives a volume another file in the same directory; the snapshots know it under its new name.
    pub fn rename_volume(&mut self, present: &str, new: &str) {
        for volume in std::iter::once(&mut self.system).chain(&mut self.data).filter(|volume| volume.name == present) {
            volume.rename(new);
        }
        for snapshot in self.snapshots.values_mut() {
            if let Some(file) = snapshot.files.remove(present) {
                snapshot.files.insert(new.to_owned(), file);
            }
        }
    }
}

impl Volume {
    /// A qcow2 image in the directory of a pool, which has no slash at its end.
    pub fn in_pool(pool: &str, directory: &str, name: &str, capacity: u64) -> Self {
        let path = format!("{directory}/{name}");
        Self { name: name.to_owned(), format: "qcow2".into(), key: path.clone(), path, capacity, pool: pool.to_owned() }
    }

    /// The volume's file.
    pub fn file(&self) -> &str {
        if self.path.is_empty() {
            &self.key
        } else {
            &self.path
        }
    }

    /// Directory of the volume's file.
    pub fn directory(&self) -> &str {
        self.file().rsplit_once('/').map_or("", |(directory, _)| directory)
    }

    fn rename(&mut self, new: &str) {
        let path = format!("{}/{new}", self.directory());
        new.clone_into(&mut self.name);
        self.key.clone_from(&path);
        self.path = path;
    }
}

#[cfg(test)]
mod tests;
