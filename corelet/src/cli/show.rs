//! Cells, guests and events in words.

use std::time::Duration;

use super::output::{sheet, table};
use super::size::show_size;
use crate::answers::{GuestAnswer, StatusReport};
use crate::domain::{Cell, CellState};
use crate::events::{Event, Recorded};
use crate::guest::Guest;

/// The Cells, and below them their guests.
pub(crate) fn cells(cells: &[Cell]) -> String {
    let mut rows = vec![row(["CELL", "ADDRESS", "STATE", "GUESTS"])];
    rows.extend(
        cells
            .iter()
            .map(|cell| vec![cell.name.clone(), cell.address.ip().to_string(), cell_state(&cell.state), cell.guests.len().to_string()]),
    );
    let mut text = table(&rows);
    let guests: Vec<(&Cell, &Guest)> = cells.iter().flat_map(|cell| cell.guests.values().map(move |guest| (cell, guest))).collect();
    if !guests.is_empty() {
        let mut rows = vec![row(["GUEST", "ID", "STATE", "CORES", "MEMORY", "DISKS", "MONITOR", "CELL"])];
        rows.extend(guests.into_iter().map(|(cell, guest)| guest_row(cell, guest)));
        text.push_str("\n\n");
        text.push_str(&table(&rows));
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn guest_row(cell: &Cell, guest: &Guest) -> Vec<String> {
    vec![
        guest.name.clone(),
        guest.id.to_string(),
        guest_state(guest.created, guest.progress, guest.running),
        guest.cores.to_string(),
        show_size(guest.memory),
        disks(&guest.disks),
        guest.monitor_port.to_string(),
        cell.name.clone(),
    ]
}

fn disks(sizes: &[u64]) -> String {
    sizes.iter().map(|size| show_size(*size)).collect::<Vec<_>>().join(" + ")
}

fn guest_state(created: bool, progress: u64, running: bool) -> String {
    match (created, running) {
        (false, _) => format!("creating {progress} %"),
        (true, true) => "running".into(),
        (true, false) => "stopped".into(),
    }
}

/// A Cell's state.
pub(crate) fn cell_state(state: &CellState) -> String {
    match state {
        CellState::Connected => "connected, has not taken its pool yet".into(),
        CellState::Ready => "ready".into(),
        CellState::Refused(reason) => format!("refused its pool: {reason}"),
        CellState::Lost => "lost".into(),
        CellState::Left { graceful: true } => "left".into(),
        CellState::Left { graceful: false } => "failed".into(),
    }
}

/// A guest as its Cell describes it.
pub(crate) fn guest(guest: &GuestAnswer) -> String {
    let priority = match guest.priority {
        0 => "high",
        1 => "medium",
        _ => "low",
    };
    let limits = match guest.limits {
        [0, 0, 0, 0, 0, 0] => "none".into(),
        [read, write, read_ops, write_ops, receive, send] => format!(
            "read {read} B/s {read_ops} op/s, write {write} B/s {write_ops} op/s, receive {receive} B/s, send {send} B/s (0 = none)"
        ),
    };
    let mut entries = vec![
        ("Name", guest.name.clone()),
        ("Id", guest.id.map_or_else(String::new, |id| id.to_string())),
        ("State", guest_state(guest.created, guest.progress.unwrap_or_default(), guest.running)),
        ("Owner", format!("{} ({})", guest.owner, guest.group)),
        ("Cores", format!("{} (priority {priority})", guest.cores)),
        ("Memory", show_size(guest.memory)),
        ("Disks", disks(&guest.disks)),
        ("Limits", limits),
        ("Monitor", format!("port {}, password {}", guest.monitor_port, guest.monitor_secret)),
        ("MAC address", guest.hardware_address.clone()),
        ("IP address", guest.address.clone()),
        ("Auto start", if guest.auto_start { "yes".into() } else { "no".into() }),
        ("Created", guest.create_time.clone()),
    ];
    if let Some(usage) = guest.usage {
        let (read, written) = (show_size(usage.bytes_read), show_size(usage.bytes_written));
        let (received, sent) = (show_size(usage.bytes_received), show_size(usage.bytes_sent));
        entries.extend([
            ("CPU", format!("{:.1} %", usage.cpu)),
            ("Free memory", show_size(usage.memory_available)),
            ("Disk I/O", format!("{read} read, {written} written")),
            ("Network I/O", format!("{received} received, {sent} sent")),
            ("Media", if usage.media { "attached".into() } else { "none".into() }),
        ]);
    }
    sheet(&entries)
}

/// A Cell and its host.
pub(crate) fn host(cell: &Cell, report: &StatusReport) -> String {
    let [read, write, receive, send] = report.speeds.map(show_size);
    let running = cell.guests.values().filter(|guest| guest.running).count();
    sheet(&[
        ("Cell", cell.name.clone()),
        ("Address", cell.address.to_string()),
        ("State", cell_state(&cell.state)),
        ("Guests", format!("{}, {running} of them running", cell.guests.len())),
        ("CPU", format!("{:.1} % of {} cores", report.cpu, report.cores)),
        ("Memory", free(report.memory_available, report.memory_total)),
        ("Disk", free(report.disk_available, report.disk_total)),
        ("Disk I/O", format!("{read}/s read, {write}/s written")),
        ("Network I/O", format!("{receive}/s received, {send}/s sent")),
    ])
}

fn free(available: u64, total: u64) -> String {
    format!("{} free of {}", show_size(available), show_size(total))
}

/// An event in one line; guests by name where that is known.
pub(crate) fn event(recorded: &Recorded) -> String {
    let id = || recorded.event.guest().map_or_else(String::new, |id| id.to_string());
    let guest = || recorded.name.clone().unwrap_or_else(id);
    let what = match &recorded.event {
        Event::CellConnected { address, .. } => format!("connected from {address}"),
        Event::CellSwallowed { address, .. } => format!("a second connection from {address} under this name is not served"),
        Event::CellReady { guests, .. } => format!("took its pool, has {guests} guests"),
        Event::CellRefused { reason, .. } => format!("did not take its pool: {reason}"),
        Event::CellLost { .. } => "is silent".into(),
        Event::CellRecovered { .. } => "is heard again".into(),
        Event::CellLeft { graceful: true, reason, .. } => format!("left ({reason})"),
        Event::CellLeft { graceful: false, reason, .. } => format!("failed ({reason})"),
        Event::StatusReport { report, .. } => format!(
            "CPU {:.1} %, memory {}, disk {}",
            report.cpu,
            free(report.memory_available, report.memory_total),
            free(report.disk_available, report.disk_total)
        ),
        Event::GuestCreated { monitor_port, hardware_address, .. } => {
            format!("guest {} created (monitor port {monitor_port}, MAC {hardware_address})", guest())
        }
        Event::GuestProgress { percent, .. } => format!("guest {} is {percent} % created", guest()),
        Event::GuestFailed { reason, .. } => format!("guest {} could not be created: {reason}", guest()),
        Event::GuestStarted { .. } => format!("guest {} started", guest()),
        Event::GuestStopped { .. } => format!("guest {} stopped", guest()),
        Event::GuestDeleted { .. } => format!("guest {} deleted", guest()),
        Event::GuestAddress { address, .. } => format!("guest {} has the address {address}", guest()),
        Event::MediaAttached { media, .. } => format!("media {media} attached to guest {}", guest()),
        Event::MediaDetached { .. } => format!("media detached from guest {}", guest()),
        Event::SystemReset { failure: None, .. } => format!("guest {} has a new system disk", guest()),
        Event::SystemReset { failure: Some(reason), .. } => format!("guest {} has no new system disk: {reason}", guest()),
        Event::Other { message, .. } => format!("sent {}", message.id),
        Event::Ignored { id: Some(id), reason, .. } => format!("sent {id}, ignored: {reason}"),
        Event::Ignored { id: None, reason, .. } => format!("sent something that is no message, ignored: {reason}"),
    };
    format!("{}  {}  {what}", clock(recorded.at), recorded.event.cell())
}

fn clock(at: Duration) -> String {
    format!("+{:03}.{:03}s", at.as_secs(), at.subsec_millis())
}
