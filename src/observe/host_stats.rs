//! CPU, memory, disk and network figures of the host (contract §6.1 CellStatusReportEvent).
//!
//! Contract: a sample reads five small files of the kernel and allocates next to nothing, as it runs every two seconds for ever. Figures
//! are differences between two samples; the time comes in from outside. A counter that goes backwards (wrapped, or a device taken out and
//! put back) counts nothing for that interval, and so does a device that is new. What can't be read is zero and named in the sample; the
//! rest of the sample is good.
//!
//! Counted are whole physical disks and physical network cards (contract §14 B5, B6): a partition, a volume of LVM or RAID or a loop device
//! would count the same bytes twice, and so would a bridge or a guest's tap.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parse::CpuTimes;

/// Bytes of a sector in `/proc/diskstats`, whatever the disk's own sector size is.
const SECTOR: u64 = 512;

/// A file is read up to here. Of the long /proc/stat only the first line is wanted; hundreds of guests' taps fit into it.
const LONGEST: u64 = 1 << 20;

/// Two counters of a device: read and written, or received and sent; bytes.
type Pair = [u64; 2];

/// The host between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSample {
    /// Logical CPUs that are online.
    pub cpus: u64,
    /// 0..=100; waiting for I/O counts as busy (contract §6.1).
    pub cpu_percent: f64,
    /// Bytes that a new process could get (MemAvailable).
    pub memory_available: u64,
    /// Bytes of memory (MemTotal).
    pub memory_total: u64,
    /// Bytes since the sample before: disk read, disk written, network received, network sent.
    pub io: [u64; 4],
    /// The same per second.
    pub speed: [u64; 4],
    /// Files that could not be read, with the reason.
    pub unreadable: Vec<String>,
}

/// Takes the samples.
pub struct HostStats {
    proc: PathBuf,
    sys: PathBuf,
    buffer: String,
    before: Option<Before>,
    disks: Counters,
    networks: Counters,
}

struct Before {
    time: Instant,
    /// Absent when it could not be read.
    cpu: Option<CpuTimes>,
}

impl Default for HostStats {
    fn default() -> Self {
        Self::new("/proc", "/sys")
    }
}

impl HostStats {
    /// Reads the kernel's files under these two directories.
    pub fn new(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            sys: sys.into(),
            buffer: String::new(),
            before: None,
            disks: Counters::default(),
            networks: Counters::default(),
        }
    }

    /// The host since the call before; `None` the first time. Reads files that never block.
    pub fn sample(&mut self, now: Instant) -> Option<HostSample> {
        let mut unreadable = Vec::new();
        let mut note = |result: Result<(), String>| unreadable.extend(result.err());
        let mut cpu = None;
        let mut memory = [0; 2];
        let mut cpus = 0;
        let (mut disk, mut network) = ([0; 2], [0; 2]);
        note(self.read("stat", |text| parse::cpu_times(text).map(|times| cpu = Some(times))));
        note(self.read("meminfo", |text| parse::memory(text).map(|figures| memory = figures)));
        note(self.read_cpus().map(|count| cpus = count));
        note(self.read_disks().map(|bytes| disk = bytes));
        note(self.read_networks().map(|bytes| network = bytes));
        let before = self.before.replace(Before { time: now, cpu })?;
        let [disk_read, disk_written] = disk;
        let [received, sent] = network;
        let io = [disk_read, disk_written, received, sent];
        let [memory_available, memory_total] = memory;
        let elapsed = now.saturating_duration_since(before.time);
        Some(HostSample {
            cpus,
            cpu_percent: cpu.zip(before.cpu).map_or(0.0, |(now, before)| now.busy_percent_since(before)),
            memory_available,
            memory_total,
            io,
            speed: io.map(|bytes| per_second(bytes, elapsed)),
            unreadable,
        })
    }

    /// Reads a file of /proc and takes what is wanted out of it.
    fn read(&mut self, name: &str, take: impl FnOnce(&str) -> Option<()>) -> Result<(), String> {
        let path = self.proc.join(name);
        read_into(&mut self.buffer, &path)?;
        take(&self.buffer).ok_or_else(|| format!("{}: its content is not understood", path.display()))
    }

    fn read_cpus(&mut self) -> Result<u64, String> {
        let path = self.sys.join("devices/system/cpu/online");
        read_into(&mut self.buffer, &path)?;
        parse::cpu_list(&self.buffer).ok_or_else(|| format!("{}: its content is not understood", path.display()))
    }

    fn read_disks(&mut self) -> Result<Pair, String> {
        read_into(&mut self.buffer, &self.proc.join("diskstats"))?;
        let block = self.sys.join("block");
        let sectors = parse::disks(&self.buffer).filter(|(name, _)| is_physical_disk(&block, name));
        Ok(self.disks.advance(sectors).map(|sectors| sectors.saturating_mul(SECTOR)))
    }

    fn read_networks(&mut self) -> Result<Pair, String> {
        read_into(&mut self.buffer, &self.proc.join("net/dev"))?;
        let class = self.sys.join("class/net");
        let class = Class(&class);
        let all = || parse::interfaces(&self.buffer);
        let wanted = class.wanted(|| all().map(|(name, _)| name));
        Ok(self.networks.advance(all().filter(|(name, _)| wanted(&class, name))))
    }
}

/// The counters of each device at the last sample.
#[derive(Default)]
struct Counters {
    before: HashMap<String, (Pair, u64)>,
    round: u64,
}

impl Counters {
    /// How much all devices have counted since the last call.
    fn advance<'a>(&mut self, devices: impl Iterator<Item = (&'a str, Pair)>) -> Pair {
        self.round += 1;
        let mut sum = [0_u64; 2];
        for (name, now) in devices {
            let Some((before, round)) = self.before.get_mut(name) else {
                self.before.insert(name.to_owned(), (now, self.round));
                continue;
            };
            for (sum, (now, before)) in sum.iter_mut().zip(now.iter().zip(*before)) {
                *sum = sum.saturating_add(now.saturating_sub(before));
            }
            (*before, *round) = (now, self.round);
        }
        let this_round = self.round;
        self.before.retain(|_, (_, round)| *round == this_round);
        sum
    }
}

fn read_into(buffer: &mut String, path: &Path) -> Result<(), String> {
    buffer.clear();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(buffer));
    read.map(drop).map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis();
    if milliseconds == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

/// A whole device (partitions are not listed in /sys/block) with hardware behind it. The paths of a multipath NVMe disk (nvme0c1n1) are
/// counted by the disk itself.
fn is_physical_disk(block: &Path, name: &str) -> bool {
    let is_path_of_nvme = name.strip_prefix("nvme").is_some_and(|rest| rest.contains('c'));
    !is_path_of_nvme && block.join(name).join("device").exists()
}

/// /sys/class/net.
struct Class<'a>(&'a Path);

/// Chooses interfaces.
type Choice = fn(&Class<'_>, &str) -> bool;

impl Class<'_> {
    /// Physical cards; where there are none, as in a container, what looks least virtual.
    fn wanted<'n, I: Iterator<Item = &'n str>>(&self, names: impl Fn() -> I) -> Choice {
        let choices: [Choice; 2] =
            [|class, name| class.has(name, "device"), |class, name| class.may_be_uplink(name) && !name.starts_with("veth")];
        let fits = choices.into_iter().find(|choice| names().any(|name| choice(self, name)));
        fits.unwrap_or(|class, name| class.may_be_uplink(name))
    }

    fn has(&self, name: &str, entry: &str) -> bool {
        self.0.join(name).join(entry).exists()
    }

    /// Neither a loopback nor a device that passes on what another one counts.
    fn may_be_uplink(&self, name: &str) -> bool {
        const VIRTUAL: [&str; 10] = ["br", "virbr", "docker", "vnet", "tap", "tun", "ifb", "dummy", "bond", "wg"];
        let stacked = name.contains(['.', '@']);
        name != "lo"
            && !stacked
            && !VIRTUAL.iter().any(|prefix| name.starts_with(prefix))
            && !self.has(name, "bridge")
            && !self.has(name, "tun_flags")
    }
}
