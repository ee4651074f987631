//! The file behind the log: appended, closed at midnight or when it is large, old ones removed.
//!
//! The live file keeps its name; what is closed becomes `<name>.YYYY-MM-DD` (the day of its lines), then `.YYYY-MM-DD.1`, `.2` and so on. (The
//! rolling writer of tracing-appender puts the day into the live name instead.) A live file that somebody renamed, removed or truncated is
//! noticed before the next lines. Errors never leave this module: lines are lost, and the loss is written once it is possible again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use chrono::{DateTime, Days, Local, NaiveDate};

/// The live file's mode: what peers and operators do is nobody else's business.
const MODE: u32 = 0o640;

/// Lines are collected up to this size when they come faster than the disk takes them.
const BUFFER: usize = 64 * 1024;

/// How much log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Closed files older than this many days are removed.
    pub days: u32,
    /// The live file is closed before it grows over this many bytes.
    pub file_bytes: u64,
    /// The oldest closed files are removed while all files together hold more bytes.
    pub total_bytes: u64,
}

/// A growing file that is cut into days.
pub struct RotatingFile {
    path: PathBuf,
    limits: Limits,
    today: Box<dyn Fn() -> NaiveDate + Send>,
    /// Lines that never reached this writer, so far.
    dropped: Box<dyn Fn() -> usize + Send>,
    live: Option<Live>,
    buffer: Vec<u8>,
    /// Lines lost since the last one that was written.
    lost: usize,
    reported_dropped: usize,
    /// The last write stopped somewhere inside a line.
    torn: bool,
}

struct Live {
    file: File,
    day: NaiveDate,
    bytes: u64,
}

impl RotatingFile {
    /// Opens or creates the file; that it can be opened is checked here, once. `dropped` counts the lines that the queue before this writer threw away.
    pub fn open(path: &Path, limits: Limits, dropped: Box<dyn Fn() -> usize + Send>) -> io::Result<Self> {
        Self::with_clock(path, limits, dropped, Box::new(|| Local::now().date_naive()))
    }

    pub(super) fn with_clock(
        path: &Path,
        limits: Limits,
        dropped: Box<dyn Fn() -> usize + Send>,
        today: Box<dyn Fn() -> NaiveDate + Send>,
    ) -> io::Result<Self> {
        let live = Live::open(path, today())?;
        let mut file = Self {
            path: path.to_owned(),
            limits,
            today,
            dropped,
            live: Some(live),
            buffer: Vec::new(),
            lost: 0,
            reported_dropped: 0,
            torn: false,
        };
        file.prune();
        Ok(file)
    }

    /// Writes the collected lines, wherever the file is by now.
    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = self.buffer.iter().filter(|byte| **byte == b'\n').count();
        let text = std::mem::take(&mut self.buffer);
        match self.try_write(&text) {
            Ok(()) => {}
            Err(_) => self.lost = self.lost.saturating_add(lines),
        }
        // Its room is used again.
        self.buffer = text;
        self.buffer.clear();
    }

    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        self.follow_path()?;
        self.rotate_when_due(text.len())?;
        self.tell_losses()?;
        self.append(text)
    }

    /// Opens the file anew when it is no longer the one at the path.
    fn follow_path(&mut self) -> io::Result<()> {
        let asked = super::REOPEN.swap(false, Ordering::Relaxed);
        let moved = match (&mut self.live, self.path.metadata()) {
            (Some(live), Ok(named)) => {
                let open = live.file.metadata()?;
                live.bytes = open.len();
                (open.dev(), open.ino()) != (named.dev(), named.ino())
            }
            _ => true,
        };
        if asked || moved {
            self.live = None;
            self.live = Some(Live::open(&self.path, (self.today)())?);
        }
        Ok(())
    }

    fn rotate_when_due(&mut self, coming: usize) -> io::Result<()> {
        let today = (self.today)();
        let Some(live) = &self.live else { return Ok(()) };
        let coming = u64::try_from(coming).unwrap_or(u64::MAX);
        let full = live.bytes > 0 && live.bytes.saturating_add(coming) > self.limits.file_bytes;
        if live.bytes > 0 && (full || live.day < today) {
            let closed = free_name(&self.path, live.day);
            fs::rename(&self.path, closed)?;
            self.live = None;
            self.live = Some(Live::open(&self.path, today)?);
            self.torn = false;
            self.prune();
        }
        Ok(())
    }

    fn tell_losses(&mut self) -> io::Result<()> {
        let dropped = (self.dropped)();
        let unseen = dropped.saturating_sub(self.reported_dropped);
        let missing = self.lost.saturating_add(unseen);
        if missing == 0 {
            return Ok(());
        }
        let now = Local::now().format("%Y-%m-%d %H:%M:%S%.3f");
        self.append(format!("{now}  WARN log {missing} lines are missing here: the disk was full or too slow\n").as_bytes())?;
        self.lost = 0;
        self.reported_dropped = dropped;
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let Some(live) = &mut self.live else { return Err(io::ErrorKind::NotFound.into()) };
        if self.torn {
            live.file.write_all(b"\n")?;
        }
        // Until all of it is written, the file may end inside a line.
        self.torn = true;
        live.file.write_all(text)?;
        self.torn = false;
        live.bytes = live.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Removes closed files that are too old or too many.
    fn prune(&mut self) {
        let oldest = (self.today)().checked_sub_days(Days::new(u64::from(self.limits.days))).unwrap_or(NaiveDate::MIN);
        // Room for the live file, however full it becomes.
        let mut total = self.limits.file_bytes;
        let mut closed = closed_files(&self.path);
        closed.sort_by_key(|file| std::cmp::Reverse((file.day, file.number)));
        let mut full = false;
        for file in closed {
            total = total.saturating_add(file.bytes);
            full = full || total > self.limits.total_bytes;
            if full || file.day < oldest {
                let _ = fs::remove_file(file.path);
            }
        }
    }
}

impl Write for RotatingFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(text);
        if self.buffer.len() >= BUFFER {
            self.write_out();
        }
        Ok(text.len())
    }

    /// Called by the writer thread whenever its queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

impl Live {
    fn open(path: &Path, today: NaiveDate) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let meta = file.metadata()?;
        let bytes = meta.len();
        // What is in it from before was last written on this day.
        let written = meta.modified().map_or(today, |time| DateTime::<Local>::from(time).date_naive());
        Ok(Self { file, day: if bytes == 0 { today } else { written.min(today) }, bytes })
    }
}

struct Closed {
    path: PathBuf,
    day: NaiveDate,
    number: u32,
    bytes: u64,
}

/// The closed files beside the live one. What has another name is somebody else's and stays.
fn closed_files(live: &Path) -> Vec<Closed> {
    let (Some(dir), Some(name)) = (live.parent(), live.file_name().and_then(|name| name.to_str())) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let file_name = entry.file_name();
            let (day, number) = parse_suffix(file_name.to_str()?.strip_prefix(name)?.strip_prefix('.')?)?;
            Some(Closed { path: entry.path(), day, number, bytes: entry.metadata().ok()?.len() })
        })
        .collect()
}

/// `2026-11-20` or `2026-11-20.3`.
fn parse_suffix(suffix: &str) -> Option<(NaiveDate, u32)> {
    let (day, number) = match suffix.split_once('.') {
        Some((day, number)) => (day, number.parse().ok()?),
        None => (suffix, 0),
    };
    Some((NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?, number))
}

/// The next name for a file of this day: counted on after the highest, so that names sort by age.
fn free_name(live: &Path, day: NaiveDate) -> PathBuf {
    let last = closed_files(live).into_iter().filter(|file| file.day == day).map(|file| file.number).max();
    let mut name = live.as_os_str().to_owned();
    name.push(format!(".{}", day.format("%Y-%m-%d")));
    if let Some(last) = last {
        name.push(format!(".{}", last.saturating_add(1)));
    }
    PathBuf::from(name)
}
