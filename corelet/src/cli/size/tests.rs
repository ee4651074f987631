use super::*;

#[test]
fn sizes_are_read_in_steps_of_1024() {
    for (text, bytes) in [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 mb", 64 << 20),
        ("1.5G", 3 << 29),
        ("0.25k", 256),
        ("2T", 2 << 40),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused() {
    for text in ["", "G", "-1", "1.G", "1.2.3G", "12X", "99999999999T", "1e3", "1.1234567G"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_shown_in_the_greatest_unit() {
    for (bytes, text) in
        [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (u64::MAX, "16777215.9 TiB")]
    {
        assert_eq!(show_size(bytes), text);
    }
}
