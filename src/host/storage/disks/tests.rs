use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn path(directory: &tempfile::TempDir, name: &str) -> String {
    directory.path().join(name).to_string_lossy().into_owned()
}

fn write(directory: &tempfile::TempDir, name: &str) {
    std::fs::write(directory.path().join(name), name).unwrap();
}

/// Names with what is in the files.
fn listing(directory: &tempfile::TempDir) -> Vec<(String, String)> {
    let names = names::list(directory.path(), "").unwrap();
    names.into_iter().map(|name| (name.clone(), std::fs::read_to_string(directory.path().join(&name)).unwrap())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

#[tokio::test]
async fn a_replaced_image_is_kept_and_comes_back() {
    let (disks, place) = (LocalDisks::default(), directory());
    write(&place, "disk");
    write(&place, "new");
    let [disk, new, old] = ["disk", "new", "old"].map(|name| path(&place, name));
    disks.replace(&disk, &new, &old).await.unwrap();
    assert_eq!(listing(&place), pairs(&[("disk", "new"), ("old", "disk")]));
    assert_eq!(disks.put_back(&disk, Some(&new), &old).await.unwrap(), Change::Changed);
    assert_eq!(listing(&place), pairs(&[("disk", "disk"), ("new", "new")]));
    assert_eq!(disks.put_back(&disk, Some(&new), &old).await.unwrap(), Change::Unchanged);
    disks.replace(&disk, &new, &old).await.unwrap();
    disks.put_back(&disk, None, &old).await.unwrap();
    assert_eq!(listing(&place), pairs(&[("disk", "disk")]));
}

#[tokio::test]
async fn a_replacement_that_broke_off_half_way_comes_back() {
    let (disks, place) = (LocalDisks::default(), directory());
    write(&place, "disk");
    write(&place, "new");
    std::fs::hard_link(path(&place, "disk"), path(&place, "old")).unwrap();
    let [disk, new, old] = ["disk", "new", "old"].map(|name| path(&place, name));
    disks.put_back(&disk, Some(&new), &old).await.unwrap();
    assert_eq!(listing(&place), pairs(&[("disk", "disk"), ("new", "new")]));
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_overwritten() {
    let (disks, place) = (LocalDisks::default(), directory());
    for name in ["disk", "new", "old"] {
        write(&place, name);
    }
    let [disk, new, old] = ["disk", "new", "old"].map(|name| path(&place, name));
    assert_eq!(disks.replace(&disk, &new, &old).await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(disks.set_aside(&disk, &old).await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(listing(&place), pairs(&[("disk", "disk"), ("new", "new"), ("old", "old")]));
}

#[tokio::test]
async fn removing_is_idempotent_and_a_missing_directory_is_empty() {
    let (disks, place) = (LocalDisks::default(), directory());
    write(&place, "a_1");
    assert_eq!(disks.files(&place.path().to_string_lossy(), "a_").await.unwrap(), ["a_1"]);
    assert_eq!(disks.remove(&path(&place, "a_1")).await.unwrap(), Change::Changed);
    assert_eq!(disks.remove(&path(&place, "a_1")).await.unwrap(), Change::Unchanged);
    assert!(disks.files(&path(&place, "none"), "").await.unwrap().is_empty());
}

#[tokio::test]
async fn paths_that_could_be_something_else_are_refused() {
    let disks = LocalDisks::default();
    for path in ["", "a", "-x", "nbd:host", "../a", "/"] {
        assert_eq!(disks.remove(path).await.unwrap_err().kind, ErrorKind::Invalid, "{path:?}");
    }
}

#[tokio::test]
async fn a_new_image_gets_the_mode_of_the_one_it_replaces() {
    use std::os::unix::fs::PermissionsExt;
    let (disks, place) = (LocalDisks::default(), directory());
    write(&place, "disk");
    write(&place, "new");
    let [disk, new, old] = ["disk", "new", "old"].map(|name| path(&place, name));
    std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    disks.replace(&disk, &new, &old).await.unwrap();
    assert_eq!(std::fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o666);
}

#[tokio::test]
async fn images_that_cannot_be_brought_to_the_disk_hold_up_nothing_else() {
    let (disks, place) = (LocalDisks::default(), directory());
    // Opening it waits for a writer, as on a file system that does not answer.
    let silent = path(&place, "silent");
    nix::unistd::mkfifo(silent.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut hung: Vec<_> = (0..20).map(|_| disks.persist(&silent)).collect();
    for hung in &mut hung {
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), hung).await.is_err(), "it hangs");
    }
    write(&place, "other");
    assert_eq!(disks.files(&place.path().to_string_lossy(), "o").await.unwrap(), ["other"]);
    assert_eq!(disks.remove(&path(&place, "other")).await.unwrap(), Change::Changed);
    let answer = std::fs::OpenOptions::new().read(true).write(true).open(&silent).unwrap();
    for hung in hung {
        // A pipe can't be synced; that it has ended is what counts.
        assert!(hung.await.is_err());
    }
    drop(answer);
}
