//! Getting an image's bytes: one request, and more of them for the rest when the connection breaks.
//!
//! Contract: an image is complete when all announced bytes came and, for a disk, their SHA-1 is the `Signature` of the first answer. A connection that breaks, or
//! over which nothing comes for the stall time (§14 C20), is replaced by one that asks for the rest; a server that can't send parts sends
//! everything again. Attempts that get no further end in failure.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{HOST, IF_RANGE, RANGE, USER_AGENT};
use hyper::Request;
use tokio::time::{sleep, timeout};

use super::answer::{self, Head, Verdict};
use super::connection::{authority, path, Connection, Kind};
use super::trouble::Trouble;
use super::writer::Writer;
use super::Shared;
use crate::host::{ErrorKind, HostError, ImageLocation};

/// What we call ourselves.
pub(super) const AGENT: &str = concat!("nano-cell/", env!("CARGO_PKG_VERSION"));

/// Attempts in a row that bring nothing new.
const FRUITLESS: u32 = 3;

/// Pause before an attempt, times the fruitless ones before it.
const PAUSE: Duration = Duration::from_millis(300);

/// An image that begins to come.
pub(super) struct Opened {
    pub(super) head: Head,
    body: Incoming,
    _connection: Connection<Empty<Bytes>>,
}

/// Asks for an image, from the beginning or what is missing of it.
pub(super) async fn open(shared: &Shared, kind: Kind, image: &ImageLocation, missing: Option<(u64, &Head)>) -> Result<Opened, Trouble> {
    let mut request = Request::get(path(kind, image)?).header(HOST, authority(image)).header(USER_AGENT, AGENT);
    let mut offset = 0;
    if let Some((begin, head)) = missing {
        offset = begin;
        request = request.header(RANGE, format!("bytes={begin}-"));
        if let Some(validator) = &head.validator {
            request = request.header(IF_RANGE, validator);
        }
    }
    let request = request.body(Empty::new());
    let request = request.map_err(|_| Trouble::last(ErrorKind::Invalid, format!("'{}' is no image server", image.host.escape_debug())))?;
    let mut connection = Connection::open(&shared.tls, image).await?;
    let server = connection.server().to_owned();
    let response = timeout(shared.stall, connection.ask(request)).await.unwrap_or_else(|_| Err(silent(&server, shared.stall)))?;
    match answer::judge(kind, response.status(), response.headers(), image.size, offset) {
        Verdict::Image(head) => Ok(Opened { head, body: response.into_body(), _connection: connection }),
        Verdict::Wrong(reason) => {
            Err(Trouble::last(ErrorKind::Invalid, format!("the image server {server} sent something else: {reason}")))
        }
        Verdict::NoImage(head) => {
            let refusal = timeout(shared.stall, answer::no_image(&server, head, response)).await;
            Err(refusal.unwrap_or_else(|_| silent(&server, shared.stall)))
        }
    }
}

/// Asks for an image from its beginning; more than once when the server does not answer.
pub(super) async fn open_patiently(shared: &Shared, kind: Kind, image: &ImageLocation) -> Result<Opened, Trouble> {
    let mut fruitless = 0;
    loop {
        match open(shared, kind, image, None).await {
            Err(Trouble::Broken(error)) => {
                fruitless += 1;
                if fruitless >= FRUITLESS {
                    return Err(Trouble::Broken(error));
                }
                sleep(PAUSE * fruitless).await;
            }
            ended => return ended,
        }
    }
}

fn silent(server: &str, stall: Duration) -> Trouble {
    let text = format!("nothing came from the image server {server} for {} s", stall.as_secs_f64());
    Trouble::Broken(HostError::new(ErrorKind::Failed, text))
}

/// Brings the whole image to the writer, over as many connections as it takes.
pub(super) async fn pull(shared: &Shared, kind: Kind, image: &ImageLocation, first: Opened, writer: Writer) -> crate::host::Result<()> {
    let first_head = first.head.clone();
    let mut pull = Pull { shared, image, writer: &writer, offset: 0 };
    let (mut furthest, mut fruitless) = (0, 0);
    let mut attempt = Ok(first);
    loop {
        let ended = match attempt {
            Ok(opened) => pull.drain(opened, &first_head).await,
            Err(trouble) => Err(trouble),
        };
        match ended {
            Ok(Drained::Complete) => break,
            Ok(Drained::WriterFailed) => return writer.finish().await.map(drop),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Broken(error)) => {
                fruitless = if pull.offset > furthest { 0 } else { fruitless + 1 };
                furthest = furthest.max(pull.offset);
                if fruitless >= FRUITLESS {
                    return Err(error);
                }
                tracing::warn!("image {}: {} of {} bytes came, asking for the rest: {error}", image.id, pull.offset, image.size);
            }
        }
        sleep(PAUSE * (fruitless + 1)).await;
        let missing = (pull.offset > 0).then_some((pull.offset, &first_head));
        attempt = open(shared, kind, image, missing).await;
    }
    let hash = writer.finish().await?;
    if kind == Kind::Disk && hash != first_head.signature {
        let signature = &first_head.signature;
        let text = format!("image {} is damaged: its SHA-1 is {hash}, but its signature says {signature}", image.id);
        return Err(HostError::new(ErrorKind::Invalid, text));
    }
    Ok(())
}

struct Pull<'a> {
    shared: &'a Shared,
    image: &'a ImageLocation,
    writer: &'a Writer,
    /// Bytes that the writer was given.
    offset: u64,
}

enum Drained {
    Complete,
    WriterFailed,
}

impl Pull<'_> {
    /// Takes what comes over one connection.
    async fn drain(&mut self, mut opened: Opened, first: &Head) -> Result<Drained, Trouble> {
        let (id, size) = (&self.image.id, self.image.size);
        if opened.head.signature != first.signature {
            return Err(Trouble::last(ErrorKind::Failed, format!("image {id} was replaced on its server while it was fetched")));
        }
        if opened.head.offset != self.offset {
            self.offset = 0;
            if !self.writer.restart().await {
                return Ok(Drained::WriterFailed);
            }
        }
        while self.offset < size {
            let frame = timeout(self.shared.stall, opened.body.frame()).await;
            let frame = frame.map_err(|_| silent(&format!("{}:{}", self.image.host, self.image.port), self.shared.stall))?;
            let Some(frame) = frame else {
                let text = format!("image {id} ended after {} of {size} bytes", self.offset);
                return Err(Trouble::Broken(HostError::new(ErrorKind::Failed, text)));
            };
            let frame =
                frame.map_err(|error| Trouble::broken(format!("image {id} broke off after {} of {size} bytes", self.offset), error))?;
            let Ok(piece) = frame.into_data() else { continue };
            self.offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if self.offset > size {
                return Err(Trouble::last(ErrorKind::Invalid, format!("image {id} is larger than the announced {size} bytes")));
            }
            if !self.writer.write(piece).await {
                return Ok(Drained::WriterFailed);
            }
        }
        Ok(Drained::Complete)
    }
}
