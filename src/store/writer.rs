//! Coalesced, durable writing: many callers, one task, one write at a time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::disk::{Disk, RealDisk};
use super::files::{Files, Former};
use super::journal::{self, Journal, JournalWriter};
use super::load::{load, KeptParts};
use super::look::Onlooker;
use super::{batch, identity, loss, marker, DataFile, Identity, Loaded, Notice, RunMarker, Source, StoreError};

/// The handle of whoever changes a book. Clones share the writer.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::UnboundedSender<Request>,
    files: Files,
    journal: Journal,
}

/// What [`Store::open`] gives.
pub struct Opened {
    /// To ask for writes.
    pub store: Store,
    /// To be run by the supervisor.
    pub writer: Writer,
    /// The books.
    pub loaded: Loaded,
}

struct Request {
    files: BTreeSet<DataFile>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Store {
    /// Makes the directory if need be, removes leftovers of an interrupted write and reads the books. Blocks on the disk.
    /// `default_bridge` is the bridge of new guests when `network.data` names none.
    ///
    /// # Errors
    /// The directory can't be read or written. What is wrong with the content of a file is a notice, not an error.
    pub fn open(directory: &Path, default_bridge: &str) -> Result<Opened, StoreError> {
        let time = chrono::Local::now().format("%Y%m%d-%H%M%S").to_string();
        Self::open_on(Arc::new(RealDisk), directory, default_bridge, &time)
    }

    /// What [`Store::open`] would give, notices included, without touching the directory. The service may run meanwhile. Blocks on the disk.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn look(directory: &Path, default_bridge: &str) -> Result<Loaded, StoreError> {
        let files = Files::new(Arc::new(Onlooker), directory);
        let (mut loaded, _) = load(&files, default_bridge, "a-start")?;
        let (_, _, notices) = Journal::open(&files, "a-start")?;
        loaded.lost |= notices.iter().any(Notice::is_loss);
        loaded.notices.extend(notices);
        Ok(loaded)
    }

    pub(super) fn open_on(disk: Arc<dyn Disk>, directory: &Path, default_bridge: &str, time: &str) -> Result<Opened, StoreError> {
        let files = Files::new(disk, directory);
        let names: Vec<&str> =
            DataFile::ALL.map(DataFile::name).into_iter().chain([identity::NAME, marker::NAME, loss::NAME, journal::NAME]).collect();
        files.prepare(&names)?;
        let (mut loaded, kept) = load(&files, default_bridge, time)?;
        let (journal, journal_writer, notices) = Journal::open(&files, time)?;
        loaded.lost |= notices.iter().any(Notice::is_loss);
        loaded.notices.extend(notices);
        let (queue, requests) = mpsc::unbounded_channel();
        let shelf = Arc::new(Shelf { files: files.clone(), kept });
        let books = BooksWriter { requests, shelf, unwritten: BTreeSet::new() };
        Ok(Opened { store: Self { queue, files, journal }, writer: Writer { books, journal: journal_writer }, loaded })
    }

    /// Returns when the state that the books have at the time of the call is durable in these files.
    ///
    /// # Errors
    /// The write failed: the former files stay, and these files are tried again with the next write. Or the writer has ended.
    pub async fn flush(&self, files: &[DataFile]) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        let (done, result) = oneshot::channel();
        let request = Request { files: files.iter().copied().collect(), done };
        self.queue.send(request).map_err(|_| StoreError::Closed)?;
        result.await.unwrap_or(Err(StoreError::Closed))
    }

    /// True once the writer has taken this question, behind all that was asked of it before: it gets on.
    pub async fn probe(&self) -> bool {
        let (done, result) = oneshot::channel();
        self.queue.send(Request { files: BTreeSet::new(), done }).is_ok() && result.await.is_ok()
    }

    /// Has the state that the books have by then written soon; a write that fails is tried again with the next one. For what is found out while
    /// nobody waits for it.
    pub fn flush_later(&self, files: &[DataFile]) {
        let (done, _) = oneshot::channel();
        // A writer that has ended is missed by whoever waits for it.
        let _ = self.queue.send(Request { files: files.iter().copied().collect(), done });
    }

    /// What running transactions are about to do.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The name of this node: fixed at the first call, from the bridge's MAC. Blocks on the disk.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn identity(&self, mac: [u8; 6]) -> Result<Identity, StoreError> {
        Identity::load(&self.files, mac)
    }

    /// What was lost is in the books again, and they are written: later starts need not look for it.
    ///
    /// # Errors
    /// The mark can't be removed: the next start looks once more.
    pub async fn made_good(&self) -> Result<(), StoreError> {
        let files = self.files.clone();
        batch::blocking(move || loss::clear(&files)).await?
    }

    /// Notes that the service runs and tells whether the run before ended without saying so. Blocks on the disk.
    ///
    /// # Errors
    /// The mark can't be written.
    pub fn mark_running(&self) -> Result<RunMarker, StoreError> {
        RunMarker::set(&self.files)
    }
}

/// The one who writes.
pub struct Writer {
    books: BooksWriter,
    journal: JournalWriter,
}

impl Writer {
    /// Serves [`Store::flush`] and the [`Journal`] until `stop`, then what is queued already, then tries once more what could not be written.
    ///
    /// # Errors
    /// At the end something is still unwritten, or `source` panicked.
    pub async fn run(self, source: Arc<dyn Source>, stop: CancellationToken) -> Result<(), StoreError> {
        // The books that can't be written at the end must not keep the journal from being written.
        let (books, journal) = (self.books.run(source, stop.clone()), self.journal.run(stop.clone()));
        tokio::pin!(books, journal);
        let (books, journal) = tokio::select! {
            books = &mut books => (books, if stop.is_cancelled() { journal.await } else { Ok(()) }),
            journal = &mut journal => (if stop.is_cancelled() { books.await } else { Ok(()) }, journal),
        };
        books.and(journal)
    }
}

/// The one who writes the books.
struct BooksWriter {
    requests: mpsc::UnboundedReceiver<Request>,
    shelf: Arc<Shelf>,
    /// Files whose last write failed.
    unwritten: BTreeSet<DataFile>,
}

impl BooksWriter {
    async fn run(mut self, source: Arc<dyn Source>, stop: CancellationToken) -> Result<(), StoreError> {
        while let Some(batch) = batch::next(&mut self.requests, &stop).await {
            self.serve(batch, &source).await?;
        }
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let files = std::mem::take(&mut self.unwritten);
        self.write(files, &source).await?
    }

    /// One write for all of the batch.
    async fn serve(&mut self, batch: Vec<Request>, source: &Arc<dyn Source>) -> Result<(), StoreError> {
        let mut files = std::mem::take(&mut self.unwritten);
        files.extend(batch.iter().flat_map(|request| &request.files));
        // Nothing but questions: the disk is left alone.
        let result = if files.is_empty() { Ok(()) } else { self.write(files.clone(), source).await? };
        if result.is_err() {
            self.unwritten = files;
        }
        for request in batch {
            // A caller that has given up needs no answer.
            let _ = request.done.send(result.clone());
        }
        Ok(())
    }

    /// The outer error says that the writer can't go on.
    async fn write(&self, files: BTreeSet<DataFile>, source: &Arc<dyn Source>) -> Result<Result<(), StoreError>, StoreError> {
        let (shelf, source) = (Arc::clone(&self.shelf), Arc::clone(source));
        batch::blocking(move || shelf.write(&files, &*source)).await
    }
}

/// The files and what of them could not be read.
struct Shelf {
    files: Files,
    kept: KeptParts,
}

impl Shelf {
    fn write(&self, files: &BTreeSet<DataFile>, source: &dyn Source) -> Result<(), StoreError> {
        let contents = files
            .iter()
            .map(|&file| Ok((file.name(), self.kept.of(file).put_back(file, source.serialize(file)?)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let contents: Vec<(&str, &[u8])> = contents.iter().map(|(name, content)| (*name, content.as_slice())).collect();
        self.files.replace(&contents, Former::Keep)
    }
}
