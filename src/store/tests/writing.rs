//! What is durable when, and what a failing disk does to it.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::task::Poll;

use nix::errno::Errno;
use tempfile::{tempdir, TempDir};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::faulty::{FaultyDisk, Trouble};
use super::*;

/// Books that all carry the same number.
#[derive(Default)]
struct Counter {
    value: AtomicU32,
    serialized: AtomicU64,
}

impl Source for Counter {
    fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError> {
        self.serialized.fetch_add(1, Ordering::SeqCst);
        let value = self.value.load(Ordering::SeqCst);
        match file {
            DataFile::Instance => encode(file, &InstanceBook { max_guest: value, ..InstanceBook::default() }),
            DataFile::Storage => encode(file, &StorageBook { current_pool: value.to_string(), ..StorageBook::default() }),
            DataFile::Network => encode(file, &NetworkBook { default_bridge: value.to_string(), ..NetworkBook::default() }),
        }
    }
}

/// A store on a disk that may fail, with its writer running.
struct Bench {
    home: TempDir,
    disk: Arc<FaultyDisk>,
    store: Store,
    source: Arc<Counter>,
    stop: CancellationToken,
    writer: JoinHandle<Result<(), StoreError>>,
}

impl Bench {
    /// All three files hold 1.
    async fn new() -> Self {
        let home = tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::new());
        let Opened { store, writer, .. } = Store::open_on(disk.clone(), home.path(), "br0", "T").unwrap();
        let source = Arc::new(Counter::default());
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(source.clone(), stop.clone()));
        let bench = Self { home, disk, store, source, stop, writer };
        bench.set(1);
        bench.store.flush(&DataFile::ALL).await.unwrap();
        bench
    }

    fn set(&self, value: u32) {
        self.source.value.store(value, Ordering::SeqCst);
    }

    /// The numbers in the files, storage, network, instance.
    fn on_disk(&self) -> [u32; 3] {
        numbers(self.home.path())
    }

    fn temporaries(&self) -> Vec<String> {
        others(self.home.path()).into_iter().filter(|name| name.ends_with(".tmp")).collect()
    }

    async fn end(self) -> (TempDir, Result<(), StoreError>) {
        self.stop.cancel();
        (self.home, self.writer.await.unwrap())
    }
}

fn numbers(home: &Path) -> [u32; 3] {
    let of = |file: DataFile| json_of(&home.join(file.name()));
    let text = |value: &Value| value.as_str().unwrap().parse().unwrap();
    [
        text(&of(DataFile::Storage)["current_pool"]),
        text(&of(DataFile::Network)["default_bridge"]),
        of(DataFile::Instance)["max_guest"].as_u64().unwrap() as u32,
    ]
}

/// Polls a call once, so that its request is in the queue; true when it waits now.
async fn queued<F: Future>(mut call: Pin<&mut F>) -> bool {
    poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await
}

/// Operations of one write of all files.
async fn steps_of_a_write() -> u64 {
    let bench = Bench::new().await;
    bench.disk.set(Trouble::None);
    bench.store.flush(&DataFile::ALL).await.unwrap();
    bench.disk.operations()
}

#[tokio::test]
async fn a_write_that_fails_at_any_step_keeps_the_files_whole_and_is_made_up_for() {
    let steps = steps_of_a_write().await;
    assert!(steps > 10);
    for errno in [Errno::ENOSPC, Errno::EIO] {
        for step in 1..=steps {
            let bench = Bench::new().await;
            bench.set(2);
            bench.disk.set(Trouble::FailAt(step, errno));
            let result = bench.store.flush(&DataFile::ALL).await;
            assert!(bench.on_disk().iter().all(|n| [1, 2].contains(n)), "step {step}");
            assert_eq!(bench.temporaries(), [""; 0], "step {step}");
            if let Err(error) = &result {
                assert_eq!(error.is_no_space(), errno == Errno::ENOSPC, "{error}");
                let advice = if errno == Errno::ENOSPC { "free space" } else { "kernel's log" };
                assert!(error.to_string().contains(advice), "{error}");
            } else {
                // Only the safeguard copy may fail without failing the write.
                assert_eq!(bench.on_disk(), [2; 3], "step {step}");
            }
            bench.disk.set(Trouble::None);
            bench.store.flush(&[DataFile::Network]).await.unwrap();
            assert_eq!(bench.on_disk(), [2; 3], "step {step}");
            bench.end().await.1.unwrap();
        }
    }
}

#[tokio::test]
async fn a_death_at_any_step_leaves_whole_files() {
    let steps = steps_of_a_write().await;
    for step in 1..=steps {
        let bench = Bench::new().await;
        bench.set(2);
        bench.disk.set(Trouble::DeadFrom(step));
        bench.store.flush(&DataFile::ALL).await.unwrap_err();
        let (home, ended) = bench.end().await;
        ended.unwrap_err();

        let loaded = open(home.path()).loaded;
        assert_eq!(loaded.notices, [], "step {step}");
        let numbers = numbers(home.path());
        // Replaced in this order, so that a listed guest has its volumes and its ports.
        assert!([[1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]].contains(&numbers), "step {step}: {numbers:?}");
        assert!(others(home.path()).iter().all(|name| name.ends_with(".bak")), "step {step}: {:?}", others(home.path()));
    }
}

#[tokio::test]
async fn the_version_before_is_the_last_good_copy() {
    let bench = Bench::new().await;
    for value in 2..=4 {
        bench.set(value);
        bench.store.flush(&[DataFile::Instance]).await.unwrap();
        assert_eq!(json_of(&bench.home.path().join("instance.data.bak"))["max_guest"], value - 1);
    }
    assert_eq!(bench.on_disk(), [1, 1, 4]);
}

#[tokio::test]
async fn calls_during_a_write_share_the_next_one() {
    let bench = Bench::new().await;
    let created = || bench.disk.created.load(Ordering::SeqCst);
    let before = created();
    bench.disk.pause(true);
    let first = tokio::spawn({
        let store = bench.store.clone();
        async move { store.flush(&[DataFile::Instance]).await }
    });
    while created() == before {
        tokio::task::yield_now().await;
    }
    let mut waiting = Vec::new();
    for value in 2..=50 {
        bench.set(value);
        let mut flush = Box::pin(bench.store.flush(&[DataFile::Instance]));
        assert!(queued(flush.as_mut()).await);
        waiting.push(flush);
    }
    bench.disk.pause(false);
    first.await.unwrap().unwrap();
    for flush in waiting {
        flush.await.unwrap();
        assert_eq!(bench.on_disk()[2], 50);
    }
    assert_eq!(created() - before, 2);
}

#[tokio::test]
async fn every_flush_that_returns_is_on_disk() {
    let bench = Arc::new(Bench::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let bench = bench.clone();
        tasks.spawn(async move {
            for _ in 0..25 {
                let mine = bench.source.value.fetch_add(1, Ordering::SeqCst) + 1;
                bench.store.flush(&DataFile::ALL).await.unwrap();
                assert!(bench.on_disk().iter().all(|n| *n >= mine));
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert_eq!(bench.on_disk(), [201; 3]);
}

#[tokio::test]
async fn all_who_share_a_failed_write_hear_of_it() {
    let bench = Bench::new().await;
    bench.disk.set(Trouble::DeadFrom(1));
    let results = futures_util::future::join_all((0..5).map(|_| bench.store.flush(&[DataFile::Storage]))).await;
    assert!(results.iter().all(Result::is_err));
    bench.disk.set(Trouble::None);
    bench.set(9);
    // What is owed goes out at the end without being asked for.
    let (home, ended) = bench.end().await;
    ended.unwrap();
    assert_eq!(numbers(home.path()), [9, 1, 1]);
}

#[tokio::test]
async fn what_is_queued_at_the_end_is_written_and_later_calls_are_refused() {
    let bench = Bench::new().await;
    bench.set(5);
    let mut call = Box::pin(bench.store.flush(&DataFile::ALL));
    assert!(queued(call.as_mut()).await);
    bench.stop.cancel();
    call.await.unwrap();
    assert_eq!(bench.on_disk(), [5; 3]);
    let store = bench.store.clone();
    bench.end().await.1.unwrap();
    assert!(matches!(store.flush(&[DataFile::Instance]).await, Err(StoreError::Closed)));
    store.flush(&[]).await.unwrap();
}

#[tokio::test]
async fn a_source_that_fails_or_dies_leaves_the_files() {
    struct Broken(bool);
    impl Source for Broken {
        fn serialize(&self, file: DataFile) -> Result<Vec<u8>, StoreError> {
            assert!(!self.0, "the source dies");
            encode(file, &std::collections::BTreeMap::from([((1, 2), 3)]))
        }
    }
    for dies in [false, true] {
        let home = tempdir().unwrap();
        fs::copy(takeover().join("instance.data"), home.path().join("instance.data")).unwrap();
        let Opened { store, writer, .. } = open(home.path());
        let writer = tokio::spawn(writer.run(Arc::new(Broken(dies)), CancellationToken::new()));
        let error = store.flush(&[DataFile::Instance]).await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Closed), dies, "{error}");
        if dies {
            assert!(matches!(writer.await.unwrap(), Err(StoreError::Closed)));
        }
        assert_eq!(json_of(&home.path().join("instance.data")), json_of(&takeover().join("instance.data")));
    }
}
