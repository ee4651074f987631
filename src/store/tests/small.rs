//! The name of the node and the mark of a run.

use tempfile::tempdir;

use super::*;

const MAC: [u8; 6] = [0x46, 0xcb, 0x03, 0xaa, 0x47, 0xc4];

#[test]
fn the_name_is_fixed_at_the_first_start() {
    let home = tempdir().unwrap();
    let first = open(home.path()).store.identity(MAC).unwrap();
    assert_eq!(first, Identity { name: "Cell_46cb03aa47c4".into(), warning: None });
    assert_eq!(open(home.path()).store.identity([1; 6]).unwrap(), first);
}

#[test]
fn a_damaged_name_is_chosen_anew_and_reported() {
    for bad in ["", "{", "{\"name\": \"\"}", "{\"name\": \"a/b\"}"] {
        let home = tempdir().unwrap();
        fs::write(home.path().join("identity.json"), bad).unwrap();
        let identity = open(home.path()).store.identity(MAC).unwrap();
        assert_eq!(identity.name, "Cell_46cb03aa47c4");
        assert!(identity.warning.unwrap().contains("identity.json is damaged"));
        assert!(others(home.path()).iter().any(|name| name.starts_with("identity.json.damaged-")));
        assert_eq!(open(home.path()).store.identity([1; 6]).unwrap().name, "Cell_46cb03aa47c4");
    }
}

#[test]
fn the_mark_tells_an_unclean_end() {
    let home = tempdir().unwrap();
    let marker = open(home.path()).store.mark_running().unwrap();
    assert!(!marker.unclean());
    drop(marker);
    let marker = open(home.path()).store.mark_running().unwrap();
    assert!(marker.unclean());
    marker.clear().unwrap();
    assert!(!open(home.path()).store.mark_running().unwrap().unclean());
}
