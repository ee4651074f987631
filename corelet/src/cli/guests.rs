//! From what a person calls a guest to the guest.

use std::time::Duration;

use cell::model::GuestId;

use super::commands::Session;
use super::error::CliError;
use crate::domain::{Cell, CellState};
use crate::events::Event;

/// How long Cells that join later than the first may take, when the first does not have the guest.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// A guest and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) cell: String,
    pub(crate) guest: GuestId,
    pub(crate) name: String,
}

impl Session {
    /// Finds a guest by id, full name, or the name alone. An id that is in no books goes to the first Cell, which may know better.
    pub(crate) async fn find_guest(&self, wanted: &str) -> Result<Found, CliError> {
        let first = self.wait_cell().await?.name;
        let mut events = self.core.events();
        loop {
            let cells = self.usable_cells();
            if let Some(found) = search(&cells, wanted)? {
                return Ok(found);
            }
            if let Ok(guest) = wanted.parse() {
                return Ok(Found { cell: first, guest, name: wanted.into() });
            }
            let another = events.wait(STRAGGLERS, |event| matches!(event, Event::CellReady { .. }));
            if self.options.cell.is_some() || another.await.is_err() {
                return Err(no_such_guest(&cells, wanted));
            }
        }
    }

    fn usable_cells(&self) -> Vec<Cell> {
        let named = |cell: &Cell| self.options.cell.as_ref().is_none_or(|name| *name == cell.name);
        self.core.cells().into_iter().filter(|cell| cell.state == CellState::Ready && named(cell)).collect()
    }
}

/// The guest with this id, full name or, where it is the only one, name without its group.
fn search(cells: &[Cell], wanted: &str) -> Result<Option<Found>, CliError> {
    let all = || {
        cells.iter().flat_map(|cell| {
            let found = |guest: &crate::Guest| Found { cell: cell.name.clone(), guest: guest.id, name: guest.name.clone() };
            cell.guests.values().map(found)
        })
    };
    let exact: Vec<Found> = all().filter(|found| found.name == wanted || found.guest.to_string() == wanted).collect();
    let found = match exact.is_empty() {
        false => exact,
        true => all().filter(|found| found.name.split_once('.').is_some_and(|(_, name)| name == wanted)).collect(),
    };
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => {
            let found: Vec<String> = several.iter().map(|found| format!("{} ({} on {})", found.guest, found.name, found.cell)).collect();
            Err(CliError::Ambiguous { wanted: wanted.into(), found: found.join(", ") })
        }
    }
}

fn no_such_guest(cells: &[Cell], wanted: &str) -> CliError {
    let names = |list: Vec<&str>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let present = names(cells.iter().flat_map(|cell| cell.guests.values().map(|guest| guest.name.as_str())).collect());
    let cells = names(cells.iter().map(|cell| cell.name.as_str()).collect());
    CliError::NoSuchGuest { wanted: wanted.into(), cells, present }
}

#[cfg(test)]
mod tests;
