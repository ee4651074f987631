//! The header of an image from outside: what is taken as a system disk stands for itself and has a size.
#![no_main]

use std::os::unix::fs::FileExt;

use cell::host::storage::inspect_qcow2;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static FILE: std::fs::File = tempfile::tempfile().expect("a file to inspect");
}

fuzz_target!(|header: &[u8]| {
    let verdict = FILE.with(|file| {
        file.set_len(0).and_then(|()| file.write_all_at(header, 0)).expect("the file is written");
        inspect_qcow2(file).expect("the file is read")
    });
    if let Ok(size) = verdict {
        assert!(size > 0 && header.starts_with(b"QFI\xfb"));
        let field =
            |at: usize, length: usize| header.iter().skip(at).take(length).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        assert_eq!(field(8, 8), 0, "no backing file");
        assert!(field(4, 4) == 2 || field(72, 8) & 4 == 0, "no external data file");
    }
});
