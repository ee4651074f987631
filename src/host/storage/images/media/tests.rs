use super::*;

fn file(directory: &Path, name: &str, bytes: usize, age: u64) -> String {
    let path = directory.join(name);
    std::fs::write(&path, vec![1; bytes]).unwrap();
    File::open(&path).unwrap().set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_in_a_drive_stays_and_the_rest_goes_beyond_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let used = file(path, "used.iso", 1000, 900);
    file(path, "old.iso", 100, 800);
    file(path, "new.iso", 100, 10);
    file(path, ".new-x", 5, 0);
    assert_eq!(discard(path, std::slice::from_ref(&used), 150).unwrap(), Change::Changed);
    assert_eq!(names(path), ["new.iso", "used.iso"]);
    assert_eq!(discard(path, &[used], 150).unwrap(), Change::Unchanged);
    assert_eq!(discard(path, &[], 0).unwrap(), Change::Changed);
    assert_eq!(names(path), Vec::<String>::new());
    assert_eq!(discard(&path.join("none"), &[], 0).unwrap(), Change::Unchanged);
}

#[test]
fn another_version_is_another_file() {
    let head = |signature: &str| Head { signature: signature.into(), size: None, offset: 0, validator: None };
    assert_eq!(name("a", &head("5 x")), name("a", &head("5 x")));
    assert_ne!(name("a", &head("5 x")), name("a", &head("5 y")));
    assert!(name("a", &head("5 x")).starts_with("a.") && name("a", &head("")).ends_with(".iso"));
}
