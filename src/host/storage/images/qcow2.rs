//! What the header of a qcow2 file says, read without any tool: an image from outside is looked at here before a program opens it.
//!
//! Contract: accepts version 2 and 3 files that stand for themselves. A file that names others (a backing file, an external data file) would
//! make QEMU open whatever path it says on this host, so it is refused, and so are encrypted and damaged ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Length of the part that is read; version 2 headers are shorter, and what follows them is not looked at.
const LENGTH: usize = 80;

const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bits of `incompatible_features`.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
/// Compression type and extended L2 entries; both are harmless.
const HARMLESS: u64 = 1 << 3 | 1 << 4;

/// The virtual size in bytes, or why the file can't be a system disk.
///
/// # Errors
/// The file can't be read.
pub fn inspect(file: &File) -> io::Result<Result<u64, String>> {
    let mut header = [0; LENGTH];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or_default())? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(judge(&header))
}

fn judge(header: &[u8; LENGTH]) -> Result<u64, String> {
    let [m0, m1, m2, m3, ..] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err("it is not a qcow2 file".into());
    }
    let version = number(header, 4, 4);
    if !matches!(version, 2 | 3) {
        return Err(format!("it is a qcow2 file of version {version}; 2 and 3 can be used"));
    }
    if number(header, 8, 8) != 0 {
        return Err("it is based on another file (backing file), which an image must not be".into());
    }
    if number(header, 32, 4) != 0 {
        return Err("it is encrypted".into());
    }
    let features = if version == 3 { number(header, 72, 8) } else { 0 };
    if features & EXTERNAL_DATA != 0 {
        return Err("its data is in another file (external data file), which must not be".into());
    }
    if features & CORRUPT != 0 {
        return Err("it is marked as corrupt".into());
    }
    if features & !(DIRTY | HARMLESS) != 0 {
        return Err(format!("it uses features that are not known ({features:#x})"));
    }
    match number(header, 24, 8) {
        0 => Err("it has no content (virtual size 0)".into()),
        size => Ok(size),
    }
}

/// A big-endian number of the header.
fn number(header: &[u8], at: usize, length: usize) -> u64 {
    let bytes = header.get(at..at + length).unwrap_or_default();
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut [u8; LENGTH])) -> Result<u64, String> {
        let mut header = [0; LENGTH];
        header[..4].copy_from_slice(&MAGIC);
        header[7] = 3;
        header[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        change(&mut header);
        judge(&header)
    }

    #[test]
    fn a_plain_image_tells_its_virtual_size() {
        assert_eq!(header(|_| {}), Ok(10 << 30));
        assert_eq!(header(|header| header[79] = 1), Ok(10 << 30), "dirty refcounts are repaired when it is opened");
        assert_eq!(header(|header| (header[7], header[79]) = (2, 4)), Ok(10 << 30), "version 2 has no feature bits");
    }

    #[test]
    fn files_that_lead_elsewhere_are_broken_or_are_no_images_are_refused() {
        type Change = fn(&mut [u8; LENGTH]);
        let cases: [(&str, Change); 8] = [
            ("not a qcow2", |header| header[0] = b'{'),
            ("version 4", |header| header[7] = 4),
            ("backing file", |header| header[15] = 104),
            ("encrypted", |header| header[35] = 2),
            ("external data file", |header| header[79] = 4),
            ("corrupt", |header| header[79] = 2),
            ("features", |header| header[72] = 0x80),
            ("virtual size 0", |header| header[24..32].fill(0)),
        ];
        for (reason, change) in cases {
            let refused = header(change).unwrap_err();
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
    }

    #[test]
    fn a_short_file_is_refused_not_misread() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"QFI", 0).unwrap();
        assert!(inspect(&file).unwrap().is_err());
        file.write_all_at(b"QFI\xfb\0\0\0\x03", 0).unwrap();
        assert_eq!(inspect(&file).unwrap(), Err("it has no content (virtual size 0)".into()));
    }
}
