//! One HTTPS connection to an image server, for one request.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::trouble::Trouble;
use crate::host::{ErrorKind, ImageLocation};

/// What a connection may take until TLS stands.
const CONNECT: Duration = Duration::from_secs(15);

/// Bytes taken from the socket at a time. TLS by itself reads a quarter of a record with each system call.
const SOCKET_BUFFER: usize = 64 << 10;

/// Bytes of the body in one piece. With a few pieces on their way to the disk this is most of what a transfer holds.
pub(super) const PIECE: usize = 64 << 10;

/// An open connection; dropping it closes it.
pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    server: String,
    _driver: AbortOnDropHandle<()>,
}

impl<B> Connection<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Connects to the image's server.
    pub(super) async fn open(tls: &Arc<ClientConfig>, image: &ImageLocation) -> Result<Self, Trouble> {
        let server = format!("{}:{}", image.host, image.port);
        let what = || format!("the image server {server} can't be reached");
        let name = ServerName::try_from(image.host.clone()).map_err(|_| {
            Trouble::last(ErrorKind::Invalid, format!("'{}' is neither an address nor a name of an image server", image.host))
        })?;
        let connecting = async {
            let socket = TcpStream::connect((image.host.as_str(), image.port)).await?;
            socket.set_nodelay(true)?;
            TlsConnector::from(tls.clone()).connect(name, BufReader::with_capacity(SOCKET_BUFFER, socket)).await
        };
        let stream = match timeout(CONNECT, connecting).await {
            Ok(stream) => stream.map_err(|error| Trouble::broken(what(), error))?,
            Err(elapsed) => return Err(Trouble::broken(format!("{}: no answer within {} s", what(), CONNECT.as_secs()), elapsed)),
        };
        let handshake = Builder::new().read_buf_exact_size(Some(PIECE)).handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| Trouble::broken(what(), error))?;
        let driver = tokio::spawn(async move {
            // What breaks the connection is told to whoever waits for an answer or a piece of the body.
            let _ = driver.await;
        });
        Ok(Self { sender, server, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Sends the request and gives the answer's head.
    pub(super) async fn ask(&mut self, request: Request<B>) -> Result<Response<Incoming>, Trouble> {
        let answer = self.sender.send_request(request).await;
        answer.map_err(|error| Trouble::broken(format!("the image server {} did not answer", self.server), error))
    }

    /// The server's name for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }
}

/// What kind of image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A system disk, with its SHA-1 beside it.
    Disk,
    /// A CD or DVD; the server says nothing of its content.
    Media,
}

/// Where an image's content is (contract §9.2, §9.3).
pub(super) fn path(kind: Kind, image: &ImageLocation) -> Result<String, Trouble> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if image.id.is_empty() || image.id.len() > 128 || !image.id.chars().all(plain) || image.id.starts_with('.') {
        return Err(Trouble::last(ErrorKind::Invalid, format!("'{}' is no id of an image", image.id.escape_debug())));
    }
    let folder = match kind {
        Kind::Disk => "disk_images",
        Kind::Media => "media_images",
    };
    Ok(format!("/api/v1/{folder}/{}/file/", image.id))
}

/// The Host header.
pub(super) fn authority(image: &ImageLocation) -> String {
    if image.host.contains(':') {
        format!("[{}]:{}", image.host, image.port)
    } else {
        format!("{}:{}", image.host, image.port)
    }
}
