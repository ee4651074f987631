//! CPU, memory, disk and network figures of running guests, kept fresh only for guests that somebody asks about.
//!
//! Contract: an answer never waits long for a busy guest. A figure younger than `FRESH` is given at once; an older one is
//! renewed, and given as it was when that takes longer than `PATIENCE`. One sample per guest is under way at most. A guest
//! that was asked about lately is sampled in the background, so that a watcher gets its answers from memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{watch, Notify};
use tokio::time::Instant;

use crate::host::{DomainSample, Hypervisor};
use crate::model::GuestId;

/// Age at which a figure is renewed before it is given.
const FRESH: Duration = Duration::from_millis(1500);
/// How long an answer waits for a renewal.
const PATIENCE: Duration = Duration::from_millis(400);
/// Time between background samples of a guest that is asked about.
const CADENCE: Duration = Duration::from_secs(1);
/// How long after the last question the background goes on.
const INTEREST: Duration = Duration::from_secs(5);
/// Two samples closer than this give no meaningful CPU share.
const LEAST_SPAN: Duration = Duration::from_millis(200);

/// What a status answer shows of a running guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// 0..=100 over all its virtual CPUs, between the last two samples.
    pub cpu_percent: f64,
    /// Counters and sizes.
    pub sample: DomainSample,
}

struct Entry {
    usage: Usage,
    /// When the figures were taken; `None` before the first sample.
    taken: Option<Instant>,
    /// CPU time that the share counts from, and when it was that; `None` for a guest that ran before we looked.
    base: Option<(u64, Instant)>,
    asked: Option<Instant>,
    /// `Some` while a sample is under way; becomes true when it has ended.
    under_way: Option<watch::Receiver<bool>>,
    /// Tells a late sample of an earlier run of the guest from one of this run.
    generation: u64,
}

/// Figures by guest.
pub struct UsageCache {
    hypervisor: Arc<dyn Hypervisor>,
    entries: Mutex<HashMap<GuestId, Entry>>,
    generations: AtomicU64,
    /// Wakes the background when somebody asks.
    wanted: Notify,
}

impl UsageCache {
    /// An empty cache over the hypervisor's samples.
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { hypervisor, entries: Mutex::default(), generations: AtomicU64::new(0), wanted: Notify::new() }
    }

    /// A guest started right now: its counters begin at 0.
    pub fn started(&self, id: GuestId) {
        let base = Some((0, Instant::now()));
        self.entries.lock().insert(id, Entry { base, ..Entry::new(self.next_generation()) });
    }

    /// Guests whose figures are kept.
    pub fn count(&self) -> usize {
        self.entries.lock().len()
    }

    /// A guest stopped or was found in another state: what was known of it is void.
    pub fn forget(&self, id: GuestId) {
        self.entries.lock().remove(&id);
    }

    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// The figures of a running guest; all 0 when it could not be asked in time and never was before.
    pub async fn get(self: &Arc<Self>, id: GuestId) -> Usage {
        let now = Instant::now();
        let mut done = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(id).or_insert_with(|| Entry::new(self.next_generation()));
            entry.asked = Some(now);
            self.wanted.notify_one();
            if entry.taken.is_some_and(|taken| now.duration_since(taken) < FRESH) {
                return entry.usage.clone();
            }
            self.begin(id, entry)
        };
        // An error means that the sampler is gone: the last figures are the best there is.
        let _ = tokio::time::timeout(PATIENCE, done.wait_for(|done| *done)).await;
        self.entries.lock().get(&id).map(|entry| entry.usage.clone()).unwrap_or_default()
    }

    /// Joins the sample under way or begins one.
    fn begin(self: &Arc<Self>, id: GuestId, entry: &mut Entry) -> watch::Receiver<bool> {
        if let Some(done) = &entry.under_way {
            return done.clone();
        }
        let (finish, done) = watch::channel(false);
        entry.under_way = Some(done.clone());
        let (cache, generation) = (self.clone(), entry.generation);
        // Not awaited by the answer: a guest that hangs must not hold it.
        tokio::spawn(async move {
            if let Ok(sample) = cache.hypervisor.sample(id).await {
                if cache.enter(id, generation, sample) {
                    // Its first figures: a share of CPU time needs a second look.
                    tokio::time::sleep(LEAST_SPAN).await;
                    if let Ok(sample) = cache.hypervisor.sample(id).await {
                        cache.enter(id, generation, sample);
                    }
                }
            }
            cache.end(id, generation);
            // Nobody may be waiting any more.
            let _ = finish.send(true);
        });
        done
    }

    /// Takes a sample; true when it only gave the base of the CPU share.
    fn enter(&self, id: GuestId, generation: u64, sample: DomainSample) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&id).filter(|entry| entry.generation == generation);
        entry.is_some_and(|entry| entry.take(sample, Instant::now()))
    }

    fn end(&self, id: GuestId, generation: u64) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&id).filter(|entry| entry.generation == generation) {
            entry.under_way = None;
        }
    }

    /// Samples the guests that were asked about lately, for ever. Sleeps while nobody asks.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            if !self.renew() {
                self.wanted.notified().await;
            }
            tokio::time::sleep(CADENCE).await;
        }
    }

    /// Begins a sample of each guest that was asked about lately; true when there are such guests.
    fn renew(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut wanted = false;
        for (id, entry) in self.entries.lock().iter_mut() {
            if entry.asked.is_some_and(|asked| now.duration_since(asked) < INTEREST) {
                wanted = true;
                self.begin(*id, entry);
            }
        }
        wanted
    }
}

impl Entry {
    fn new(generation: u64) -> Self {
        Self { usage: Usage::default(), taken: None, base: None, asked: None, under_way: None, generation }
    }

    /// Takes a sample in; true when it only gave the base of the CPU share.
    fn take(&mut self, sample: DomainSample, now: Instant) -> bool {
        let next = Some((sample.cpu_time_ns, now));
        match self.base {
            None => self.base = next,
            Some((used, since)) if now.duration_since(since) >= LEAST_SPAN => {
                let used = sample.cpu_time_ns.saturating_sub(used);
                self.usage.cpu_percent = share(used, now.duration_since(since), sample.cpus);
                self.base = next;
            }
            Some(_) => {}
        }
        let first = self.taken.is_none() && self.base == next && self.usage.cpu_percent == 0.0;
        self.usage.sample = sample;
        self.taken = Some(now);
        first
    }
}

/// Percent of all virtual CPUs' time (contract §11.4).
#[allow(clippy::cast_precision_loss)] // nanoseconds of CPU time fit a double's 53 bits for a hundred days
fn share(used_ns: u64, span: Duration, cpus: u32) -> f64 {
    let possible = span.as_secs_f64() * 1e9 * f64::from(cpus.max(1));
    (used_ns as f64 * 100.0 / possible).clamp(0.0, 100.0)
}
