//! An image server (contract §9.2), for whoever has none, with faults to be asked for.
//!
//! Contract: serves the files of a directory as disk and media images, id = file name, over HTTPS with a certificate of its own or plain HTTP; takes
//! uploads of disk images into the same directory. It answers as the real one does: `Signature` on downloads, no `Signature` on HEAD, ranges, errors
//! with HTTP 200 and JSON. A fault that is set holds for all requests that begin afterwards.

mod body;
mod fault;
mod server;
mod store;
mod tls;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub use fault::{AnswerFault, BodyFault, Faults};
pub use server::Seen;
pub use store::ImageInfo;

/// Settings of an [`ImageServer`].
#[derive(Clone, Debug)]
pub struct ImageServerConfig {
    /// Where the images are.
    pub directory: PathBuf,
    /// Address and port; port 0 takes any.
    pub listen: SocketAddr,
    /// HTTPS with a self-made certificate, or plain HTTP.
    pub tls: bool,
}

/// An image server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ImageServerError {
    /// The directory can't be used.
    #[error("images cannot be served from {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// The port can't be used.
    #[error("cannot listen on TCP {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// TLS does not take the certificate.
    #[error("cannot set up TLS")]
    Tls(#[source] tokio_rustls::rustls::Error),
}

/// A running image server; dropping it ends it with all its connections.
#[derive(Debug)]
pub struct ImageServer {
    address: SocketAddr,
    certificate: Option<String>,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

/// What all connections use.
#[derive(Debug)]
struct Shared {
    store: store::Store,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
}

impl ImageServer {
    /// Starts to serve, on the current runtime.
    pub async fn start(config: ImageServerConfig) -> Result<Self, ImageServerError> {
        let store = store::Store::open(&config.directory).map_err(|error| ImageServerError::Directory(config.directory.clone(), error))?;
        let bind = |error| ImageServerError::Bind(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let tls = config.tls.then(|| tls::acceptor(address.ip())).transpose()?;
        let (acceptor, certificate) = tls.unzip();
        let shared = Arc::new(Shared { store, faults: Mutex::default(), seen: Mutex::default() });
        let accepting = AbortOnDropHandle::new(tokio::spawn(server::accept(listener, acceptor, shared.clone())));
        Ok(Self { address, certificate, shared, _accepting: accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate as PEM, for clients that want to check it; none without TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// The images that it has.
    pub fn images(&self) -> io::Result<Vec<ImageInfo>> {
        self.shared.store.list()
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.shared.faults.lock() = faults;
    }

    /// The requests so far, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }
}

#[cfg(test)]
mod tests;
