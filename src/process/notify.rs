//! What systemd is told (sd_notify). Everywhere else these calls do nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service is up; `status` is the line that `systemctl status` shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The state changed: a Core was joined or lost, the service has ended or failed. systemd keeps the last one.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// The orderly end begins.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("ending")]);
}

/// The service gets on with its work: to be called once in every [`watchdog_interval`].
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] has to be called: half of what the unit's `WatchdogSec` allows; none where no watchdog is set.
pub fn watchdog_interval() -> Option<Duration> {
    let mut microseconds = 0;
    sd_notify::watchdog_enabled(false, &mut microseconds)
        .then(|| Duration::from_micros(microseconds) / 2)
        .filter(|interval| !interval.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("cannot notify the service manager: {error}");
    }
}
