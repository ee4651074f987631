use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::{tempdir, TempDir};

use super::*;

const STAT: &str = "cpu  100 5 50 1000 200 3 2 10 7 0\ncpu0 50 5 25 500 100 3 2 5 7 0\nintr 1 2 3\n";

const MEMINFO: &str = "MemTotal:       16303428 kB\nMemFree:          512000 kB\nMemAvailable:    9876543 kB\nBuffers:  1 kB\n";

const DISKSTATS: &str = "\
   7       0 loop0 10 0 80 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       0 vda 74732 8330 6532738 91464 33042 57608 16315272 68756 0 20136 161496 8308 29 1800216 1182 2524 93
 254       1 vda1 74000 8330 6532000 91464 33042 57608 16315272 68756 0 20136 161496 8308 29 1800216 1182 2524 93
 253       0 dm-0 74000 8330 6532000 91464 33042 57608 16315272 68756 0 20136 161496 8308 29 1800216 1182 2524 93
 259       1 nvme0c0n1 5 0 500 1 5 0 600 1 0 1 1
 259       0 nvme0n1 5 0 500 1 5 0 600 1 0 1 1
";

const NET: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0: 266589687    9011    0    0    0     0          0         0   526915    5544    0    0    0     0       0          0
   br0: 266000000    9011    0    0    0     0          0         0   526000    5544    0    0    0     0       0          0
 vnet0:1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0
eth0:1:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0
";

/// A host made of files.
struct Fake {
    root: TempDir,
}

impl Fake {
    fn new() -> Self {
        let fake = Self { root: tempdir().unwrap() };
        for directory in
            ["proc/net", "sys/devices/system/cpu", "sys/block/vda/device", "sys/block/nvme0n1/device", "sys/block/nvme0c0n1/device"]
        {
            fs::create_dir_all(fake.root.path().join(directory)).unwrap();
        }
        for directory in ["sys/block/loop0", "sys/block/dm-0", "sys/class/net/eth0/device", "sys/class/net/br0/bridge"] {
            fs::create_dir_all(fake.root.path().join(directory)).unwrap();
        }
        fake.write("proc/stat", STAT);
        fake.write("proc/meminfo", MEMINFO);
        fake.write("proc/diskstats", DISKSTATS);
        fake.write("proc/net/dev", NET);
        fake.write("sys/devices/system/cpu/online", "0-3,8\n");
        fake
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.root.path().join(path), text).unwrap();
    }

    fn stats(&self) -> HostStats {
        HostStats::new(self.root.path().join("proc"), self.root.path().join("sys"))
    }
}

#[test]
fn figures_are_the_differences_between_two_samples() {
    let fake = Fake::new();
    let mut stats = fake.stats();
    let start = Instant::now();
    assert_eq!(stats.sample(start), None);
    // 400 ticks: 100 idle, 60 waiting, 240 at work.
    fake.write("proc/stat", "cpu  200 5 150 1100 260 23 22 10 7 0\n");
    fake.write("proc/diskstats", &DISKSTATS.replace("6532738", "6532758").replace("16315272", "16315273").replace(" 500 ", " 510 "));
    fake.write("proc/net/dev", &NET.replace("266589687", "266591687").replace("526915", "527915").replace("266000000", "277000000"));
    let sample = stats.sample(start + Duration::from_secs(2)).unwrap();
    assert_eq!(
        sample,
        HostSample {
            cpus: 5,
            cpu_percent: 75.0,
            memory_available: 9_876_543 << 10,
            memory_total: 16_303_428 << 10,
            io: [(20 + 10) * 512, 512, 2000, 1000],
            speed: [(20 + 10) * 256, 256, 1000, 500],
            unreadable: vec![],
        }
    );
}

#[test]
fn counters_that_run_backwards_and_new_devices_count_nothing() {
    let fake = Fake::new();
    let mut stats = fake.stats();
    let start = Instant::now();
    stats.sample(start);
    fake.write("proc/stat", "cpu  50 5 50 900 200 3 2 10\n");
    fake.write("proc/net/dev", "eth0: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n");
    fs::create_dir_all(fake.root.path().join("sys/block/sda/device")).unwrap();
    fake.write("proc/diskstats", "8 0 sda 1 0 999999 1 1 0 999999 1 0 1 1\n");
    let sample = stats.sample(start + Duration::from_secs(2)).unwrap();
    assert_eq!((sample.cpu_percent, sample.io, sample.speed), (0.0, [0; 4], [0; 4]));
    // From there on it counts; the disk that was away starts anew.
    fake.write("proc/net/dev", "eth0: 105 1 0 0 0 0 0 0 206 1 0 0 0 0 0 0\n");
    fake.write("proc/diskstats", &format!("8 0 sda 1 0 1000000 1 1 0 999999 1 0 1 1\n{DISKSTATS}"));
    assert_eq!(stats.sample(start + Duration::from_secs(4)).unwrap().io, [512, 0, 100, 200]);
}

#[test]
fn without_a_physical_card_the_least_virtual_interface_counts() {
    let line = |name: &str, bytes: u64| format!("{name}: {bytes} 1 0 0 0 0 0 0 {bytes} 1 0 0 0 0 0 0\n");
    for (names, counted) in [(["lo", "br0", "vnet0", "veth1", "eth0"], 1 << 4), (["lo", "br0", "vnet0", "veth1", "tap0"], 1 << 3)] {
        let fake = Fake::new();
        fs::remove_dir_all(fake.root.path().join("sys/class/net")).unwrap();
        let mut stats = fake.stats();
        let table = |factor: u64| names.iter().enumerate().map(|(n, name)| line(name, factor << n)).collect::<String>();
        fake.write("proc/net/dev", &table(1));
        let start = Instant::now();
        stats.sample(start);
        fake.write("proc/net/dev", &table(2));
        assert_eq!(stats.sample(start + Duration::from_secs(1)).unwrap().io[2..], [counted, counted], "{names:?}");
    }
}

#[test]
fn what_is_missing_is_named_and_stops_nothing_else() {
    let fake = Fake::new();
    let mut stats = fake.stats();
    let start = Instant::now();
    stats.sample(start);
    fs::remove_file(fake.root.path().join("proc/diskstats")).unwrap();
    fake.write("proc/stat", "gibberish");
    let sample = stats.sample(start).unwrap();
    assert_eq!((sample.cpus, sample.cpu_percent, sample.memory_total), (5, 0.0, 16_303_428 << 10));
    assert_eq!(sample.unreadable.len(), 2, "{:?}", sample.unreadable);
    assert!(sample.unreadable[0].contains("proc/stat: its content is not understood"));
    assert!(sample.unreadable[1].contains("proc/diskstats: No such file"));
    // No speed in no time.
    assert_eq!(sample.speed, [0; 4]);
    // The CPU's figure comes back with the second good reading, not with one since the boot.
    fake.write("proc/stat", STAT);
    assert_eq!(stats.sample(start + Duration::from_secs(2)).unwrap().cpu_percent, 0.0);
}

#[test]
fn lists_of_cpus() {
    for (text, count) in [("0\n", 1), ("0-127", 128), ("0-3,8-11,64", 9)] {
        assert_eq!(parse::cpu_list(text), Some(count));
    }
    for text in ["", "3-1", "a", "0-18446744073709551615"] {
        assert_eq!(parse::cpu_list(text), None, "{text}");
    }
}

#[test]
fn this_host_can_be_read() {
    let mut stats = HostStats::default();
    let start = Instant::now();
    assert_eq!(stats.sample(start), None);
    let sample = stats.sample(start + Duration::from_secs(1)).unwrap();
    assert_eq!(sample.unreadable, [""; 0]);
    assert!(sample.cpus >= 1 && sample.memory_total > sample.memory_available);
    assert!((0.0..=100.0).contains(&sample.cpu_percent));
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in ".{0,300}", lines in "([a-z0-9:]{0,6} ?([0-9]{1,21} ){0,20}\n){0,6}") {
        for text in [text, lines.clone(), format!("cpu {lines}"), format!("MemAvailable:{lines}")] {
            let _ = (parse::cpu_times(&text), parse::memory(&text), parse::cpu_list(&text));
            prop_assert!(parse::disks(&text).count() <= text.lines().count());
            prop_assert!(parse::interfaces(&text).count() <= text.lines().count());
        }
    }

    #[test]
    fn the_busy_share_is_a_percentage(before in any::<[u64; 2]>(), now in any::<[u64; 2]>()) {
        let of = |[idle, total]: [u64; 2]| CpuTimes { idle, total };
        prop_assert!((0.0..=100.0).contains(&of(now).busy_percent_since(of(before))));
    }
}
