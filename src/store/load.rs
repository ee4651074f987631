//! Reading the books at start: defaults, the last good copy, and a report of everything that was not as it should be.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::files::{Files, Former};
use super::format::{decode, encode, Complaint, Decoded, Kept};
use super::{loss, DataFile, StoreError};
use crate::model::{InstanceBook, NetworkBook, PoolMode, StorageBook, DEFAULT_MAX_GUEST, LOCAL_POOL};

/// The books as they were found, with the reference's defaults filled in.
#[derive(Debug)]
pub struct Loaded {
    /// Guests.
    pub instance: InstanceBook,
    /// Pools and volume groups. Without a pool on the first start.
    pub storage: StorageBook,
    /// Ports, MACs and addresses.
    pub network: NetworkBook,
    /// For the log and the terminal; empty when all was well.
    pub notices: Vec<Notice>,
    /// Guests may be missing from the books: something was found lost now, or by an earlier start that did not get to [`super::Store::made_good`].
    pub lost: bool,
}

/// Something in the data directory that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// One entry can't be read. It stays in the file, untouched, and is not used.
    Entry {
        /// File.
        file: DataFile,
        /// For example `instances[3] (manager.web)`.
        entry: String,
        /// Key in the entry, "" when it is the entry as a whole.
        key: String,
        /// Why.
        reason: String,
    },
    /// A key that this version does not know. It stays in the file.
    UnknownKey {
        /// File.
        file: DataFile,
        /// Key.
        key: String,
    },
    /// A value of the file can't be read; its default is used.
    Reset {
        /// File.
        file: DataFile,
        /// Key.
        key: String,
        /// Why.
        reason: String,
        /// The file as it was.
        aside: String,
    },
    /// A file is damaged as a whole and was set aside.
    Damaged {
        /// File.
        file: String,
        /// Why.
        reason: String,
        /// Its new name.
        aside: String,
        /// The last good copy took its place; otherwise the node starts without this file's content.
        recovered: bool,
    },
    /// The end of the journal was not completely written when the last run ended; it is cut off.
    JournalTail {
        /// How much.
        bytes: usize,
    },
    /// Whole lines of the journal can't be read; the others are used.
    JournalDamaged {
        /// How many lines.
        lines: usize,
        /// The file as it was.
        aside: String,
    },
    /// A file is gone but its last good copy is there and was used.
    Missing {
        /// File.
        file: DataFile,
    },
}

impl Notice {
    /// True when something the node knew before may be missing now; such a notice is an error in the log, the others are warnings.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::Entry { .. } | Self::UnknownKey { .. } | Self::JournalTail { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { file, entry, key, reason } => {
                let dot = if key.is_empty() { "" } else { "." };
                write!(
                    f,
                    "{}: {entry}{dot}{key}: {reason}; the entry is not used and stays in the file: stop the service, correct it, start again",
                    file.name()
                )
            }
            Self::UnknownKey { file, key } => write!(f, "{}: unknown key '{key}'; it is not used and stays in the file", file.name()),
            Self::Reset { file, key, reason, aside } => {
                write!(f, "{}: {key}: {reason}; its default is used, the file as it was is now {aside}", file.name())
            }
            Self::Damaged { file, reason, aside, recovered: true } => {
                write!(f, "{file} is damaged: {reason}; the last good copy is used, the latest change may be missing; the damaged file is now {aside}")
            }
            Self::Damaged { file, reason, aside, recovered: false } => write!(
                f,
                "{file} is damaged: {reason}; there is no good copy, so the service starts without its content; the damaged file is now {aside}: \
                 stop the service, put a repaired file in place of {file}, start again"
            ),
            Self::JournalTail { bytes } => {
                write!(f, "journal.data ends in {bytes} bytes that were not completely written; they are cut off, what they announced had not begun")
            }
            Self::JournalDamaged { lines, aside } => write!(
                f,
                "journal.data is damaged: {lines} lines can't be read; the others are used, what those were about may be left half done; \
                 the damaged file is now {aside}"
            ),
            Self::Missing { file } => {
                let name = file.name();
                write!(f, "{name} is missing; its last good copy {name}.bak is used (to begin anew, remove both while the service is stopped)")
            }
        }
    }
}

/// What could not be read of each file and has to be written back.
#[derive(Default)]
pub(super) struct KeptParts {
    storage: Kept,
    network: Kept,
    instance: Kept,
}

impl KeptParts {
    pub(super) fn of(&self, file: DataFile) -> &Kept {
        match file {
            DataFile::Storage => &self.storage,
            DataFile::Network => &self.network,
            DataFile::Instance => &self.instance,
        }
    }
}

/// Reads the three books. `time` goes into the names of files set aside.
pub(super) fn load(files: &Files, default_bridge: &str, time: &str) -> Result<(Loaded, KeptParts), StoreError> {
    let mut loader = Loader { files, time, notices: Vec::new() };
    let (mut instance, instance_kept) = loader.book::<InstanceBook>(DataFile::Instance)?;
    let (mut storage, storage_kept) = loader.book::<StorageBook>(DataFile::Storage)?;
    let (mut network, network_kept) = loader.book::<NetworkBook>(DataFile::Network)?;
    complete_instances(&mut instance);
    complete_storage(&mut storage);
    if network.default_bridge.is_empty() {
        network.default_bridge = default_bridge.to_owned();
    }
    let lost = loss::is_marked(files)? || loader.notices.iter().any(Notice::is_loss);
    let kept = KeptParts { storage: storage_kept, network: network_kept, instance: instance_kept };
    Ok((Loaded { instance, storage, network, notices: loader.notices, lost }, kept))
}

/// What absent fields of `instance.data` mean (contract §8.2).
fn complete_instances(book: &mut InstanceBook) {
    if book.storage_pool.is_empty() {
        book.storage_pool = LOCAL_POOL.into();
    }
    if book.max_guest == 0 {
        book.max_guest = DEFAULT_MAX_GUEST;
    }
    for guest in book.instances.iter_mut().filter(|guest| guest.auth_user.is_empty()) {
        let administrator = if guest.operating_system() == "windows" { "Administrator" } else { "root" };
        Arc::make_mut(guest).auth_user = administrator.into();
    }
}

/// What absent fields of `storage.data` mean (contract §8.4).
fn complete_storage(book: &mut StorageBook) {
    if book.current_pool.is_empty() {
        book.current_pool = LOCAL_POOL.into();
    }
    let Some(local) = book.pools.get(LOCAL_POOL) else { return };
    if book.mode.is_empty() {
        book.mode = if local.mode == PoolMode::Nfs { "nfs" } else { "local" }.into();
    }
    let parent = std::path::Path::new(&local.target).parent().and_then(|parent| parent.to_str()).filter(|parent| !parent.is_empty());
    if let Some(parent) = parent {
        for paths in [&mut book.system_paths, &mut book.data_paths] {
            if paths.is_empty() {
                paths.push(parent.to_owned());
            }
        }
    }
}

struct Loader<'a> {
    files: &'a Files,
    time: &'a str,
    notices: Vec<Notice>,
}

impl Loader<'_> {
    /// A book from its file, else from the last good copy, else the default.
    fn book<B: DeserializeOwned + Serialize + Default>(&mut self, file: DataFile) -> Result<(B, Kept), StoreError> {
        let name = file.name();
        let Some(content) = self.files.read(name)? else {
            let recovered = self.backup(file)?;
            if recovered.is_some() {
                self.notices.push(Notice::Missing { file });
            }
            return Ok(recovered.unwrap_or_default());
        };
        match decode::<B>(file, &content) {
            Ok(decoded) if decoded.reset.is_empty() => Ok(self.accept(file, decoded)),
            Ok(decoded) => self.salvage(file, decoded),
            Err(reason) => {
                self.mark(name)?;
                let aside = self.files.set_aside(name, self.time)?;
                let recovered = self.backup(file)?;
                if recovered.is_none() {
                    self.files.remove(name)?;
                }
                self.notices.push(Notice::Damaged { file: name.into(), reason, aside, recovered: recovered.is_some() });
                Ok(recovered.unwrap_or_default())
            }
        }
    }

    /// Before anything is done about a loss: it would not show any more if this start ended here.
    fn mark(&self, name: &str) -> Result<(), StoreError> {
        loss::mark(self.files, name, self.time)
    }

    fn accept<B>(&mut self, file: DataFile, decoded: Decoded<B>) -> (B, Kept) {
        let entries = decoded.entries.into_iter();
        self.notices.extend(entries.map(|Complaint { entry, key, reason }| Notice::Entry { file, entry, key, reason }));
        self.notices.extend(decoded.unknown.into_iter().map(|key| Notice::UnknownKey { file, key }));
        (decoded.book, decoded.kept)
    }

    /// A file of which single values are bad: a copy of it stays, the readable rest takes its place.
    fn salvage<B: Serialize>(&mut self, file: DataFile, mut decoded: Decoded<B>) -> Result<(B, Kept), StoreError> {
        self.mark(file.name())?;
        let aside = self.files.set_aside(file.name(), self.time)?;
        for Complaint { key, reason, .. } in std::mem::take(&mut decoded.reset) {
            self.notices.push(Notice::Reset { file, key, reason, aside: aside.clone() });
        }
        let content = decoded.kept.put_back(file, encode(file, &decoded.book)?)?;
        self.files.replace(&[(file.name(), &content)], Former::Drop)?;
        Ok(self.accept(file, decoded))
    }

    /// The last good copy, put in the file's place. A damaged copy is set aside as well.
    fn backup<B: DeserializeOwned>(&mut self, file: DataFile) -> Result<Option<(B, Kept)>, StoreError> {
        let name = Files::backup_name(file.name());
        let Some(content) = self.files.read(&name)? else { return Ok(None) };
        self.mark(file.name())?;
        match decode::<B>(file, &content) {
            Ok(decoded) if decoded.reset.is_empty() => {
                self.files.replace(&[(file.name(), &content)], Former::Drop)?;
                Ok(Some(self.accept(file, decoded)))
            }
            outcome => {
                let reason = match outcome {
                    Ok(decoded) => decoded.reset.into_iter().map(|complaint| format!("{}: {}", complaint.key, complaint.reason)).collect(),
                    Err(reason) => reason,
                };
                let aside = self.files.set_aside(&name, self.time)?;
                self.files.remove(&name)?;
                self.notices.push(Notice::Damaged { file: name, reason, aside, recovered: false });
                Ok(None)
            }
        }
    }
}
