//! What the two writers have in common: requests are taken together, and the disk is waited for on a thread of its own.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::StoreError;

/// All requests that wait, once there is one; from `stop` on those that are queued already, then `None`. Nothing is lost when this is dropped.
pub(super) async fn next<T>(requests: &mut UnboundedReceiver<T>, stop: &CancellationToken) -> Option<Vec<T>> {
    let mut batch = Vec::new();
    let is_stopped = tokio::select! {
        biased;
        () = stop.cancelled() => true,
        _ = requests.recv_many(&mut batch, usize::MAX) => false,
    };
    if is_stopped {
        requests.close();
        requests.recv_many(&mut batch, usize::MAX).await;
    }
    Some(batch).filter(|batch| !batch.is_empty())
}

/// Work on the disk. [`StoreError::Closed`] when it panicked: the writer can't go on.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)
}
