//! What is to go wrong, and when.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::super::ErrorKind;
use crate::model::GuestId;

/// The operations of the host traits that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named as the trait's methods
pub enum Operation {
    Domains,
    Domain,
    Define,
    Undefine,
    Start,
    StartWithMedia,
    SetMedia,
    Media,
    Shutdown,
    Reboot,
    Reset,
    Destroy,
    SetAutostart,
    Sample,
    Reconfigure,
    UpdateFilter,
    Agent,
    EnsureLocalPool,
    EnsureNfsPool,
    CheckPool,
    RefreshPool,
    Pool,
    RemovePool,
    CreateVolume,
    DeleteVolume,
    WriteFile,
    ResizeDisk,
    ChangeVolumes,
    SwitchDisks,
    BeginMerge,
    MergeProgress,
    FlushDisk,
    InspectDisk,
    ListFiles,
    Overlay,
    Compact,
    Replace,
    SetAside,
    PutBack,
    RemoveFile,
    ResizeImage,
    Merge,
    Unmerge,
    Settle,
    Rebase,
    Persist,
    Bridge,
    Neighbours,
    Fetch,
    Install,
    Discard,
    Upload,
    FetchMedia,
    DiscardMedia,
    LoadShared,
    SaveShared,
    EraseShared,
    Claim,
    SetClaim,
    Held,
    Resume,
    Definitions,
    Filters,
    FilterState,
    Pools,
}

impl Operation {
    /// False for what is done without libvirtd, which may be away then: images, transfers, shared storage, the network.
    pub(super) fn needs_libvirt(self) -> bool {
        use Operation as O;
        let images =
            [O::InspectDisk, O::ListFiles, O::Overlay, O::Compact, O::Replace, O::SetAside, O::PutBack, O::RemoveFile, O::ResizeImage];
        let merges = [O::Merge, O::Unmerge, O::Settle, O::Rebase, O::Persist];
        let transfers = [O::Fetch, O::Install, O::Discard, O::Upload, O::FetchMedia, O::DiscardMedia];
        let others = [O::LoadShared, O::SaveShared, O::EraseShared, O::Claim, O::SetClaim, O::Bridge, O::Neighbours];
        ![&images[..], &merges, &transfers, &others].iter().any(|group| group.contains(&self))
    }
}

/// Whether a failing operation was carried out all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It did nothing.
    None,
    /// It was done, only the answer says otherwise: what a lost connection or a passed deadline looks like.
    Done,
}

/// One failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the caller gets.
    pub kind: ErrorKind,
    /// What happens on the host.
    pub effect: Effect,
}

impl From<ErrorKind> for Fault {
    /// A failure without effect.
    fn from(kind: ErrorKind) -> Self {
        Self { kind, effect: Effect::None }
    }
}

/// Faults, latencies and hanging guests.
pub(super) struct Plan {
    begun: u64,
    /// Numbers of the operations that failed on demand.
    met: Vec<u64>,
    by_number: BTreeMap<u64, Fault>,
    /// libvirtd goes away when this one is asked for.
    last: Option<u64>,
    by_operation: HashMap<Operation, VecDeque<Fault>>,
    pub(super) latency: HashMap<Operation, Duration>,
    pub(super) deadline: Duration,
    pub(super) hung: HashSet<GuestId>,
    pub(super) shutdown_time: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            begun: 0,
            met: Vec::new(),
            by_number: BTreeMap::new(),
            last: None,
            by_operation: HashMap::new(),
            latency: HashMap::new(),
            deadline: Duration::from_secs(10),
            hung: HashSet::new(),
            shutdown_time: Some(Duration::from_secs(1)),
        }
    }
}

impl Plan {
    /// Counts an operation and says how it is to fail.
    pub(super) fn begin(&mut self, operation: Operation) -> Option<Fault> {
        self.begun += 1;
        let by_number = self.by_number.remove(&self.begun);
        let fault = by_number.or_else(|| self.by_operation.get_mut(&operation)?.pop_front());
        if fault.is_some() {
            self.met.push(self.begun);
        }
        fault
    }

    pub(super) fn met(&self) -> Vec<u64> {
        self.met.clone()
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn fail_next(&mut self, operation: Operation, fault: Fault) {
        self.by_operation.entry(operation).or_default().push_back(fault);
    }

    pub(super) fn fail_at(&mut self, nth: u64, fault: Fault) {
        self.by_number.insert(self.begun + nth, fault);
    }

    /// libvirtd goes away when the `nth` operation from now is asked for.
    pub(super) fn leave_at(&mut self, nth: u64) {
        self.last = Some(self.begun + nth);
    }

    /// True when it is time to go away.
    pub(super) fn leaves(&mut self) -> bool {
        self.last.take_if(|last| *last <= self.begun).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.last = None;
        self.by_number.clear();
        self.by_operation.clear();
    }
}
