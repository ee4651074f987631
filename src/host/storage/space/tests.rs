use super::*;

#[tokio::test]
async fn a_file_system_counts_once_and_a_bad_path_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_string_lossy().into_owned();
    let space = Space::default();
    let once = space.of(std::slice::from_ref(&path)).await;
    assert!(once.total > 0 && once.free <= once.total);
    let twice = space.of(&[path.clone(), "/no/such/path".into(), path]).await;
    assert_eq!(twice.total, once.total);
    assert_eq!(twice.unreadable, ["/no/such/path: No such file or directory"]);
}

#[tokio::test]
async fn a_path_that_hangs_is_not_asked_again() {
    let space = Space::default();
    space.asked.lock().insert("/".into());
    let told = space.of(&["/".into()]).await;
    assert_eq!(told.unreadable, ["/: the file system does not answer"]);
    assert_eq!(told.total, 0);
}
