//! Whether the service still gets on with its work: the loops that must never stop are asked in turn, and the watchdog is fed only while all of them answer.
//!
//! Contract: a probe goes through the same queue as the loop's work, so that a loop that hangs, or is buried in work for longer than the watchdog allows,
//! does not answer. The watchdog is not fed by a timer: a round in which somebody did not answer feeds nothing. Then the log names who is stuck, and who is
//! heard again.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout, Instant};

use crate::net::DomainHandle;
use crate::store::Store;

/// Between two rounds where no watchdog waits: the log tells all the same.
const INTERVAL: Duration = Duration::from_secs(15);

/// Between two rounds at least.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// A question that is answered once the loop has taken it.
type Question = Pin<Box<dyn Future<Output = bool> + Send>>;

/// One who is asked.
pub(super) struct Probe {
    name: &'static str,
    ask: Box<dyn Fn() -> Question + Send + Sync>,
}

impl Probe {
    /// `ask` gives true when the loop has taken the question and is getting on.
    pub(super) fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = bool> + Send + 'static,
    {
        Self { name, ask: Box::new(move || Box::pin(ask())) }
    }
}

/// The end of a loop that is asked: each question is answered as it is taken.
pub(super) struct Questions(mpsc::Receiver<oneshot::Sender<()>>);

impl Questions {
    /// A probe for a loop that calls [`Questions::answer`], and its end of it.
    pub(super) fn new(name: &'static str) -> (Probe, Self) {
        let (sender, receiver) = mpsc::channel::<oneshot::Sender<()>>(1);
        let probe = Probe::new(name, move || {
            let sender = sender.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                sender.send(answer).await.is_ok() && answered.await.is_ok()
            }
        });
        (probe, Self(receiver))
    }

    /// Waits for the next question and answers it. Cancel safe.
    pub(super) async fn answer(&mut self) {
        match self.0.recv().await {
            Some(question) => {
                // Who asked may have given up waiting.
                let _ = question.send(());
            }
            None => std::future::pending().await,
        }
    }
}

/// Asks all of them for ever. `watchdog` is how often it has to be fed, none where none is; `feed` feeds it.
pub(super) async fn watch(probes: Vec<Probe>, watchdog: Option<Duration>, feed: impl Fn() + Send) {
    // Half of the interval for the answers, half for the pause: a healthy service feeds once in an interval.
    let half = watchdog.unwrap_or(INTERVAL) / 2;
    let mut stuck: Vec<&'static str> = Vec::new();
    loop {
        let begun = Instant::now();
        let silent = round(&probes, half).await;
        tell(&stuck, &silent);
        if silent.is_empty() {
            feed();
        }
        stuck = silent;
        // A round that took long is not followed by a long pause.
        sleep((half.saturating_sub(begun.elapsed())).max(LEAST_PAUSE)).await;
    }
}

/// Those that did not answer in time.
async fn round(probes: &[Probe], patience: Duration) -> Vec<&'static str> {
    let asked = probes.iter().map(|probe| async { (!timeout(patience, (probe.ask)()).await.unwrap_or(false)).then_some(probe.name) });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

fn tell(before: &[&'static str], now: &[&'static str]) {
    for name in now.iter().filter(|name| !before.contains(name)) {
        tracing::error!("{name} does not get on with its work; systemd will start the service anew if it goes on like this");
    }
    for name in before.iter().filter(|name| !now.contains(name)) {
        tracing::info!("{name} gets on again");
    }
}

/// The driver takes the question out of its queue of outgoing messages.
pub(super) fn driver(domain: &DomainHandle) -> Probe {
    let outbound = domain.outbound();
    Probe::new(super::service::DRIVER, move || {
        let outbound = outbound.clone();
        async move { outbound.probe().await }
    })
}

/// The writer takes the question out of its queue of writes.
pub(super) fn writer(store: &Store) -> Probe {
    let store = store.clone();
    Probe::new(super::service::WRITER, move || {
        let store = store.clone();
        async move { store.probe().await }
    })
}

#[cfg(test)]
mod tests;
