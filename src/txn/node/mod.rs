//! The state that all transactions of this node share.

pub mod awaited;
pub mod books;
pub(in crate::txn) mod claims;
mod copies;
pub mod jobs;
pub mod mailboxes;
pub mod transfers;
mod warnings;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use crate::host::Host;
use crate::model::{GuestId, PowerState};
use crate::proto::message::{Key, Message, MessageId};
use crate::store::{DataFile, Store};

use super::audit::AuditLog;
use super::held::Held;
use super::missed::Missed;
use super::thaws::Thaws;
use super::usage::UsageCache;
use super::{Failure, Outbox};

pub use books::Books;
pub use warnings::Warnings;

/// Counters since the start; what `cell status` shows.
#[derive(Default)]
pub struct Counters {
    /// Messages of the Core that reached the engine.
    pub received: AtomicU64,
    /// Answers that were a failure.
    pub failed: AtomicU64,
    /// Answers given by the deadline.
    pub expired: AtomicU64,
}

/// What is under way on a node; all 0 on one at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Guests that are being changed, or wait to be.
    pub jobs: usize,
    /// Transactions that wait for a further message of the Core.
    pub waiting: usize,
    /// Disks on their way from or to an image server.
    pub transfers: usize,
    /// Guests whose figures are kept; running ones only.
    pub watched: usize,
}

/// What the configuration says about new guests.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Bridge of new guests' interfaces.
    pub bridge: String,
    /// Name of this node in the domain, which claims of shared guests carry.
    pub name: String,
    /// Directory below which shared pools are mounted (contract §8; §14 D20).
    pub pools_dir: String,
}

/// Everything a handler works on.
pub struct Node {
    /// The host underneath.
    pub host: Host,
    /// Guests, volumes, assignments.
    pub books: Arc<Books>,
    /// Writes the books to `data/`.
    pub store: Store,
    /// Answers and events go here.
    pub outbox: Arc<dyn Outbox>,
    /// One change at a time per guest.
    pub jobs: jobs::Jobs,
    /// Transfers of disks.
    pub transfers: transfers::Transfers,
    /// Held for reading from before media are fetched until they are in a drive, for writing while those that nobody uses are removed.
    pub media_files: Arc<RwLock<()>>,
    /// Media were taken out of a drive since those that nobody uses were removed.
    pub media_left: AtomicBool,
    /// Held for reading while volumes are made, for writing while their pools are moved.
    pub layout: RwLock<()>,
    /// Guests that may be about to come here.
    pub awaited: awaited::Awaited,
    /// The Core has spoken since the service was started: guests of shared pools may be.
    pub core_has_spoken: AtomicBool,
    /// Held while the address pool is changed.
    pub addressing: tokio::sync::Mutex<()>,
    /// Guests in which the deletion of a snapshot may have broken off while they ran.
    pub(in crate::txn) broken_merges: Mutex<BTreeSet<GuestId>>,
    /// Transactions that wait for a further message.
    pub mailboxes: mailboxes::Mailboxes,
    /// What shared pools say about our guests.
    copies: copies::Copies,
    /// Claims taken from others.
    taken: claims::Taken,
    /// Figures of running guests.
    pub usage: Arc<UsageCache>,
    /// Guests that QEMU holds.
    pub held: Held,
    /// Guests whose file systems may be frozen.
    pub thaws: Thaws,
    /// Ends of guests that the Core may not have heard of.
    pub missed: Missed,
    /// Counters.
    pub counters: Counters,
    /// Log lines that a peer can trigger.
    pub warnings: Warnings,
    /// Where it is noted that something which had broken off was cleaned up.
    pub trail: OnceLock<Arc<dyn AuditLog>>,
    /// Settings.
    pub settings: NodeSettings,
}

impl Node {
    /// A node on `host` with what `data/` held.
    pub fn new(host: Host, books: Arc<Books>, store: Store, outbox: Arc<dyn Outbox>, settings: NodeSettings) -> Self {
        let usage = Arc::new(UsageCache::new(host.hypervisor.clone()));
        let (jobs, transfers) = (jobs::Jobs::default(), transfers::Transfers::default());
        let (counters, warnings) = (Counters::default(), Warnings::default());
        let (mailboxes, copies, taken) = (mailboxes::Mailboxes::default(), copies::Copies::default(), claims::Taken::default());
        Self {
            host,
            books,
            store,
            outbox,
            jobs,
            transfers,
            media_files: Arc::default(),
            media_left: AtomicBool::new(false),
            layout: RwLock::new(()),
            awaited: awaited::Awaited::default(),
            core_has_spoken: AtomicBool::new(false),
            addressing: tokio::sync::Mutex::default(),
            broken_merges: Mutex::default(),
            mailboxes,
            copies,
            taken,
            usage,
            held: Held::default(),
            thaws: Thaws::default(),
            missed: Missed::default(),
            counters,
            warnings,
            trail: OnceLock::new(),
            settings,
        }
    }

    /// Makes the state at the time of this call durable, and brings what shared pools say about our guests up to date.
    pub async fn save(&self, files: &[DataFile]) -> Result<(), Failure> {
        self.store.flush(files).await?;
        if files.iter().any(|file| matches!(file, DataFile::Instance | DataFile::Storage)) {
            self.copy_shared().await;
        }
        Ok(())
    }

    /// Writes down that a guest runs, stopped or vanished; true when that is news. Whoever saw it start right now
    /// tells [`UsageCache::started`] as well.
    pub fn set_power(&self, id: GuestId, power: PowerState) -> bool {
        let changed = {
            let mut books = self.books.lock();
            let Some(guest) = books.guests.get_mut(&id) else {
                return false;
            };
            if power != PowerState::Running {
                guest.address = None;
            }
            std::mem::replace(&mut guest.power, power) != power
        };
        if changed {
            self.usage.forget(id);
        }
        changed
    }

    /// Tells the Core that a guest runs or does not. A guest that libvirt lost does not run either.
    /// A guest that stopped with media in its drive has no media any more, and the Core is told (contract §13.10).
    pub fn announce_power(&self, id: GuestId, power: PowerState, session: u32) {
        let event = match power {
            PowerState::Running => MessageId::GUEST_STARTED_EVENT,
            PowerState::Stopped | PowerState::Lost => MessageId::GUEST_STOPPED_EVENT,
        };
        self.outbox.send(None, Message::new(event).string(Key::Instance, id.to_string()).from_session(session));
        if power != PowerState::Running {
            self.drop_media(id, session);
        }
    }

    /// Tells the Core that a guest is gone: now, and when there is a link again if it can't hear it now.
    pub(in crate::txn) fn announce_end(&self, event: Message) {
        self.missed.keep(event.clone());
        self.outbox.send(None, event);
    }

    /// A guest's drive is empty now, whoever emptied it; tells the Core when there were media in it.
    pub fn drop_media(&self, id: GuestId, session: u32) {
        let had = {
            let mut books = self.books.lock();
            let guest = books.guests.get_mut(&id).filter(|guest| guest.config.media.is_some());
            guest.map(|guest| Arc::make_mut(&mut guest.config).media = None).is_some()
        };
        if had {
            self.outbox
                .send(None, Message::new(MessageId::MEDIA_DETACHED_EVENT).string(Key::Instance, id.to_string()).from_session(session));
            self.media_left.store(true, Ordering::Relaxed);
            self.store.flush_later(&[DataFile::Instance]);
        }
    }

    /// Address of the bridge, when it has one now.
    pub fn bridge_address(&self) -> Option<Ipv4Addr> {
        self.host.network.bridge().ok().and_then(|bridge| bridge.address)
    }

    /// Guests in all, running, lost.
    pub fn guest_counts(&self) -> (usize, usize, usize) {
        let books = self.books.lock();
        let count = |power| books.guests.values().filter(|guest| guest.power == power).count();
        (books.guests.len(), count(PowerState::Running), count(PowerState::Lost))
    }

    /// What is under way.
    pub fn load(&self) -> Load {
        Load { jobs: self.jobs.count(), waiting: self.mailboxes.count(), transfers: self.transfers.count(), watched: self.usage.count() }
    }

    /// One counter's value.
    pub fn count(&self, counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
