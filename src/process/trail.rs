//! A file of lines that is only ever appended to: the audit trail `log/audit.log`.
//!
//! Contract: nothing here cuts, rotates or removes the file. A file that somebody renamed or removed (logrotate, with or without SIGHUP) is noticed before
//! the next lines, which go into a new one. Writing never holds up the caller: a thread of its own does it. Where the disk is full or too slow, lines wait, as
//! many as there is room for; those that are lost then are told in the log, and in the trail itself once it can be written again. Dropping the handle
//! writes what waits.
//!
//! What is written survives the end of the process at once, and a power cut a second later: so often it is brought to the disk, many lines at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{Local, SecondsFormat};
use tokio::sync::oneshot;

/// For the user that the service runs as alone: it tells who did what to whose guest.
const MODE: u32 = 0o600;

/// Lines that wait for the thread, and as many again for the disk.
const QUEUE: usize = 4096;

/// Between two attempts while the disk takes nothing.
const RETRY: Duration = Duration::from_secs(2);

/// From a line until it is brought to the disk, with those that came meanwhile.
const SYNC: Duration = Duration::from_secs(1);

/// A line, and who waits until it is written.
struct Line {
    text: String,
    written: oneshot::Sender<()>,
}

/// Takes lines.
#[derive(Debug)]
pub struct Trail {
    queue: Option<SyncSender<Line>>,
    lost: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

impl Trail {
    /// Opens the file, or makes it. One that can't be opened now is tried again with each line.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        let mut writer = Writer {
            path: path.to_owned(),
            file: None,
            waiting: Vec::new(),
            lost: lost.clone(),
            is_torn: false,
            complaint: None,
            unsynced: None,
        };
        writer.write_out();
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&lines))?;
        Ok(Self { queue: Some(queue), lost, writer: Some(writer) })
    }

    /// Has a line written, which ends without a newline; returns at once. What it gives tells when the line survives the end of the process, and ends without a
    /// word when it never will.
    pub fn write(&self, text: String) -> oneshot::Receiver<()> {
        let (written, told) = oneshot::channel();
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(Line { text, written }).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        told
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        // The thread ends with the queue.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// Lines that the disk did not take yet.
    waiting: Vec<Line>,
    /// Lines that never will be written, and are not told in the file yet.
    lost: Arc<AtomicU64>,
    /// The file ends somewhere inside a line.
    is_torn: bool,
    complaint: Option<String>,
    /// When the first line was written that may not be on the disk yet.
    unsynced: Option<Instant>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Line>) {
        loop {
            let pause = self.unsynced.map_or(RETRY, |since| SYNC.saturating_sub(since.elapsed()));
            match lines.recv_timeout(pause) {
                Ok(line) => self.take(std::iter::once(line).chain(lines.try_iter())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !self.waiting.is_empty() {
                self.write_out();
            }
            if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC) {
                self.sync();
            }
        }
        self.write_out();
        self.sync();
        if !self.waiting.is_empty() {
            tracing::error!("{} lines of {} could not be written", self.waiting.len(), self.path.display());
        }
    }

    /// Brings to the disk what was written.
    fn sync(&mut self) {
        if let (Some(_), Some(Err(error))) = (self.unsynced.take(), self.file.as_ref().map(File::sync_data)) {
            tracing::error!("the audit trail {} can't be brought to the disk: {error}", self.path.display());
        }
    }

    fn take(&mut self, lines: impl Iterator<Item = Line>) {
        for line in lines {
            if self.waiting.len() < QUEUE {
                self.waiting.push(line);
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes what waits; complains once while that does not work.
    fn write_out(&mut self) {
        match self.try_write() {
            Ok(()) => {
                if self.complaint.take().is_some() {
                    tracing::info!("{} is written again", self.path.display());
                }
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!("the audit trail {} can't be written: {complaint}; the service goes on", self.path.display());
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        self.follow_path()?;
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let time = Local::now().to_rfc3339_opts(SecondsFormat::Millis, false);
            append(file, &mut self.is_torn, &format!("{{\"time\":\"{time}\",\"lost\":{lost}}}"))?;
            self.lost.fetch_sub(lost, Ordering::Relaxed);
            tracing::error!("{lost} lines of {} are lost: the disk was full or too slow", self.path.display());
        }
        let mut written = 0;
        let result = self.waiting.iter().try_for_each(|line| {
            append(file, &mut self.is_torn, &line.text)?;
            written += 1;
            Ok(())
        });
        if written > 0 {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        for line in self.waiting.drain(..written) {
            // Nobody may wait any more.
            let _ = line.written.send(());
        }
        result
    }

    /// Opens the file anew when it is no longer the one at the path.
    fn follow_path(&mut self) -> io::Result<()> {
        let same = match (&self.file, self.path.metadata()) {
            (Some(file), Ok(named)) => {
                let open = file.metadata()?;
                (open.dev(), open.ino()) == (named.dev(), named.ino())
            }
            _ => false,
        };
        if !same {
            self.sync();
            self.file = None;
            let file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(&self.path)?;
            self.is_torn = ends_inside_a_line(&file)?;
            self.file = Some(file);
        }
        Ok(())
    }
}

/// What a full disk or a power cut leaves of an earlier run's last line.
fn ends_inside_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

/// A line that could not be written to its end is written again as a whole on a line of its own.
fn append(file: &mut File, is_torn: &mut bool, line: &str) -> io::Result<()> {
    let begin = if *is_torn { "\n" } else { "" };
    *is_torn = true;
    file.write_all(format!("{begin}{line}\n").as_bytes())?;
    *is_torn = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_are_appended_to_what_is_there_and_all_are_written_at_the_end() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("audit.log");
        for run in 0..2 {
            let trail = Trail::open(&path).unwrap();
            (0..1000).for_each(|number| drop(trail.write(format!("{run} {number}"))));
            drop(trail);
        }
        let wanted: Vec<String> = (0..2).flat_map(|run| (0..1000).map(move |number| format!("{run} {number}"))).collect();
        assert_eq!(lines(&path), wanted);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_an_earlier_run_left_torn_does_not_spoil_the_next_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("audit.log");
        for (before, expected) in [("whole\n{\"ti", vec!["whole", "{\"ti", "next"]), ("whole\n", vec!["whole", "next"]), ("", vec!["next"])]
        {
            std::fs::write(&path, before).unwrap();
            let trail = Trail::open(&path).unwrap();
            drop(trail.write("next".into()));
            drop(trail);
            assert_eq!(lines(&path), expected);
        }
    }

    #[test]
    fn whoever_waits_is_told_when_the_line_is_in_the_file_and_never_while_the_disk_is_full() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("audit.log");
        let trail = Trail::open(&path).unwrap();
        for number in 0..3 {
            trail.write(number.to_string()).blocking_recv().unwrap();
            assert_eq!(lines(&path).len(), number + 1);
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut told = trail.write("full".into());
        wait_until("the line waits", || trail.write("next".into()).try_recv().is_err());
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        std::fs::remove_file(&path).unwrap();
        told.blocking_recv().unwrap();
        assert!(lines(&path).contains(&"full".to_owned()));
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_alone_and_a_new_one_begun() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, moved) = (scratch.path().join("audit.log"), scratch.path().join("audit.log.1"));
        let trail = Trail::open(&path).unwrap();
        drop(trail.write("before".into()));
        wait_until("the first line is written", || lines(&path) == ["before"]);
        std::fs::rename(&path, &moved).unwrap();
        drop(trail.write("after".into()));
        drop(trail);
        assert_eq!((lines(&moved), lines(&path)), (vec!["before".to_owned()], vec!["after".to_owned()]));
    }

    /// `/dev/full` takes nothing, as a full disk does.
    #[test]
    fn a_full_disk_keeps_lines_waiting_and_what_is_lost_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("audit.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let trail = Trail::open(&path).unwrap();
        let lost = trail.lost.clone();
        let mut count = 0;
        wait_until("lines are lost", || {
            lost.load(Ordering::Relaxed) > 0 || {
                drop(trail.write("line".into()));
                false
            }
        });
        count += lost.load(Ordering::Relaxed);
        std::fs::remove_file(&path).unwrap();
        drop(trail);
        let written = lines(&path);
        let told: serde_json::Value = serde_json::from_str(&written[0]).unwrap();
        assert!(told["lost"].as_u64().unwrap() >= count && written[1..].iter().all(|line| line == "line"), "{told}");
        assert!(written.len() > QUEUE, "what waited is written: {}", written.len());
    }
}
