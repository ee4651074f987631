//! The one who writes the journal: many callers, one write and one fsync at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{line, Request, Shared, NAME};
use crate::store::batch::{self, blocking};
use crate::store::files::{Files, Former};
use crate::store::StoreError;

/// From this size on, bytes, a file that is mostly of ended records is written anew.
const LARGE: usize = 512 << 10;

/// After this time without a record, the ends that nobody waits for are brought to the disk.
const IDLE: Duration = Duration::from_secs(1);

/// See [`super::Journal`].
pub(in crate::store) struct JournalWriter {
    requests: mpsc::UnboundedReceiver<Request>,
    files: Files,
    shared: Arc<Shared>,
    /// Bytes of the file.
    length: usize,
    /// A write failed: nobody knows what of the file is on the disk.
    broken: bool,
    /// Something was written that may not be on the disk yet.
    unsynced: bool,
}

impl JournalWriter {
    pub(super) fn new(requests: mpsc::UnboundedReceiver<Request>, files: Files, shared: Arc<Shared>, length: usize) -> Self {
        Self { requests, files, shared, length, broken: false, unsynced: false }
    }

    /// Writes until `stop`, then what is queued already.
    pub(in crate::store) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        while let Some(batch) = self.next(&stop).await {
            self.serve(batch).await?;
        }
        if self.broken {
            // What the next start must not find may be in it.
            let content = line::write_all(&self.shared.open.lock())?;
            self.replace(content).await??;
        }
        Ok(())
    }

    /// What is to be written; nothing when it is time to bring to the disk what was written before; `None` at the end.
    async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<Request>> {
        let batch = batch::next(&mut self.requests, stop);
        if self.unsynced {
            timeout(IDLE, batch).await.unwrap_or_else(|_| Some(Vec::new()))
        } else {
            batch.await
        }
    }

    /// One write for all of the batch; an empty one brings to the disk what was written before.
    async fn serve(&mut self, batch: Vec<Request>) -> Result<(), StoreError> {
        let sync = batch.is_empty() || batch.iter().any(|request| request.done.is_some());
        let lines: Result<Vec<Vec<u8>>, StoreError> = batch.iter().map(|request| line::write(request.number, &request.entry)).collect();
        let result = match lines {
            Ok(lines) => self.write(lines.concat(), sync).await?,
            Err(error) => Err(error),
        };
        self.enter(batch, &result);
        if self.length >= LARGE && !self.broken {
            self.compact().await?;
        }
        Ok(())
    }

    /// Enters what was written, and tells all who wait what became of it.
    fn enter(&self, batch: Vec<Request>, result: &Result<(), StoreError>) {
        let mut open = self.shared.open.lock();
        for Request { number, entry, done } in batch {
            match (result, done) {
                (Ok(()), done) => {
                    line::apply(&mut open, number, entry, true);
                    // A caller that was dropped has left its record: nobody else knows of it.
                    if done.is_some_and(|done| done.send(Ok(())).is_err()) {
                        if let Some(record) = open.get_mut(&number) {
                            record.running = false;
                        }
                    }
                }
                (Err(error), Some(done)) => drop(done.send(Err(error.clone()))),
                (Err(_), None) => {}
            }
        }
    }

    /// One that fails leaves nothing in the file: it is told as not begun, and the next start must not find it. The outer error says that the writer can't
    /// go on.
    async fn write(&mut self, lines: Vec<u8>, sync: bool) -> Result<Result<(), StoreError>, StoreError> {
        if !self.broken {
            match self.append(lines.clone(), sync).await? {
                Ok(()) => return Ok(Ok(())),
                Err(error) => tracing::warn!("{}; the journal is written anew", chain(&error)),
            }
        }
        // Without the new lines, so that it says the same whether this works or breaks off.
        let content = match line::write_all(&self.shared.open.lock()) {
            Ok(content) => content,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.replace(content).await? {
            return Ok(Err(error));
        }
        self.append(lines, sync).await
    }

    async fn append(&mut self, lines: Vec<u8>, sync: bool) -> Result<Result<(), StoreError>, StoreError> {
        let (files, length) = (self.files.clone(), self.length + lines.len());
        let written = blocking(move || files.append(NAME, &lines, sync)).await?;
        match &written {
            Ok(()) => (self.length, self.unsynced) = (length, !sync),
            Err(_) => self.broken = true,
        }
        Ok(written)
    }

    async fn replace(&mut self, content: Vec<u8>) -> Result<Result<(), StoreError>, StoreError> {
        let (files, length) = (self.files.clone(), content.len());
        let written = blocking(move || files.replace(&[(NAME, &content)], Former::Drop)).await?;
        if written.is_ok() {
            (self.length, self.broken, self.unsynced) = (length, false, false);
        }
        Ok(written)
    }

    /// Writes a long file anew where most of it is of ended records. One that is only too long is good all the same.
    async fn compact(&mut self) -> Result<(), StoreError> {
        let content = line::write_all(&self.shared.open.lock());
        match content {
            Ok(content) if content.len() < self.length / 2 => self.replace(content).await.map(drop),
            _ => Ok(()),
        }
    }
}

fn chain(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}
