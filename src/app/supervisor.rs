//! Owned, named tasks.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::AppError;

/// The service's tasks.
#[derive(Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<Option<String>>,
    names: HashMap<Id, &'static str>,
}

impl Supervisor {
    /// Starts a task that is to run until the service ends.
    pub(super) fn spawn<E: Display>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static) {
        let handle = self.tasks.spawn(async move { task.await.err().map(|error| error.to_string()) });
        self.names.insert(handle.id(), name);
    }

    /// The next task that ends, as an error; for ever while all run. May be dropped at any time.
    pub(super) async fn failure(&mut self) -> AppError {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, reason))) => self.ended(id, reason.unwrap_or_else(|| "without a reason".into())),
            Some(Err(error)) => self.ended(error.id(), if error.is_panic() { "a defect of its own".into() } else { error.to_string() }),
            None => std::future::pending().await,
        }
    }

    fn ended(&mut self, id: Id, reason: String) -> AppError {
        AppError::Task { task: self.names.remove(&id).unwrap_or("a task"), reason }
    }

    /// [`Supervisor::wait`]s, then drops the other tasks.
    pub(super) async fn finish(mut self, ending: &[&'static str], patience: Duration) -> Vec<&'static str> {
        self.wait(ending, patience).await
    }

    /// Waits until the tasks named in `ending` have ended by themselves; gives those that had not after `patience`.
    pub(super) async fn wait(&mut self, ending: &[&'static str], patience: Duration) -> Vec<&'static str> {
        let deadline = Instant::now() + patience;
        while self.names.values().any(|name| ending.contains(name)) {
            let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await else {
                break;
            };
            let (id, reason) = match ended {
                Ok((id, reason)) => (id, reason),
                Err(error) => (error.id(), Some(error.to_string())),
            };
            let name = self.names.remove(&id).unwrap_or("a task");
            if let Some(reason) = reason {
                tracing::error!("{name}: {reason}");
            }
        }
        self.names.values().copied().filter(|name| ending.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_is_named_with_its_reason() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("the good one", std::future::pending::<Result<(), String>>());
        supervisor.spawn("the bad one", async { Err("it broke") });
        let error = supervisor.failure().await.to_string();
        assert!(error.starts_with("the bad one ended unexpectedly (it broke)"), "{error}");
        supervisor.spawn("the panicking one", async {
            assert!(std::hint::black_box(false), "a defect");
            Ok::<(), String>(())
        });
        let error = supervisor.failure().await.to_string();
        assert!(error.starts_with("the panicking one ended unexpectedly (a defect of its own)"), "{error}");
        supervisor.spawn("the short one", async { Ok::<(), String>(()) });
        assert_eq!(supervisor.finish(&["the short one", "the good one"], Duration::from_secs(1)).await, ["the good one"]);
    }
}
