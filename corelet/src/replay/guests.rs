//! Guests of the live Cell that are equal to those that the capture's Cell had before: made from its list of guests, and compared with it.

use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message};

use super::mapping::{LiveImage, Mapping};
use crate::core::Core;
use crate::guest::{import, Guest};
use crate::requests::{CreateGuest, ImageSource, StopMode, TemplateNumbers};

/// How long a guest may take to be made, to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Disk of the guest whose image stands for those of the capture.
const IMAGE_DISK: u64 = 16 << 20;

/// Makes an equal guest for each of the list, running or not as it was there. The reason why one could not be made.
pub(super) async fn make_equal(core: &Core, cell: &str, list: &Message, mapping: &mut Mapping) -> Result<(), String> {
    let systems = Column::of(list, Key::System);
    let (internal, external) = (Column::of(list, Key::Internal), Column::of(list, Key::External));
    for guest in import(list).map_err(|error| error.to_string())?.into_values() {
        let captured = guest.id.to_string();
        if mapping.guest(&captured).is_some() {
            continue;
        }
        let text = |column: &Column| column.get(&captured).unwrap_or_default().to_owned();
        let request = CreateGuest {
            id: mapping.enter(&captured),
            owner: guest.owner.clone(),
            group: guest.group.clone(),
            cores: guest.cores,
            memory: guest.memory,
            disks: guest.disks.clone(),
            auto_start: guest.auto_start,
            priority: guest.priority,
            limits: guest.limits,
            template: TemplateNumbers { system: u64::from(text(&systems) == "windows"), ..TemplateNumbers::default() },
            addresses: [text(&internal), text(&external)],
            ..CreateGuest::blank(&mapping.name(&guest.name), 0)
        };
        let id = request.id;
        make(core, cell, &request).await?;
        power(core, cell, id, guest.auto_start, guest.running).await?;
    }
    Ok(())
}

async fn make(core: &Core, cell: &str, request: &CreateGuest) -> Result<(), String> {
    core.create_and_wait(cell, request, PATIENCE).await.map(drop).map_err(|error| format!("guest {}: {error}", request.name))
}

/// A guest that starts by itself may run although the captured one does not.
async fn power(core: &Core, cell: &str, id: GuestId, starts: bool, wanted: bool) -> Result<(), String> {
    let mut events = core.events();
    if starts && !core.guest(cell, id).is_some_and(|guest| guest.running) {
        let _ = events.wait(PATIENCE, |event| event.is_started(id)).await; // what it is then is looked at below
    }
    let runs = core.guest(cell, id).is_some_and(|guest| guest.running);
    let asked = match (runs, wanted) {
        (false, true) => core.start_guest(cell, id).await,
        (true, false) => core.stop_guest(cell, id, StopMode::Force).await,
        _ => return Ok(()),
    };
    asked.map_err(|error| error.to_string())?;
    let done = events.wait(PATIENCE, |event| if wanted { event.is_started(id) } else { event.is_stopped(id) });
    done.await.map(drop).map_err(|error| error.to_string())
}

/// Makes an image on the server out of a guest that is removed again.
pub(super) async fn make_image(core: &Core, cell: &str, server: std::net::SocketAddr, mapping: &Mapping) -> Result<LiveImage, String> {
    let guest = CreateGuest { memory: 64 << 20, ..CreateGuest::blank(&mapping.name("manager.image"), IMAGE_DISK) };
    make(core, cell, &guest).await?;
    let source = ImageSource { id: mapping.name("image"), host: server.ip().to_string(), port: server.port(), size: 0 };
    let size = core.create_disk_image(cell, guest.id, &source, |_| {}).await;
    let deleted = core.delete_guest(cell, guest.id).await;
    let size = size.map_err(|error| error.to_string())?;
    deleted.map_err(|error| error.to_string())?;
    Ok(LiveImage { server, id: source.id, size })
}

/// Differences between the captured list of guests and the live one. `others` were on the live Cell before.
pub(super) fn compare(captured: &Message, live: &Message, mapping: &Mapping, others: &[GuestId]) -> Vec<String> {
    let (wanted, found) = match (import(captured), import(live)) {
        (Ok(wanted), Ok(found)) => (wanted, found),
        (Err(error), _) => return vec![format!("the captured list can't be read: {error}")],
        (_, Err(error)) => return vec![format!("its list can't be read: {error}")],
    };
    let mut differences = Vec::new();
    let mut expected: Vec<GuestId> = others.to_vec();
    let [texts, live_texts] =
        [captured, live].map(|message| [Key::System, Key::Internal, Key::External].map(|key| Column::of(message, key)));
    for (id, guest) in wanted {
        let Some(live_id) = mapping.guest(&id.to_string()) else { continue };
        expected.push(live_id);
        let Some(present) = found.get(&live_id) else {
            differences.push(format!("guest '{}' is missing", guest.name));
            continue;
        };
        // What another host has otherwise is taken from the live one.
        let wanted = Guest {
            id: live_id,
            name: mapping.name(&guest.name),
            monitor_port: present.monitor_port,
            monitor_secret: present.monitor_secret.clone(),
            hardware_address: present.hardware_address.clone(),
            address: present.address.clone(),
            create_time: present.create_time.clone(),
            ..guest
        };
        if wanted != *present {
            differences.push(format!("guest {} is told as {present:?} instead of {wanted:?}", wanted.name));
        }
        for (column, live_column) in texts.iter().zip(&live_texts) {
            let (before, now) = (column.get(&id.to_string()), live_column.get(&live_id.to_string()));
            if before != now {
                differences.push(format!("{} of guest {} is {now:?} instead of {before:?}", column.key, wanted.name));
            }
        }
    }
    for guest in found.values().filter(|guest| !expected.contains(&guest.id)) {
        differences.push(format!("guest {} is more than the capture has", guest.name));
    }
    differences
}

/// One list of a ready event by guest.
struct Column<'a> {
    key: Key,
    guests: &'a [String],
    values: &'a [String],
}

impl<'a> Column<'a> {
    fn of(message: &'a Message, key: Key) -> Self {
        let list = |key| message.string_array_params.get(&key).map(Vec::as_slice).unwrap_or_default();
        Self { key, guests: list(Key::Instance), values: list(key) }
    }

    fn get(&self, guest: &str) -> Option<&'a str> {
        let place = self.guests.iter().position(|id| id == guest)?;
        self.values.get(place).map(String::as_str)
    }
}
