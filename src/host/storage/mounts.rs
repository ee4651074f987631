//! What is mounted. Only the kernel's table is read: asking the directory itself would wait for a dead server.

use std::path::{Path, PathBuf};

/// The mounts that this process sees; the fifth field is where.
const TABLE: &str = "/proc/self/mountinfo";

/// True when a file system is mounted right at this directory.
pub(in crate::host) fn is_mounted(directory: &Path) -> std::io::Result<bool> {
    let table = std::fs::read_to_string(TABLE)?;
    let found = points(&table).any(|point| point == directory);
    Ok(found)
}

fn points(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)))
}

/// The kernel writes blanks and the like as `\ooo`.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = more.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_the_fifth_field_with_its_blanks_back() {
        let table = "36 35 0:30 / /proc rw - proc proc rw\n99 36 8:1 /x /opt/my\\040nano/pools/nas rw,relatime shared:1 - nfs4 nas:/x rw\n";
        let found: Vec<PathBuf> = points(table).collect();
        assert_eq!(found, [PathBuf::from("/proc"), PathBuf::from("/opt/my nano/pools/nas")]);
    }

    #[test]
    fn a_mount_is_told_from_a_directory() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(tempfile::tempdir().unwrap().path()).unwrap());
    }
}
