//! The status report: every two seconds, for as long as the service runs (contract §6.1 CellStatusReportEvent).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{interval, MissedTickBehavior};

use crate::host::DiskSpace;
use crate::observe::{HostSample, HostStats};
use crate::proto::message::{Key, Message, MessageId};
use crate::txn::Node;

const INTERVAL: Duration = Duration::from_secs(2);
/// The second sample comes soon after the first, so that the Core knows the node's figures shortly after it joined.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// Sends reports for ever. While no Core has us, they are dropped on the way.
pub(super) async fn send_reports(node: Arc<Node>) -> Result<(), String> {
    let mut stats = HostStats::default();
    stats.sample(tokio::time::Instant::now().into_std());
    tokio::time::sleep(FIRST_INTERVAL).await;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = String::new();
    loop {
        ticks.tick().await;
        let paths = node.books.lock().disk_paths();
        let space = node.host.storage.space(&paths).await;
        if let Some(sample) = stats.sample(tokio::time::Instant::now().into_std()) {
            complain_once(&mut complaint, sample.unreadable.iter().chain(&space.unreadable));
            node.outbox.send(None, report(&sample, &space));
        }
    }
}

/// Logs what could not be read, once until it changes.
fn complain_once<'a>(before: &mut String, unreadable: impl Iterator<Item = &'a String>) {
    let now = unreadable.map(String::as_str).collect::<Vec<_>>().join("; ");
    if now != *before {
        match now.as_str() {
            "" => tracing::info!("the status report is complete again"),
            _ => tracing::warn!("the status report is incomplete: {now}"),
        }
        *before = now;
    }
}

fn report(sample: &HostSample, space: &DiskSpace) -> Message {
    Message::new(MessageId::CELL_STATUS_REPORT_EVENT)
        .uint(Key::Core, sample.cpus)
        .float(Key::Usage, sample.cpu_percent)
        .uints(Key::Memory, [sample.memory_available, sample.memory_total])
        .uints(Key::Disk, [space.free, space.total])
        .uints(Key::IO, sample.io)
        .uints(Key::Speed, sample.speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_keys_and_lengths_that_the_core_insists_on() {
        let report = serde_json::to_value(report(&HostSample::default(), &DiskSpace::default())).unwrap();
        let captured = include_str!("../../tests/vectors/lifecycle-messages.jsonl");
        let captured = captured.lines().find(|line| line.contains("0x00050302")).unwrap();
        let captured: serde_json::Value = serde_json::from_str(captured).unwrap();
        let shape = |message: &serde_json::Value| {
            let mut shape = Vec::new();
            for (map, params) in message.as_object().unwrap().iter().filter(|(_, value)| value.is_object()) {
                for (key, value) in params.as_object().unwrap() {
                    shape.push((map.clone(), key.clone(), value.as_array().map(Vec::len)));
                }
            }
            shape.sort();
            shape
        };
        assert_eq!(shape(&report), shape(&captured["message"]));
    }
}
