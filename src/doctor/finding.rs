//! What the doctor has found, and what can be done about it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::host::{DomainEdit, SharedGuest};
use crate::model::{GuestConfig, GuestId, InstanceBook, NetworkBook, Pool, StorageBook};

/// The three data files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Books {
    /// Guests.
    pub instance: InstanceBook,
    /// Pools and volume groups.
    pub storage: StorageBook,
    /// Ports, MACs and addresses.
    pub network: NetworkBook,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Names the kind for programs: `<area>.<kind>`; all of them stand in docs/doctor.md.
    pub code: &'static str,
    /// A drift has to be dealt with; a note is good to know.
    pub weight: Weight,
    /// What it is about.
    pub subject: String,
    /// What is so.
    pub what: String,
    /// Why that matters, or where it comes from.
    pub why: String,
    /// What to do.
    pub remedy: Remedy,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It counts for the exit status.
    Drift,
    /// It does not.
    Note,
}

/// What can be done about a finding.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// `--repair` does it.
    Automatic {
        /// In words.
        text: String,
        /// The deed.
        repair: Repair,
    },
    /// The service does it, at its next start or as soon as it can.
    Service(String),
    /// Somebody has to decide: a command or an advice.
    Manual(String),
}

impl Remedy {
    /// A repair with its description.
    pub fn automatic(text: impl Into<String>, repair: Repair) -> Self {
        Self::Automatic { text: text.into(), repair }
    }

    /// A change of the books with its description.
    pub fn books(text: impl Into<String>, change: impl Fn(&mut Books) + Send + Sync + 'static) -> Self {
        Self::automatic(text, Repair::Books(BookChange(Arc::new(change))))
    }

    /// In words.
    pub fn text(&self) -> &str {
        match self {
            Self::Automatic { text, .. } | Self::Service(text) | Self::Manual(text) => text,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Automatic { .. } => "automatic",
            Self::Service(_) => "service",
            Self::Manual(_) => "manual",
        }
    }
}

impl Serialize for Remedy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Remedy", 2)?;
        object.serialize_field("kind", self.kind())?;
        object.serialize_field("text", self.text())?;
        object.end()
    }
}

/// A change of the books; makes no difference the second time.
#[derive(Clone)]
pub struct BookChange(pub Arc<dyn Fn(&mut Books) + Send + Sync>);

impl fmt::Debug for BookChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BookChange")
    }
}

/// A deed of `--repair`. Each is idempotent, and none of them removes an image that might hold data.
#[derive(Clone, Debug)]
pub enum Repair {
    /// Does with the data files what a start would do: sets damaged ones aside and takes the last good copies.
    Reopen,
    /// Takes away what others may do with a file of `data/`.
    Restrict(PathBuf),
    /// Removes what an interrupted write has left in `data/`.
    RemoveLeftover(PathBuf),
    /// Changes the books.
    Books(BookChange),
    /// Has a pool in libvirt, started or mounted, as the books say.
    EnsurePool(Pool),
    /// Defines a lost domain from the books.
    Define(Arc<GuestConfig>),
    /// libvirt's autostart flag.
    SetAutostart(GuestId, bool),
    /// Changes one thing of a definition.
    Reconfigure(GuestId, DomainEdit),
    /// Makes a guest's filter as its rules want it.
    UpdateFilter(Arc<GuestConfig>),
    /// Removes the filter of a guest that does not exist.
    RemoveFilter(GuestId),
    /// Removes an unfinished image of ours.
    RemoveImage(String),
    /// Removes what a fetch left beside a disk.
    DiscardPart(String),
    /// An image gets back the name that it had.
    PutBack {
        /// The name that it had.
        path: String,
        /// The name that it has.
        aside: String,
    },
    /// Brings back what an image held before a merge that broke off.
    Unmerge(String),
    /// Writes down a guest for the other hosts of its pool.
    SaveShared {
        /// The pool's directory.
        directory: String,
        /// The guest.
        guest: Box<SharedGuest>,
    },
    /// Lets go of a guest that this node does not have.
    LetGo {
        /// The pool's directory.
        directory: String,
        /// The guest.
        id: GuestId,
    },
}

/// What there is to look at, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// This host: what the service needs to run on it.
    Host,
    /// Files of `data/`.
    Data,
    /// Unfinished transactions.
    Journal,
    /// The books among each other.
    Books,
    /// Storage pools and their mounts.
    Pools,
    /// Images of disks and snapshots.
    Disks,
    /// Domains.
    Domains,
    /// Filters.
    Filters,
    /// Claims and descriptions on shared pools.
    Claims,
}

impl Area {
    /// All of them, in order.
    pub const ALL: [Self; 9] =
        [Self::Host, Self::Data, Self::Journal, Self::Books, Self::Pools, Self::Disks, Self::Domains, Self::Filters, Self::Claims];

    /// As it stands in codes and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Data => "data",
            Self::Journal => "journal",
            Self::Books => "books",
            Self::Pools => "pools",
            Self::Disks => "disks",
            Self::Domains => "domains",
            Self::Filters => "filters",
            Self::Claims => "claims",
        }
    }
}

impl Finding {
    /// The area that its code names.
    pub fn area(&self) -> Area {
        let name = self.code.split('.').next().unwrap_or_default();
        Area::ALL.into_iter().find(|area| area.name() == name).unwrap_or(Area::Host)
    }

    /// True when the two are about the same thing.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.code, &self.subject, &self.what) == (other.code, &other.subject, &other.what)
    }
}

/// An area that could not be looked at, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blind {
    /// Which.
    pub area: Area,
    /// Why.
    pub reason: String,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// In the order of the areas.
    pub found: Vec<Finding>,
    /// What could not be looked at.
    pub blind: Vec<Blind>,
    /// Entries of `data/` can't be read or were lost: what seems to belong to nobody may belong to one of them.
    pub partial: bool,
}

impl Findings {
    /// A drift.
    pub(super) fn drift(
        &mut self,
        code: &'static str,
        subject: impl fmt::Display,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: Remedy,
    ) {
        let (subject, what, why) = (subject.to_string(), what.into(), why.into());
        self.found.push(Finding { code, weight: Weight::Drift, subject, what, why, remedy });
    }

    /// Something good to know.
    pub(super) fn note(
        &mut self,
        code: &'static str,
        subject: impl fmt::Display,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: Remedy,
    ) {
        self.drift(code, subject, what, why, remedy);
        if let Some(finding) = self.found.last_mut() {
            finding.weight = Weight::Note;
        }
    }

    /// An area that could not be looked at.
    pub(super) fn blind(&mut self, area: Area, reason: impl Into<String>) {
        self.blind.push(Blind { area, reason: reason.into() });
    }

    /// The remedy for what seems to belong to nobody: none is offered while entries of the books can't be read or are missing.
    pub(super) fn if_nobodys(&self, remedy: Remedy) -> Remedy {
        if self.partial {
            return Remedy::Manual("see to what can't be read first, or is missing, of data/: it may belong to that".into());
        }
        remedy
    }

    /// Drifts, without notes.
    pub fn drifts(&self) -> usize {
        self.found.iter().filter(|finding| finding.weight == Weight::Drift).count()
    }
}
