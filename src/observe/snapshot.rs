//! The state of the service in figures: counted by those who do the work, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// What does not change while the service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of this program.
    pub version: String,
    /// Under which the Core knows the node.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Communication domain.
    pub domain: String,
}

/// How things stand with the Core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CoreLink {
    /// No Core has answered yet.
    #[default]
    Searching,
    /// A Core answered; the handshake is under way.
    Connecting {
        /// Its name where known, else its address.
        core: String,
    },
    /// Requests can come.
    Connected {
        /// Its name where known, else its address.
        core: String,
    },
    /// It was there and is gone; it is being looked for.
    Lost {
        /// Its name where known, else its address.
        core: String,
    },
}

/// Guests of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFigures {
    /// All.
    pub total: u64,
    /// With a QEMU process.
    pub running: u64,
    /// Without a libvirt domain.
    pub lost: u64,
}

/// Transactions since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFigures {
    /// Under way.
    pub active: u64,
    /// Begun.
    pub total: u64,
    /// Ended with a failure, timeouts included.
    pub failed: u64,
    /// Ended at their deadline.
    pub timeouts: u64,
}

/// The status report that went to the Core last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportFigures {
    /// Seconds since 1970.
    pub time: u64,
    /// Logical CPUs.
    pub cpus: u64,
    /// 0..=100.
    pub cpu_percent: f64,
    /// Available and total bytes.
    pub memory: [u64; 2],
    /// Free and total bytes of the storage paths.
    pub disk: [u64; 2],
    /// Bytes per second: disk read, disk written, network received, network sent.
    pub speed: [u64; 4],
}

/// All of it at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version, name, pid, domain.
    #[serde(flatten)]
    pub about: About,
    /// Seconds since the start of the service.
    pub uptime: u64,
    /// Connection to the Core.
    pub core: CoreLink,
    /// libvirt answers.
    pub libvirt_connected: bool,
    /// Guests.
    pub guests: GuestFigures,
    /// Transactions.
    pub transactions: TransactionFigures,
    /// Absent until the first one was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_report: Option<ReportFigures>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// The Core got a success.
    Done,
    /// The Core got a failure.
    Failed,
    /// It did not end before its deadline; the Core got a failure.
    TimedOut,
}

/// Where the parts of the service put their figures. Shared by all threads.
pub struct Metrics {
    about: About,
    started: Instant,
    libvirt_connected: AtomicBool,
    active: AtomicU64,
    begun: AtomicU64,
    failed: AtomicU64,
    timeouts: AtomicU64,
    rest: RwLock<Rest>,
}

#[derive(Default)]
struct Rest {
    core: CoreLink,
    guests: GuestFigures,
    last_report: Option<ReportFigures>,
}

impl Metrics {
    /// Nothing has happened yet; `started` is when the uptime begins.
    pub fn new(about: About, started: Instant) -> Self {
        Self {
            about,
            started,
            libvirt_connected: AtomicBool::new(false),
            active: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            rest: RwLock::default(),
        }
    }

    /// The connection to the Core changed.
    pub fn set_core(&self, link: CoreLink) {
        self.rest.write().core = link;
    }

    /// libvirt came or went.
    pub fn set_libvirt_connected(&self, connected: bool) {
        self.libvirt_connected.store(connected, Ordering::Relaxed);
    }

    /// The guests changed.
    pub fn set_guests(&self, guests: GuestFigures) {
        self.rest.write().guests = guests;
    }

    /// A status report was sent; its time is set here.
    pub fn set_report(&self, report: ReportFigures) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.rest.write().last_report = Some(ReportFigures { time, ..report });
    }

    /// A transaction began; [`Metrics::transaction_ended`] is to follow.
    pub fn transaction_begun(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction that had begun ended.
    pub fn transaction_ended(&self, end: TransactionEnd) {
        if end != TransactionEnd::Done {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        if end == TransactionEnd::TimedOut {
            self.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Everything as it is `now`.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rest = self.rest.read();
        Snapshot {
            about: self.about.clone(),
            uptime: now.saturating_duration_since(self.started).as_secs(),
            core: rest.core.clone(),
            libvirt_connected: self.libvirt_connected.load(Ordering::Relaxed),
            guests: rest.guests,
            transactions: TransactionFigures {
                active: read(&self.active),
                total: read(&self.begun),
                failed: read(&self.failed),
                timeouts: read(&self.timeouts),
            },
            last_report: rest.last_report.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
