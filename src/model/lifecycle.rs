//! The life cycle of a guest as one exhaustive transition function.

use super::{Guest, PowerState};

/// Where a guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its system disk is being filled.
    Incomplete,
    /// Complete, no QEMU process.
    Stopped,
    /// Complete, a QEMU process exists.
    Running,
    /// libvirt does not know it any more.
    Lost,
    /// It was deleted.
    Gone,
}

/// What can be asked of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Power on.
    Start,
    /// ACPI shutdown: the guest decides when.
    Shutdown,
    /// Power off.
    ForceStop,
    /// ACPI reboot.
    Reboot,
    /// Reset button.
    Reset,
    /// Remove it with its disks.
    Delete,
    /// Read or replace its disks.
    UseDisks,
}

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can't be started twice.
    #[error("it is already running")]
    AlreadyRunning,
    /// There is nothing to stop.
    #[error("it is not running")]
    NotRunning,
    /// It has to be stopped first.
    #[error("it is running; stop it first")]
    StillRunning,
    /// Its disk is not there yet.
    #[error("its system disk is still being written")]
    Incomplete,
    /// Only its remains can be deleted.
    #[error("its libvirt domain is missing; it can only be deleted")]
    Lost,
    /// It does not exist any more.
    #[error("it was deleted")]
    Gone,
}

/// The phase after `operation` succeeded, or why it is refused in `phase`.
/// A shutdown leaves the guest running: it stops when it wants to, and libvirt tells then.
pub fn next(phase: Phase, operation: Operation) -> Result<Phase, Refusal> {
    use Operation::{Delete, ForceStop, Reboot, Reset, Shutdown, Start, UseDisks};
    match (phase, operation) {
        (Phase::Incomplete, Delete) => Ok(Phase::Gone),
        (Phase::Incomplete, _) => Err(Refusal::Incomplete),
        (Phase::Gone, _) => Err(Refusal::Gone),
        (Phase::Stopped, UseDisks) => Ok(Phase::Stopped),
        (Phase::Stopped, Start) => Ok(Phase::Running),
        (Phase::Running, Start) => Err(Refusal::AlreadyRunning),
        (Phase::Running, Shutdown | Reboot | Reset) => Ok(Phase::Running),
        (Phase::Running, ForceStop) => Ok(Phase::Stopped),
        (Phase::Stopped, Shutdown | ForceStop | Reboot | Reset) => Err(Refusal::NotRunning),
        (Phase::Stopped | Phase::Lost, Delete) => Ok(Phase::Gone),
        (Phase::Running, Delete | UseDisks) => Err(Refusal::StillRunning),
        (Phase::Lost, Start | Shutdown | ForceStop | Reboot | Reset | UseDisks) => Err(Refusal::Lost),
    }
}

impl Guest {
    /// Where the guest stands now.
    pub fn phase(&self) -> Phase {
        match (self.power, self.created) {
            (PowerState::Lost, _) => Phase::Lost,
            (_, false) => Phase::Incomplete,
            (PowerState::Running, true) => Phase::Running,
            (PowerState::Stopped, true) => Phase::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Operation::{Delete, ForceStop, Reboot, Reset, Shutdown, Start, UseDisks};
        let operations = [Start, Shutdown, ForceStop, Reboot, Reset, Delete, UseDisks];
        let table = [
            (
                Phase::Incomplete,
                [
                    Err(Refusal::Incomplete),
                    Err(Refusal::Incomplete),
                    Err(Refusal::Incomplete),
                    Err(Refusal::Incomplete),
                    Err(Refusal::Incomplete),
                    Ok(Phase::Gone),
                    Err(Refusal::Incomplete),
                ],
            ),
            (
                Phase::Stopped,
                [
                    Ok(Phase::Running),
                    Err(Refusal::NotRunning),
                    Err(Refusal::NotRunning),
                    Err(Refusal::NotRunning),
                    Err(Refusal::NotRunning),
                    Ok(Phase::Gone),
                    Ok(Phase::Stopped),
                ],
            ),
            (
                Phase::Running,
                [
                    Err(Refusal::AlreadyRunning),
                    Ok(Phase::Running),
                    Ok(Phase::Stopped),
                    Ok(Phase::Running),
                    Ok(Phase::Running),
                    Err(Refusal::StillRunning),
                    Err(Refusal::StillRunning),
                ],
            ),
            (
                Phase::Lost,
                [
                    Err(Refusal::Lost),
                    Err(Refusal::Lost),
                    Err(Refusal::Lost),
                    Err(Refusal::Lost),
                    Err(Refusal::Lost),
                    Ok(Phase::Gone),
                    Err(Refusal::Lost),
                ],
            ),
            (Phase::Gone, [Err(Refusal::Gone); 7]),
        ];
        for (phase, results) in table {
            for (operation, result) in operations.into_iter().zip(results) {
                assert_eq!(next(phase, operation), result, "{phase:?} {operation:?}");
            }
        }
    }
}
