//! The way back of a change of several steps.
//!
//! Each step that changed the host registers how to take it back; success disarms the stack, a failure runs it, last step first.
//! An undo that fails does not stop the others: the error names both causes and what is left behind.

use std::future::Future;
use std::pin::Pin;

use crate::host::HostError;

use super::Failure;

type Step = Pin<Box<dyn Future<Output = Result<(), HostError>> + Send>>;

/// Steps to take back, in the order in which they were done.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// Registers the way back of a step. `left` names what stays behind when it fails.
    pub(super) fn push(&mut self, left: impl Into<String>, step: impl Future<Output = Result<(), HostError>> + Send + 'static) {
        self.steps.push((left.into(), Box::pin(step)));
    }

    /// The change is complete: nothing is taken back.
    pub(super) fn disarm(self) {}

    /// Takes everything back and returns the failure to answer with.
    pub(super) async fn run(mut self, cause: Failure) -> Failure {
        let mut left = Vec::new();
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step.await {
                tracing::error!(left_behind = %what, "a step could not be taken back: {}", Failure::Host(error));
                left.push(what);
            }
        }
        if left.is_empty() {
            cause
        } else {
            Failure::NotUndone { cause: Box::new(cause), left: left.join(", ") }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::host::ErrorKind;

    #[tokio::test]
    async fn steps_run_backwards_and_one_that_fails_does_not_stop_the_others() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (number, fails) in [(1, false), (2, true), (3, false)] {
            let order = order.clone();
            undo.push(format!("thing {number}"), async move {
                order.lock().push(number);
                if fails {
                    return Err(HostError::new(ErrorKind::Failed, "no"));
                }
                Ok(())
            });
        }
        let failure = undo.run(Failure::refused("why")).await;
        assert_eq!(*order.lock(), [3, 2, 1]);
        assert_eq!(failure.to_string(), "why; taking it back failed as well: thing 2");
    }

    #[tokio::test]
    async fn a_clean_way_back_keeps_the_cause() {
        let mut undo = Undo::default();
        undo.push("thing", async { Ok(()) });
        assert!(matches!(undo.run(Failure::Expired).await, Failure::Expired));
    }
}
