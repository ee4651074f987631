use std::os::unix::fs::MetadataExt;

use super::*;

fn sparse_image(path: &Path) {
    let file = File::create(path).unwrap();
    file.write_all_at(b"header", 0).unwrap();
    file.write_all_at(&[7; 100_000], 1 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
}

#[test]
fn a_copy_has_the_same_bytes_and_the_same_holes() {
    let directory = tempfile::tempdir().unwrap();
    let (image, copy) = (directory.path().join("image"), directory.path().join("copy"));
    sparse_image(&image);
    let blanks = Blanks::default();
    blanks.keep(&image, 64 << 20);
    std::fs::remove_file(&image).unwrap();
    File::create(&copy).unwrap();
    blanks.get(directory.path(), 64 << 20).unwrap().copy_to(&copy).unwrap();
    let expected = directory.path().join("expected");
    sparse_image(&expected);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&expected).unwrap());
    assert!(std::fs::metadata(&copy).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_blank_serves_its_own_size_and_directory_only_and_few_are_kept() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = directory.path().join("image");
    sparse_image(&image);
    let blanks = Blanks::default();
    for capacity in 1..=20 {
        blanks.keep(&image, capacity);
    }
    assert!(blanks.get(directory.path(), 20).is_some());
    assert!(blanks.get(directory.path(), 1).is_none());
    assert!(blanks.get(other.path(), 20).is_none());
    assert_eq!(blanks.0.lock().len(), KEPT);
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    sparse_image(&image);
    let blanks = Blanks::default();
    blanks.keep(&image, 5);
    let blank = blanks.get(directory.path(), 5).unwrap();
    assert!(blank.copy_to(&directory.path().join("none")).is_err());
}
