//! The disk's end of a download: takes pieces in their order, hashes them, writes them.
//!
//! Contract: runs on a thread of its own, for hashing and writing block; takes a few pieces ahead, so that the network goes on meanwhile and no more
//! memory is held. What is zero is not written: the file has holes where the image has.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::sparse::{write_behind, WRITE_BEHIND};
use super::trouble::on_file;
use crate::host::{ErrorKind, HostError, Result, Transfer};

/// Pieces that may wait for the disk.
const AHEAD: usize = 3;

/// What is compared with zeroes at a time, bytes.
const BLOCK: usize = 64 << 10;
static ZEROES: [u8; BLOCK] = [0; BLOCK];

enum Order {
    Write(Bytes),
    Restart,
}

/// The sending side of a writer.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Result<String>>,
}

impl Writer {
    /// Begins to write into an empty file.
    pub(super) fn start(file: File, path: PathBuf, size: u64, transfer: Transfer) -> Self {
        let (orders, receiver) = mpsc::channel(AHEAD);
        let sink = Sink { file, path, size, transfer, hash: Sha1::new(), offset: 0, flushed: 0 };
        Self { orders, thread: tokio::task::spawn_blocking(move || sink.run(receiver)) }
    }

    /// Hands a piece over; waits while the disk is behind. False when the writer has failed: [`Writer::finish`] says why.
    pub(super) async fn write(&self, piece: Bytes) -> bool {
        self.orders.send(Order::Write(piece)).await.is_ok()
    }

    /// Forgets everything written: the image comes from its beginning again.
    pub(super) async fn restart(&self) -> bool {
        self.orders.send(Order::Restart).await.is_ok()
    }

    /// Waits until everything is written; gives the SHA-1 of it.
    pub(super) async fn finish(self) -> Result<String> {
        drop(self.orders);
        let ended = self.thread.await;
        ended.unwrap_or_else(|error| Err(HostError::with_source(ErrorKind::Failed, "the writer of an image ended by itself", error)))
    }
}

struct Sink {
    file: File,
    path: PathBuf,
    size: u64,
    transfer: Transfer,
    hash: Sha1,
    offset: u64,
    /// Up to here the kernel was asked to write.
    flushed: u64,
}

impl Sink {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<String> {
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Write(piece) => self.write(&piece)?,
                Order::Restart => self.restart()?,
            }
        }
        // What ends in zeroes has not reached its length yet.
        self.file.set_len(self.offset).map_err(|error| self.failed(error))?;
        Ok(hex(&self.hash.finalize()))
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.hash.update(piece);
        let mut rest = piece;
        while !rest.is_empty() {
            let (data, after) = rest.split_at(leading_data(rest));
            self.file.write_all_at(data, self.offset).map_err(|error| self.failed(error))?;
            let (zeroes, after) = after.split_at(leading_zeroes(after));
            self.offset += length(data) + length(zeroes);
            rest = after;
        }
        if self.offset >= self.flushed + WRITE_BEHIND {
            write_behind(&self.file, self.flushed, self.offset);
            self.flushed = self.offset;
        }
        self.transfer.advance(length(piece));
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| self.failed(error))?;
        self.hash = Sha1::new();
        (self.offset, self.flushed) = (0, 0);
        self.transfer.begin(self.size);
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> HostError {
        on_file(format!("{} can't be written", self.path.display()), error)
    }
}

fn is_zero(block: &[u8]) -> bool {
    ZEROES.get(..block.len()).is_some_and(|zeroes| zeroes == block)
}

/// How many bytes come before the first block of zeroes.
fn leading_data(bytes: &[u8]) -> usize {
    bytes.chunks(BLOCK).take_while(|block| !is_zero(block)).map(<[u8]>::len).sum()
}

/// How many bytes the blocks of zeroes at the beginning have.
fn leading_zeroes(bytes: &[u8]) -> usize {
    bytes.chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn writer(file: &File, size: u64) -> (Writer, Transfer) {
        let transfer = Transfer::default();
        transfer.begin(size);
        (Writer::start(file.try_clone().unwrap(), "part".into(), size, transfer.clone()), transfer)
    }

    #[tokio::test]
    async fn pieces_are_written_in_order_hashed_and_counted_and_zeroes_become_holes() {
        let file = tempfile::tempfile().unwrap();
        let mut content = vec![0; 3 << 20];
        content[5..9].copy_from_slice(b"head");
        content[(1 << 20) + 3..(1 << 20) + 100_000].fill(7);
        let (writer, transfer) = writer(&file, content.len() as u64);
        for piece in content.chunks(100_001) {
            assert!(writer.write(Bytes::copy_from_slice(piece)).await);
        }
        assert_eq!(writer.finish().await.unwrap(), hex(&Sha1::digest(&content)));
        assert_eq!(transfer.percent(), 100);
        let mut written = vec![1; content.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == content);
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64);
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[tokio::test]
    async fn a_restart_forgets_what_came_before() {
        let file = tempfile::tempfile().unwrap();
        let (writer, transfer) = writer(&file, 3);
        assert!(writer.write(Bytes::from_static(b"longer than the rest")).await);
        assert!(writer.restart().await);
        assert!(writer.write(Bytes::from_static(b"abc")).await);
        assert_eq!(writer.finish().await.unwrap(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!((file.metadata().unwrap().len(), transfer.percent()), (3, 100));
    }

    #[tokio::test]
    async fn a_file_that_takes_nothing_fails_the_writer() {
        let file = File::open("/dev/null").unwrap();
        let (writer, _) = writer(&file, 3);
        writer.write(Bytes::from_static(b"abc")).await;
        let error = writer.finish().await.unwrap_err();
        assert!(error.context.contains("part can't be written"), "{}", error.context);
    }
}
