use super::*;

#[test]
fn cpu_ticks_are_found_behind_any_name() {
    let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 17 25 0 0 20 0 3 0 12345 1000 200 18446744073709551615";
    assert_eq!(cpu_ticks(stat), Some(42));
    assert_eq!(cpu_ticks("42 (a) S 1"), None);
}

#[test]
fn memory_is_read_by_name() {
    let status = "Name:\tVmRSS: 1 kB\nVmRSS:\t   17000 kB\nRssAnon:\t    2048 kB\n";
    assert_eq!(kibibytes(status, "VmRSS"), Some(17_000 * 1024));
    assert_eq!(kibibytes(status, "RssAnon"), Some(2 << 20));
    assert_eq!(kibibytes(status, "VmSwap"), None);
}

#[test]
fn this_process_has_figures_and_a_missing_one_is_named() {
    let own = Process::new(std::process::id()).unwrap();
    let memory = own.memory().unwrap();
    assert!(memory.resident >= memory.anonymous && memory.anonymous > 0);
    let error = Process::new(u32::MAX).unwrap_err();
    assert!(error.to_string().contains("does process 4294967295 exist"), "{error}");
}
