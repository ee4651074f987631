//! Sending a disk to an image server (contract §9.2): one multipart request, the checksum part first.
//!
//! Contract: the length of the request is announced and kept. Whatever keeps the body from its end (a read error, a disk that changed since it was
//! hashed) breaks the connection, so that the server never takes a part for the whole (§14 B21).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::Request;
use sha1::{Digest, Sha1};
use tokio::sync::mpsc;
use tokio::time::{timeout, Instant};

use super::answer::{self, Answer};
use super::connection::{authority, path, Connection, Kind, PIECE};
use super::download::AGENT;
use super::trouble::{on_file, Trouble};
use super::writer::hex;
use super::Shared;
use crate::host::{ErrorKind, HostError, ImageLocation, Result, Transfer};

/// Pieces read ahead of the network.
const AHEAD: usize = 3;

/// The server hashes the whole file before it answers; it does at least so many bytes a second.
const SLOWEST_HASH: u64 = 20 << 20;

/// Sends the disk; gives its size. `what` says what is being done, for messages.
pub(super) async fn send(shared: &Shared, disk: &Path, image: &ImageLocation, transfer: &Transfer) -> Result<u64> {
    let source = Source { path: disk.to_owned(), transfer: transfer.clone() };
    let (source, file, size, checksum) = blocking(move || {
        let (file, size, checksum) = source.hash()?;
        Ok((source, file, size, checksum))
    })
    .await?;
    let (pieces, body) = mpsc::channel(AHEAD);
    let text = Multipart::new(&checksum, &image.id);
    let length = size.saturating_add(text.length());
    let expected = checksum.clone();
    let reader = blocking(move || source.read(&file, size, &expected, &text, &pieces));
    let answered = ask(shared, image, body, length, size, transfer);
    // The reader ends first, whether or not the connection took all of it: its own failure is the reason then.
    let (read, answered) = tokio::join!(reader, answered);
    read?;
    answered.map_err(Trouble::into_error)?;
    Ok(size)
}

/// Sends the request with this body and judges the answer.
async fn ask(
    shared: &Shared,
    image: &ImageLocation,
    body: mpsc::Receiver<Piece>,
    length: u64,
    size: u64,
    transfer: &Transfer,
) -> std::result::Result<(), Trouble> {
    let body = StreamBody::new(stream::unfold(body, |mut body| async move { body.recv().await.map(|piece| (piece, body)) }));
    let body = Box::pin(body);
    let request = Request::put(path(Kind::Disk, image)?)
        .header(HOST, authority(image))
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"))
        .header(CONTENT_LENGTH, length)
        .body(body)
        .map_err(|_| Trouble::last(ErrorKind::Invalid, format!("'{}' is no image server", image.host.escape_debug())))?;
    let mut connection = Connection::open(&shared.tls, image).await?;
    let server = connection.server().to_owned();
    let response = {
        let asking = connection.ask(request);
        tokio::pin!(asking);
        let mut last = (transfer.done(), Instant::now());
        loop {
            match timeout(Duration::from_secs(1).min(shared.stall), &mut asking).await {
                Ok(response) => break response?,
                Err(_) => {
                    let done = transfer.done();
                    if done != last.0 {
                        last = (done, Instant::now());
                    }
                    // Everything is sent: the server hashes it now.
                    let patience =
                        if transfer.percent() == 100 { shared.stall + Duration::from_secs(size / SLOWEST_HASH) } else { shared.stall };
                    if last.1.elapsed() > patience {
                        let text = format!("the image server {server} took nothing for {} s", patience.as_secs_f64());
                        return Err(Trouble::last(ErrorKind::Failed, text));
                    }
                }
            }
        }
    };
    let status = response.status();
    match timeout(shared.stall, answer::reason(response)).await {
        Ok(Ok(Answer::Done)) if status.is_success() => Ok(()),
        Ok(Ok(Answer::Refused(message))) => Err(Trouble::last(ErrorKind::Invalid, format!("the image server {server} refuses: {message}"))),
        Ok(Ok(Answer::Done)) => {
            Err(Trouble::last(ErrorKind::Invalid, format!("the image server {server} answered HTTP {}", status.as_u16())))
        }
        Ok(Ok(Answer::Foreign(text))) => {
            Err(Trouble::last(ErrorKind::Invalid, format!("the image server {server} answered HTTP {}: {text}", status.as_u16())))
        }
        Ok(Err(trouble)) => Err(trouble),
        Err(elapsed) => Err(Trouble::broken(format!("the image server {server} did not end its answer"), elapsed)),
    }
}

type Piece = std::io::Result<Frame<Bytes>>;

/// Separates the parts; long and unlikely enough not to be looked for in the image by a server that trusts the announced length.
const BOUNDARY: &str = "nano-cell-5b1f0a4e8c7d4e63a2c9f1d08b6e37af-disk-image";

/// The text around the image.
struct Multipart {
    before: String,
    after: String,
}

impl Multipart {
    fn new(checksum: &str, id: &str) -> Self {
        let before = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"checksum\"\r\n\r\n{checksum}\r\n\
             --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{id}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        Self { before, after: format!("\r\n--{BOUNDARY}--\r\n") }
    }

    fn length(&self) -> u64 {
        u64::try_from(self.before.len() + self.after.len()).unwrap_or(u64::MAX)
    }
}

/// The disk's side.
struct Source {
    path: PathBuf,
    transfer: Transfer,
}

impl Source {
    /// Hashes the whole file. Hashing and sending count as one half of the work each.
    fn hash(&self) -> Result<(File, u64, String)> {
        let file = File::open(&self.path).map_err(|error| self.failed(error))?;
        let size = file.metadata().map_err(|error| self.failed(error))?.len();
        if size == 0 {
            return Err(HostError::new(ErrorKind::Invalid, format!("{} is empty", self.path.display())));
        }
        self.transfer.begin(size.saturating_mul(2));
        let mut hash = Sha1::new();
        self.pieces(&file, size, |piece| {
            hash.update(&piece);
            !self.transfer.stop().is_cancelled()
        })?;
        Ok((file, size, hex(&hash.finalize())))
    }

    /// Reads the file into the request, and breaks it off rather than end it wrong.
    fn read(&self, file: &File, size: u64, checksum: &str, text: &Multipart, pieces: &mpsc::Sender<Piece>) -> Result<()> {
        let send = |bytes: Bytes| pieces.blocking_send(Ok(Frame::data(bytes))).is_ok();
        let mut hash = Sha1::new();
        send(Bytes::from(text.before.clone()));
        let read = self.pieces(file, size, |piece| {
            hash.update(&piece);
            // Nobody takes it any more when the connection broke or the server has answered; that is told there.
            send(piece)
        });
        let read = read.and_then(|complete| match complete && hex(&hash.finalize()) != checksum {
            true => Err(HostError::new(ErrorKind::Busy, format!("{} changed while it was sent", self.path.display()))),
            false => Ok(()),
        });
        match &read {
            Ok(()) => drop(send(Bytes::from(text.after.clone()))),
            Err(error) => drop(pieces.blocking_send(Err(std::io::Error::other(error.to_string())))),
        }
        read
    }

    /// Reads piece by piece; false when the taker wants no more.
    fn pieces(&self, file: &File, size: u64, mut take: impl FnMut(Bytes) -> bool) -> Result<bool> {
        let mut offset = 0;
        while offset < size {
            let length = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, offset).map_err(|error| self.failed(error))?;
            if !take(Bytes::from(piece)) {
                return Ok(false);
            }
            let length = u64::try_from(length).unwrap_or_default();
            offset += length;
            self.transfer.advance(length);
        }
        Ok(true)
    }

    fn failed(&self, error: std::io::Error) -> HostError {
        on_file(format!("{} can't be read", self.path.display()), error)
    }
}

/// Work that blocks, on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(HostError::with_source(ErrorKind::Failed, "a thread of an image transfer ended by itself", error)))
}
