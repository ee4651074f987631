//! `<home>/cell.sock`: who connects is given one line of JSON, the service's [`ServiceStatus`], and the end of the stream.
//!
//! Contract: nothing is read from a client; one client at a time, each for at most half a second. The caller holds the home's lock, so that a socket
//! found at the path is a dead service's.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use crate::model::ServiceStatus;

/// How long a client may keep the others waiting.
const PATIENCE: Duration = Duration::from_millis(500);

/// Before the next attempt when a client can't be accepted (no descriptors left).
const PAUSE: Duration = Duration::from_millis(500);

/// Only for the user that the service runs as.
const MODE: u32 = 0o600;

/// The listening socket; its file is removed when dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    /// Listens at the path, whose directory exists. Inside the runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = at_short_path(path, |short| UnixListener::bind(short))?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
        Ok(socket)
    }

    /// Answers for ever.
    pub async fn serve(self, snapshot: impl Fn() -> ServiceStatus) {
        loop {
            match self.listener.accept().await {
                Ok((client, _)) => {
                    // A client that goes away or does not read has no influence.
                    let _ = tokio::time::timeout(PATIENCE, answer(client, &snapshot())).await;
                }
                Err(error) => {
                    tracing::debug!("cannot accept on {}: {error}", self.path.display());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut client: UnixStream, status: &ServiceStatus) -> io::Result<()> {
    let mut line = serde_json::to_vec(status)?;
    line.push(b'\n');
    client.write_all(&line).await?;
    client.shutdown().await
}

/// Calls `open` with a name for the path that fits into a socket address (107 bytes), however deep the directory lies.
pub fn at_short_path<T>(path: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    open(&short)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn status() -> ServiceStatus {
        ServiceStatus {
            pid: 7,
            version: "1".into(),
            name: "Cell_00163e000001".into(),
            uptime_s: 3,
            domain: "nano".into(),
            group: "224.0.0.226:5599".parse().unwrap(),
            local_address: None,
            core: None,
            core_address: None,
            guests: 2,
            running_guests: 1,
            lost_guests: 0,
            requests: 40,
            failed_requests: 1,
            late_requests: 0,
            held_guests: Vec::new(),
        }
    }

    async fn ask(path: &Path) -> ServiceStatus {
        let mut client = at_short_path(path, |short| std::os::unix::net::UnixStream::connect(short))
            .and_then(|client| {
                client.set_nonblocking(true)?;
                UnixStream::from_std(client)
            })
            .unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn each_client_is_told_the_status_however_long_the_path_is() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("cell.sock");
        std::fs::write(&path, "left by a dead service").unwrap();
        let socket = StatusSocket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let server = tokio::spawn(socket.serve(status));
        // One that connects and says nothing does not matter.
        let _silent = at_short_path(&path, |short| std::os::unix::net::UnixStream::connect(short)).unwrap();
        assert_eq!(ask(&path).await, status());
        assert_eq!(ask(&path).await, status());
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }
}
