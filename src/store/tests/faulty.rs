//! A disk that fails on demand.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};

use crate::store::disk::{Disk, RealDisk};

/// What goes wrong, by the number of the operation (from 1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// This one operation fails and has no effect.
    FailAt(u64, Errno),
    /// Nothing from this operation on has an effect; a file being written stays half written. What a SIGKILL or a power cut leaves.
    DeadFrom(u64),
}

pub(super) struct FaultyDisk {
    trouble: Mutex<Trouble>,
    operations: AtomicU64,
    /// New files begun.
    pub(super) created: AtomicU64,
    paused: Mutex<bool>,
    resumed: Condvar,
}

impl FaultyDisk {
    pub(super) fn new() -> Self {
        Self {
            trouble: Mutex::new(Trouble::None),
            operations: AtomicU64::new(0),
            created: AtomicU64::new(0),
            paused: Mutex::new(false),
            resumed: Condvar::new(),
        }
    }

    /// Counts from here.
    pub(super) fn set(&self, trouble: Trouble) {
        self.operations.store(0, Ordering::SeqCst);
        *self.trouble.lock() = trouble;
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// New files wait.
    pub(super) fn pause(&self, yes: bool) {
        *self.paused.lock() = yes;
        self.resumed.notify_all();
    }

    fn step(&self) -> io::Result<()> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        match *self.trouble.lock() {
            Trouble::FailAt(at, errno) if at == number => Err(errno.into()),
            Trouble::DeadFrom(from) if number >= from => Err(Errno::EIO.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for FaultyDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step().and_then(|()| RealDisk.read(path))
    }

    fn create(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.created.fetch_add(1, Ordering::SeqCst);
        let mut paused = self.paused.lock();
        while *paused {
            self.resumed.wait(&mut paused);
        }
        drop(paused);
        self.step().inspect_err(|_| {
            // A write that fails leaves a part, and so does a death, unless death came before.
            let before = matches!(*self.trouble.lock(), Trouble::DeadFrom(from) if self.operations() > from);
            if !before {
                RealDisk.create(path, &content[..content.len() / 2]).unwrap();
            }
        })?;
        RealDisk.create(path, content)
    }

    fn append(&self, path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
        self.step().inspect_err(|_| {
            let before = matches!(*self.trouble.lock(), Trouble::DeadFrom(from) if self.operations() > from);
            if !before {
                RealDisk.append(path, &content[..content.len() / 2], false).unwrap();
            }
        })?;
        RealDisk.append(path, content, sync)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        RealDisk.length(path)
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.cut(path, length))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.link(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.remove(path))
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.make_directory(directory))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.step().and_then(|()| RealDisk.sync_directory(directory))
    }
}
