//! Carrying a disk from or to an image server as a part of a transaction: its turn, its progress, its end.
//!
//! Contract: progress is told every two seconds from the beginning, also while others have their turn, and is what really moved (contract §14 C20). A
//! message is built when it is sent and never changes afterwards (§14 B22). The Core enters progress in two steps and may overwrite what a
//! final event entered in between, so no final event follows progress closely.

use std::future::Future;
use std::time::Duration;

use tokio::time::{interval_at, sleep_until, Instant, MissedTickBehavior};

use super::{Context, Failure};
use crate::host::Transfer;
use crate::model::{GuestId, PowerState};

/// Between two tellings of progress; the Core gives up on a disk image after its timeout (contract §6.4).
const CADENCE: Duration = Duration::from_secs(2);

/// Between the last progress and the event that ends it.
const SETTLING: Duration = Duration::from_millis(500);

/// Runs `work` for the guest when the pool has room, and tells how far it is. The caller holds the guest's job.
pub(super) async fn carry<T, F>(
    context: &Context,
    guest: GuestId,
    pool: &str,
    work: impl FnOnce(Transfer) -> F,
    tell: impl Fn(u32),
) -> Result<T, Failure>
where
    F: Future<Output = crate::host::Result<T>>,
{
    let running = context.node.transfers.begin(guest);
    let transfer = Transfer::new(running.token().clone());
    let carrying = async {
        let _turn = tokio::select! {
            biased;
            () = transfer.stop().cancelled() => return None,
            turn = context.node.transfers.turn(pool) => turn,
        };
        Some(work(transfer.clone()).await)
    };
    tokio::pin!(carrying);
    let mut ticks = interval_at(Instant::now() + CADENCE, CADENCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut carrying => break ended,
            _ = ticks.tick() => {
                tell(transfer.percent());
                told = Some(Instant::now());
            }
        }
    };
    if let Some(told) = told {
        sleep_until(told + SETTLING).await;
    }
    match (ended, running.stopped()) {
        // Done just before it was to stop: it is complete, so it is kept.
        (Some(Ok(result)), _) => Ok(result),
        (_, Some(reason)) => Err(Failure::Stopped(reason)),
        (Some(Err(error)), None) => Err(error.into()),
        (None, None) => Err(Failure::Internal("a transfer had no turn".into())),
    }
}

/// A guest whose state changed behind our back while its job ran: the monitor left the telling to the job.
pub(super) fn tell_power(context: &Context, guest: GuestId) {
    if context.node.books.guest(guest).is_ok_and(|guest| guest.power == PowerState::Running) {
        context.node.announce_power(guest, PowerState::Running, context.session.0);
    }
}
