//! The kernel's text files, as far as they are wanted. Pure functions; a line that is not understood is left out.

/// Ticks of all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    pub(super) idle: u64,
    pub(super) total: u64,
}

impl CpuTimes {
    /// Share of the time since `before` in which the CPUs were not idle, 0..=100.
    pub(super) fn busy_percent_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total);
        if total == 0 {
            return 0.0;
        }
        // The kernel's idle time may run backwards a little.
        let idle = self.idle.saturating_sub(before.idle).min(total);
        // Ten thousandths are exact enough and never exceed 100.
        u32::try_from(u128::from(total - idle) * 1_000_000 / u128::from(total)).map_or(0.0, |share| f64::from(share) / 10_000.0)
    }
}

/// The first line of /proc/stat: user nice system idle iowait irq softirq steal (guest time is part of user's).
pub(super) fn cpu_times(text: &str) -> Option<CpuTimes> {
    let mut fields = text.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let mut times = CpuTimes::default();
    for (index, field) in fields.take(8).enumerate() {
        let ticks: u64 = field.parse().ok()?;
        times.total = times.total.saturating_add(ticks);
        if index == 3 {
            times.idle = ticks;
        }
    }
    Some(times)
}

/// MemAvailable and MemTotal of /proc/meminfo in bytes.
pub(super) fn memory(text: &str) -> Option<[u64; 2]> {
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1 << 10)
    };
    Some([figure("MemAvailable")?, figure("MemTotal")?])
}

/// Number of CPUs in a list such as "0-3,8".
pub(super) fn cpu_list(text: &str) -> Option<u64> {
    let count = |range: &str| -> Option<u64> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    text.trim().split(',').map(count).try_fold(0_u64, |sum, count| sum.checked_add(count?))
}

/// Devices of /proc/diskstats with the sectors read and written.
pub(super) fn disks(text: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let name = fields.next()?;
        // reads, merged, sectors, milliseconds; the same for writes
        Some((name, [number(fields.nth(2))?, number(fields.nth(3))?]))
    })
}

/// Interfaces of /proc/net/dev with the bytes received and sent.
pub(super) fn interfaces(text: &str) -> impl Iterator<Item = (&str, [u64; 2])> {
    text.lines().filter_map(|line| {
        let (name, figures) = line.rsplit_once(':')?;
        let mut fields = figures.split_ascii_whitespace();
        // bytes and seven others for each direction
        Some((name.trim(), [number(fields.next())?, number(fields.nth(7))?]))
    })
}

fn number(field: Option<&str>) -> Option<u64> {
    field?.parse().ok()
}
