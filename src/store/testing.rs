//! A store whose process may die, and whose disk may refuse, at any write.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::disk::{Disk, RealDisk};
use super::{Opened, Store, StoreError};
use crate::host::sim::SimProcess;

/// What the disk refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// The first change that is refused; 1 is the next one.
    pub(crate) first: u64,
    /// How many are.
    pub(crate) count: u64,
    pub(crate) errno: Errno,
}

/// How much a write at the end of a file leaves there when it is refused: as much as a disk that fills up, or one whose flush fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Half of it; of several lines, whole ones.
    #[default]
    Half,
    /// All of it.
    Whole,
}

/// The disk's end in the test's hands. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct TestDisk {
    process: SimProcess,
    refusal: Arc<Mutex<(u64, Option<Refusal>)>>,
    leaves: Arc<Mutex<Leaves>>,
}

impl TestDisk {
    /// The disk of this process.
    pub(crate) fn new(process: SimProcess) -> Self {
        Self { process, refusal: Arc::default(), leaves: Arc::default() }
    }

    /// Counts changes from here.
    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock() = (0, refusal);
    }

    /// What the end of a file holds after a refusal.
    pub(crate) fn leave(&self, leaves: Leaves) {
        *self.leaves.lock() = leaves;
    }

    /// Changes since then.
    pub(crate) fn changes(&self) -> u64 {
        self.refusal.lock().0
    }

    /// A change with a point before and after it. `part` is what a refusal and a death in the middle leave.
    fn change(&self, part: impl FnOnce(), work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let dead = || Err(Errno::EIO.into());
        if !self.process.pass() {
            return dead();
        }
        {
            let mut refusal = self.refusal.lock();
            refusal.0 += 1;
            if let (number, Some(Refusal { first, count, errno })) = *refusal {
                if (first..first.saturating_add(count)).contains(&number) {
                    part();
                    return Err(errno.into());
                }
            }
        }
        if !self.process.pass() {
            part();
            return dead();
        }
        work()?;
        if self.process.pass() {
            Ok(())
        } else {
            dead()
        }
    }
}

/// As the real one, but nothing is synced: a test's process dies, its kernel does not.
impl Disk for TestDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if self.process.is_dead() {
            return Err(Errno::EIO.into());
        }
        RealDisk.read(path)
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let write = |content: &[u8]| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(content)
        };
        self.change(|| drop(write(&content[..content.len() / 2])), || write(content))
    }

    fn append(&self, path: &Path, content: &[u8], _sync: bool) -> io::Result<()> {
        let write = |content: &[u8]| OpenOptions::new().append(true).open(path)?.write_all(content);
        let left = match *self.leaves.lock() {
            Leaves::Half => content.len() / 2,
            Leaves::Whole => content.len(),
        };
        self.change(|| drop(write(&content[..left])), || write(content))
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        RealDisk.length(path)
    }

    /// A full disk does not refuse it.
    fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        let is_full = matches!(self.refusal.lock().1, Some(Refusal { errno: Errno::ENOSPC, .. }));
        if is_full && !self.process.is_dead() {
            return RealDisk.cut(path, length);
        }
        self.change(|| {}, || RealDisk.cut(path, length))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| {}, || fs::hard_link(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| {}, || fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|| {}, || RealDisk.remove(path))
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.make_directory(directory)
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.change(|| {}, || Ok(()))
    }
}

/// [`Store::open`] on such a disk.
pub(crate) fn open(disk: &TestDisk, directory: &Path) -> Result<Opened, StoreError> {
    Store::open_on(Arc::new(disk.clone()), directory, "br0", "T")
}
