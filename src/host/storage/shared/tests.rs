use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::host::ErrorKind;
use crate::model::VolumeGroup;

fn files() -> (SharedFiles, tempfile::TempDir, String) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().to_str().unwrap().to_owned();
    (SharedFiles { anywhere: true, ..SharedFiles::default() }, scratch, directory)
}

fn guest(number: u8) -> SharedGuest {
    let book = include_str!("../../../../tests/vectors/takeover/reference-1.4.1/data/instance.data");
    let book: crate::model::InstanceBook = serde_json::from_str(book).unwrap();
    let id = GuestId::from_bytes([number; 16]);
    SharedGuest { config: GuestConfig { id, ..(*book.instances[0]).clone() }, volumes: VolumeGroup::default() }
}

fn claim(owner: &str, generation: u64) -> Claim {
    Claim { owner: owner.into(), generation, ..Claim::default() }
}

#[tokio::test]
async fn a_guest_is_written_read_and_erased() {
    let (files, scratch, directory) = files();
    let guest = guest(1);
    let id = guest.config.id;
    assert_eq!(files.load(&directory, id).await.unwrap_err().kind, ErrorKind::NotFound);
    // as a crash leaves it
    let left = || ["meta", "vols"].map(|kind| std::fs::write(scratch.path().join(format!(".{id}.{kind}.tmp")), "half").unwrap());
    left();
    files.save(&directory, &guest).await.unwrap();
    assert_eq!(files.load(&directory, id).await.unwrap(), guest);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2, "what was left is replaced");
    left();
    let meta = scratch.path().join(format!("{id}.meta"));
    assert_eq!(meta.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    files.set_claim(&directory, id, &claim("a", 1)).await.unwrap();
    assert_eq!(files.erase(&directory, id).await.unwrap(), Change::Changed);
    assert_eq!(files.erase(&directory, id).await.unwrap(), Change::Unchanged);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left, hidden files included");
}

/// Contract §8.3: what the reference adds is passed over, other unknown keys stay.
#[tokio::test]
async fn the_nine_keys_of_the_reference_are_passed_over() {
    let (files, scratch, directory) = files();
    let guest = guest(2);
    let id = guest.config.id;
    files.save(&directory, &guest).await.unwrap();
    let meta = scratch.path().join(format!("{id}.meta"));
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    for key in PASSING {
        value[key] = 0.into();
    }
    value["added_by_hand"] = 7.into();
    std::fs::write(&meta, value.to_string()).unwrap();
    let found = files.load(&directory, id).await.unwrap();
    assert_eq!(found.config.extra.keys().collect::<Vec<_>>(), ["added_by_hand"]);
}

#[tokio::test]
async fn a_damaged_or_foreign_description_is_refused_by_name() {
    let (files, scratch, directory) = files();
    let (one, other) = (guest(1), GuestId::from_bytes([9; 16]));
    files.save(&directory, &one).await.unwrap();
    let path = |id: GuestId, what: &str| scratch.path().join(format!("{id}.{what}"));
    for extension in ["meta", "vols"] {
        std::fs::copy(path(one.config.id, extension), path(other, extension)).unwrap();
    }
    let error = files.load(&directory, other).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    std::fs::write(path(one.config.id, "vols"), "{\"system\":").unwrap();
    let error = files.load(&directory, one.config.id).await.unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains(".vols can't be read: line 1"), "{reason}");
}

#[tokio::test]
async fn a_claim_changes_only_from_the_generation_before() {
    let (files, scratch, directory) = files();
    let id = GuestId::from_bytes([1; 16]);
    assert_eq!(files.claim(&directory, id).await.unwrap(), None);
    files.set_claim(&directory, id, &claim("a", 1)).await.unwrap();
    for late in [0, 1, 3] {
        let error = files.set_claim(&directory, id, &claim("b", late)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy, "generation {late}");
    }
    assert_eq!(files.claim(&directory, id).await.unwrap().unwrap().owner, "a");
    files.set_claim(&directory, id, &claim("a-longer-name", 2)).await.unwrap();
    files.set_claim(&directory, id, &claim("", 3)).await.unwrap();
    assert_eq!(files.claim(&directory, id).await.unwrap(), Some(claim("", 3)));
    std::fs::write(scratch.path().join(format!("{id}.claim")), "x").unwrap();
    assert_eq!(files.claim(&directory, id).await.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn nobody_changes_a_claim_that_another_holds_locked() {
    let (files, scratch, directory) = files();
    let id = GuestId::from_bytes([1; 16]);
    files.set_claim(&directory, id, &claim("a", 1)).await.unwrap();
    let path = scratch.path().join(format!("{id}.claim"));
    let held = nix::fcntl::Flock::lock(fs::File::open(&path).unwrap(), nix::fcntl::FlockArg::LockExclusive).unwrap();
    assert_eq!(files.set_claim(&directory, id, &claim("b", 2)).await.unwrap_err().kind, ErrorKind::Busy);
    drop(held);
    files.set_claim(&directory, id, &claim("b", 2)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_where_nothing_is_mounted() {
    let (_, scratch, directory) = files();
    let files = SharedFiles::default();
    assert_eq!(files.save(&directory, &guest(1)).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert!(!files.boot().is_empty());
}
