use std::io::{Read, Write};

use super::*;

const SIGNATURE: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
const OTHER: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

struct Pool {
    directory: tempfile::TempDir,
    disk: PathBuf,
}

impl Pool {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("guest_sys.qcow2");
        Self { directory, disk }
    }

    fn image(&self, content: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(self.directory.path()).unwrap();
        file.write_all(content).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            files(&self.directory.path().join(DIRECTORY)).unwrap().iter().map(|(path, _)| file_name(path)).collect();
        names.sort();
        names
    }
}

fn content(mut file: File) -> Vec<u8> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    content
}

#[test]
fn an_image_is_found_by_id_and_signature_and_only_so() {
    let pool = Pool::new();
    let cache = Cache::new(1 << 30);
    assert!(cache.find(&pool.disk, "one", SIGNATURE, 5).is_none());
    assert!(cache.keep(&pool.disk, "one", SIGNATURE, &pool.image(b"hello")).unwrap());
    assert_eq!(content(cache.find(&pool.disk, "one", SIGNATURE, 5).unwrap()), b"hello");
    assert!(cache.find(&pool.disk, "one", OTHER, 5).is_none());
    assert!(cache.find(&pool.disk, "two", SIGNATURE, 5).is_none());
    assert!(cache.find(&pool.disk, "one", SIGNATURE, 6).is_none(), "another size is another image");
    assert_eq!(std::fs::metadata(pool.directory.path().join(DIRECTORY)).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_new_version_replaces_the_old_one() {
    let pool = Pool::new();
    let cache = Cache::new(1 << 30);
    assert!(cache.keep(&pool.disk, "one", SIGNATURE, &pool.image(b"old")).unwrap());
    assert!(cache.keep(&pool.disk, "oneandmore", SIGNATURE, &pool.image(b"old")).unwrap());
    assert!(cache.keep(&pool.disk, "one", OTHER, &pool.image(b"new")).unwrap());
    assert_eq!(pool.names(), [name("one", OTHER), name("oneandmore", SIGNATURE)]);
}

#[test]
fn the_least_recently_used_leaves_first() {
    let pool = Pool::new();
    let mebibyte = vec![7; 1 << 20];
    let cache = Cache::new(5 << 19);
    for (age, id) in [(300, "a"), (200, "b")] {
        assert!(cache.keep(&pool.disk, id, SIGNATURE, &pool.image(&mebibyte)).unwrap());
        let entry = File::open(pool.directory.path().join(DIRECTORY).join(name(id, SIGNATURE))).unwrap();
        entry.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    assert!(cache.find(&pool.disk, "a", SIGNATURE, 1 << 20).is_some(), "used now");
    assert!(cache.keep(&pool.disk, "c", SIGNATURE, &pool.image(&mebibyte)).unwrap());
    assert_eq!(pool.names(), [name("a", SIGNATURE), name("c", SIGNATURE)]);
}

#[test]
fn what_is_too_large_is_not_kept_and_the_cache_can_be_off() {
    let pool = Pool::new();
    assert!(!Cache::new(4096).keep(&pool.disk, "one", SIGNATURE, &pool.image(&vec![7; 1 << 20])).unwrap());
    assert_eq!(pool.names(), [""; 0]);
    let on = Cache::new(1 << 30);
    assert!(on.keep(&pool.disk, "one", SIGNATURE, &pool.image(b"hello")).unwrap());
    let off = Cache::new(0);
    assert!(off.find(&pool.disk, "one", SIGNATURE, 5).is_none());
    assert!(!off.keep(&pool.disk, "two", SIGNATURE, &pool.image(b"hello")).unwrap());
}

#[test]
fn the_cache_gives_way_to_guests_and_goes_with_its_pool() {
    let pool = Pool::new();
    let cache = Cache::new(1 << 30);
    cache.give_way(&pool.disk, u64::MAX);
    assert!(cache.keep(&pool.disk, "one", SIGNATURE, &pool.image(b"hello")).unwrap());
    cache.give_way(&pool.disk, 1);
    assert_eq!(pool.names().len(), 1);
    cache.give_way(&pool.disk, u64::MAX);
    assert_eq!(pool.names(), [""; 0]);
    discard_cache(pool.directory.path());
    assert!(std::fs::read_dir(pool.directory.path()).unwrap().next().is_none());
    discard_cache(pool.directory.path());
}

#[test]
fn what_a_crash_left_goes_and_what_another_host_writes_stays() {
    let pool = Pool::new();
    let cache = Cache::new(1 << 30);
    let directory = pool.directory.path().join(DIRECTORY);
    std::fs::create_dir(&directory).unwrap();
    for (name, age) in [(".new-old", ABANDONED * 2), (".new-young", Duration::from_secs(1))] {
        let file = File::create(directory.join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    assert!(cache.keep(&pool.disk, "one", SIGNATURE, &pool.image(b"hello")).unwrap());
    assert_eq!(pool.names(), [".new-young".to_owned(), name("one", SIGNATURE)]);
}

#[test]
fn a_copy_under_way_holds_its_room_and_holds_up_nobody() {
    let (pool, other) = (Pool::new(), Pool::new());
    let cache = Cache::new(5 << 19);
    let mebibyte = vec![7; 1 << 20];
    let directory = pool.directory.path().join(DIRECTORY);
    std::fs::create_dir(&directory).unwrap();
    let unfinished = directory.join(".new-slow");
    File::create(&unfinished).unwrap().set_modified(SystemTime::now() - ABANDONED * 2).unwrap();
    let copy = Copy { unfinished, path: directory.join(name("slow", SIGNATURE)), bytes: 1 << 20 };
    cache.pool(&directory).lock().push(copy);

    cache.give_way(&pool.disk, 1);
    assert!(!cache.keep(&pool.disk, "slow", SIGNATURE, &pool.image(b"hello")).unwrap(), "it is being kept already");
    assert!(cache.keep(&pool.disk, "a", SIGNATURE, &pool.image(&mebibyte)).unwrap());
    assert!(cache.keep(&pool.disk, "b", SIGNATURE, &pool.image(&mebibyte)).unwrap());
    assert_eq!(pool.names(), [".new-slow".to_owned(), name("b", SIGNATURE)], "there is room for two, and one of them is on its way");

    // Somebody changes this cache and does not get on; others have their own.
    let lock = cache.pool(&directory);
    let _held = lock.lock();
    assert!(cache.keep(&other.disk, "a", SIGNATURE, &other.image(&mebibyte)).unwrap());
    cache.give_way(&other.disk, u64::MAX);
    assert_eq!(other.names(), [""; 0]);
}

#[test]
fn copies_at_the_same_time_leave_whole_entries() {
    let pool = Pool::new();
    let cache = Cache::new(1 << 30);
    std::thread::scope(|scope| {
        for number in 0..8_u8 {
            let (cache, pool) = (&cache, &pool);
            scope.spawn(move || {
                let id = format!("image{}", number % 4);
                cache.keep(&pool.disk, &id, SIGNATURE, &pool.image(&vec![number % 4; 1 << 20])).unwrap();
            });
        }
    });
    assert_eq!(pool.names(), (0..4).map(|number| name(&format!("image{number}"), SIGNATURE)).collect::<Vec<_>>());
    for number in 0..4 {
        let found = cache.find(&pool.disk, &format!("image{number}"), SIGNATURE, 1 << 20).unwrap();
        assert!(content(found) == vec![number; 1 << 20]);
    }
    assert!(cache.pool(&pool.directory.path().join(DIRECTORY)).lock().is_empty());
}
