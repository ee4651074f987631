use std::collections::BTreeMap;

use super::*;
use crate::guest::Guest;
use crate::requests::CreateGuest;

fn cell(name: &str, guests: &[&CreateGuest]) -> Cell {
    let guests: BTreeMap<_, _> = guests.iter().map(|guest| (guest.id, Guest::asked_for(&guest.to_message()).unwrap())).collect();
    Cell { name: name.into(), address: "127.0.0.1:1".parse().unwrap(), state: CellState::Ready, report: None, guests }
}

#[test]
fn guests_are_found_by_id_and_by_either_name() {
    let (one, two) = (CreateGuest::blank("manager.one", 1), CreateGuest::blank("other.two", 1));
    let cells = [cell("a", &[&one]), cell("b", &[&two])];
    for wanted in ["two", "other.two", &two.id.to_string()] {
        let found = search(&cells, wanted).unwrap().unwrap();
        assert_eq!((found.cell.as_str(), found.guest), ("b", two.id), "{wanted}");
    }
    assert_eq!(search(&cells, "three").unwrap(), None);
}

#[test]
fn a_name_of_several_guests_needs_the_id() {
    let (one, two) = (CreateGuest::blank("x.same", 1), CreateGuest::blank("y.same", 1));
    let cells = [cell("a", &[&one, &two])];
    let error = search(&cells, "same").unwrap_err().to_string();
    assert!(error.contains(&one.id.to_string()) && error.contains(&two.id.to_string()), "{error}");
    assert_eq!(search(&cells, "x.same").unwrap().unwrap().guest, one.id);
}

#[test]
fn a_missing_guest_is_told_with_those_that_exist() {
    let one = CreateGuest::blank("manager.one", 1);
    let error = no_such_guest(&[cell("a", &[&one])], "two").to_string();
    assert_eq!(error, "no guest 'two' on a; there is manager.one");
}
