//! Files with holes: where their data is, and copies that share blocks or at least keep the holes.
//!
//! Contract: everything here blocks, and works by position: several threads may read one file at the same time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{lseek, Whence};
use rustix::fs::{copy_file_range, fadvise, fallocate, ioctl_ficlone, Advice, FallocateFlags};

/// Bytes copied between two looks at whether to go on.
const STEP: usize = 8 << 20;

/// Bytes copied at a time where the kernel does not copy by itself.
const CHUNK: usize = 128 << 10;

/// Bytes after which the kernel is asked to write.
pub(super) const WRITE_BEHIND: u64 = 8 << 20;

/// Lets the kernel begin to write a part of the file to the disk, so that little is left to wait for at the end. Pages on their way stay in the cache.
pub(super) fn write_behind(file: &File, begin: u64, end: u64) {
    if let Some(length) = end.checked_sub(begin).and_then(std::num::NonZeroU64::new) {
        // Advice, no more.
        let _ = fadvise(file, begin, Some(length), Advice::DontNeed);
    }
}

/// Where a file has data, as (start, end).
pub(super) fn extents(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut end = 0;
    while end < length {
        let start = match seek(file, end, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole up to the end of the file.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        end = seek(file, start, Whence::SeekHole)?;
        extents.push((start, end));
    }
    Ok(extents)
}

fn seek(file: &File, offset: u64, whence: Whence) -> nix::Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, offset, whence).and_then(|found| u64::try_from(found).map_err(|_| Errno::EOVERFLOW))
}

/// Gives an empty file the content of another. `advanced` hears of each piece and says whether to go on; [`io::ErrorKind::Interrupted`] when not.
/// The blocks are shared where the file system can, else the kernel copies them, else this does.
pub(super) fn copy(from: &File, to: &File, length: u64, mut advanced: impl FnMut(u64) -> bool) -> io::Result<()> {
    let mut go_on = |amount| if advanced(amount) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::Interrupted)) };
    if ioctl_ficlone(to, from).is_ok() {
        return go_on(length);
    }
    let mut reached = 0;
    for (start, end) in extents(from, length)? {
        go_on(start - reached)?;
        reserve(to, start, end - start)?;
        let mut offset = start;
        while offset < end {
            let step = usize::try_from(end - offset).unwrap_or(STEP).min(STEP);
            let copied = u64::try_from(copy_piece(from, to, offset, step)?).unwrap_or_default();
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += copied;
            write_behind(to, offset - copied, offset);
            go_on(copied)?;
        }
        reached = end;
    }
    to.set_len(length)?;
    go_on(length.saturating_sub(reached))
}

/// Takes the room for a part of a file at once, which costs less than page by page, and tells before anything is copied when there is not enough.
fn reserve(file: &File, start: u64, length: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), start, length) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT)) => Err(error.into()),
        // A file system that does not know of this allocates when it writes.
        _ => Ok(()),
    }
}

/// Copies at most `length` bytes; gives how many it were.
fn copy_piece(from: &File, to: &File, offset: u64, length: usize) -> io::Result<usize> {
    use rustix::io::Errno;
    let (mut read_at, mut write_at) = (offset, offset);
    match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let mut buffer = vec![0; length.min(CHUNK)];
            let read = from.read_at(&mut buffer, offset)?;
            to.write_all_at(buffer.get(..read).unwrap_or_default(), offset)?;
            Ok(read)
        }
        copied => Ok(copied?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn sample() -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 5000], 1 << 20).unwrap();
        file.write_all_at(b"end", (3 << 20) + 17).unwrap();
        file.set_len(5 << 20).unwrap();
        (file, 5 << 20)
    }

    fn content(file: &File, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_copy_has_the_content_and_the_holes() {
        let (from, length) = sample();
        let to = tempfile::tempfile().unwrap();
        let mut seen = 0;
        copy(&from, &to, length, |amount| {
            seen += amount;
            true
        })
        .unwrap();
        assert_eq!(seen, length, "the holes count as well");
        assert!(content(&from, length) == content(&to, length));
        assert!(to.metadata().unwrap().blocks() * 512 < length / 4);
    }

    #[test]
    fn a_copy_across_file_systems_works_piece_by_piece() {
        let (from, length) = sample();
        let Ok(to) = tempfile::tempfile_in("/dev/shm") else {
            eprintln!("skipped: no /dev/shm here");
            return;
        };
        copy(&from, &to, length, |_| true).unwrap();
        assert!(content(&from, length) == content(&to, length));
    }

    #[test]
    fn a_copy_that_finds_no_room_is_not_begun() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else {
            eprintln!("skipped: no /dev/shm here");
            return;
        };
        assert_eq!(reserve(&file, 0, 1 << 50).unwrap_err().kind(), io::ErrorKind::StorageFull);
        reserve(&file, 5, 4096).unwrap();
        assert!(content(&file, 4101) == [0; 4101]);
    }

    #[test]
    fn a_copy_stops_when_told_to() {
        let (from, length) = sample();
        let to = tempfile::tempfile().unwrap();
        assert_eq!(copy(&from, &to, length, |_| false).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
