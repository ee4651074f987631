//! Damaged data files: a start reads what can be read, loses nothing silently, and what it writes is read back as it was.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cell::model::GuestId;
use cell::store::{DataFile, Notice, Store};
use cell::txn::node::Books;
use libfuzzer_sys::fuzz_target;
use tokio_util::sync::CancellationToken;

/// What a healthy directory holds, for the fuzzer to damage.
const GOOD: [&str; 3] = [
    include_str!("../../tests/vectors/takeover/reference-1.4.1/data/storage.data"),
    include_str!("../../tests/vectors/takeover/reference-1.4.1/data/network.data"),
    include_str!("../../tests/vectors/takeover/reference-1.4.1/data/instance.data"),
];

#[derive(Arbitrary, Debug)]
enum Content<'a> {
    Missing,
    Raw(&'a [u8]),
    /// The good one with bytes replaced.
    Damaged(Vec<(u16, u8)>),
    /// The good one with a piece replaced by a text, and cut off somewhere.
    Spliced {
        from: u16,
        length: u8,
        text: &'a str,
        cut: u16,
    },
}

impl Content<'_> {
    fn bytes(&self, good: &str) -> Option<Vec<u8>> {
        let mut bytes = good.as_bytes().to_vec();
        match self {
            Self::Missing => return None,
            Self::Raw(raw) => return Some(raw.to_vec()),
            Self::Damaged(changes) => {
                for (place, byte) in changes {
                    let place = usize::from(*place) % bytes.len();
                    bytes[place] = *byte;
                }
            }
            Self::Spliced { from, length, text, cut } => {
                let from = usize::from(*from) % bytes.len();
                let to = (from + usize::from(*length)).min(bytes.len());
                bytes.splice(from..to, text.bytes());
                bytes.truncate(bytes.len().saturating_sub(usize::from(*cut) % 512));
            }
        }
        Some(bytes)
    }
}

/// A start with what lies in the directory, which writes everything back; what it found is told as text, for comparison.
fn start(directory: &Path) -> (String, Vec<GuestId>, bool) {
    let opened = Store::open(directory, "br0").expect("a readable directory");
    let found = format!("{:?}{:?}{:?}", opened.loaded.instance, opened.loaded.storage, opened.loaded.network);
    let guests = opened.loaded.instance.instances.iter().map(|guest| guest.id).collect();
    let lost = opened.loaded.notices.iter().any(Notice::is_loss);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let books = Arc::new(Books::new(opened.loaded));
        let stop = CancellationToken::new();
        let writer = tokio::spawn(opened.writer.run(books, stop.clone()));
        opened.store.flush(&DataFile::ALL).await.expect("written back");
        stop.cancel();
        writer.await.expect("the writer ends").expect("in order");
    });
    (found, guests, lost)
}

fuzz_target!(|files: [Content; 3]| {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let mut given = Vec::new();
    for ((file, content), good) in DataFile::ALL.into_iter().zip(&files).zip(GOOD) {
        if let Some(bytes) = content.bytes(good) {
            std::fs::write(directory.path().join(file.name()), &bytes).expect("written");
            given.push(bytes);
        }
    }
    let (_, guests, _) = start(directory.path());
    // The first start may put things in order; after it everything is read as it was written.
    let (first, again, lost) = start(directory.path());
    assert!(!lost, "what we wrote ourselves can't be read");
    assert!(guests.iter().all(|guest| again.contains(guest)), "{guests:?} have become {again:?}");
    let (second, ..) = start(directory.path());
    assert_eq!(first, second);
    // Whatever could not be read lies beside under another name.
    for bytes in given.iter().filter(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).is_err()) {
        let mut kept = std::fs::read_dir(directory.path()).expect("listed").flatten();
        assert!(kept.any(|entry| std::fs::read(entry.path()).expect("read") == *bytes), "a damaged file is gone");
    }
});
