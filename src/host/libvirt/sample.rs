//! The figures of a running guest out of libvirt's statistics.
//!
//! Contract: what is missing is an error, never a zero that looks like a figure.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use virt::domain::Domain;
use virt::sys;

use crate::host::{DomainSample, ErrorKind, HostError, Result};

use super::error::failed;
use super::events::{statistics, Statistic};

/// Bytes of a block as stat(2) counts them.
const STAT_BLOCK: u64 = 512;

/// Takes a sample. The CPU time is libvirt's own reading of /proc, which is ten times cheaper than the statistics group with the same figure.
pub(super) fn take(domain: &Domain, what: &str) -> Result<DomainSample> {
    let info = domain.get_info().map_err(|error| failed(what, &error))?;
    let groups = sys::VIR_DOMAIN_STATS_BALLOON | sys::VIR_DOMAIN_STATS_INTERFACE | sys::VIR_DOMAIN_STATS_BLOCK;
    let figures = Figures(statistics(domain, groups).map_err(|error| failed(what, &error))?);
    let memory_available = figures
        .memory_available()
        .ok_or_else(|| HostError::new(ErrorKind::Busy, format!("{what}: libvirt has no memory figures of it now")))?;
    Ok(DomainSample {
        cpu_time_ns: info.cpu_time,
        cpus: info.nr_virt_cpu,
        memory_available,
        disk_available: figures.disk_available(),
        disk_read: figures.sum("block", "rd.bytes"),
        disk_written: figures.sum("block", "wr.bytes"),
        net_received: figures.sum("net", "rx.bytes"),
        net_sent: figures.sum("net", "tx.bytes"),
    })
}

/// Statistics by libvirt's names.
struct Figures(HashMap<String, Statistic>);

impl Figures {
    fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Statistic::Number(number) => Some(*number),
            Statistic::Text(_) => None,
        }
    }

    /// Bytes that the guest can still use: as its balloon driver says, else what QEMU has not yet touched (contract §14 B7).
    fn memory_available(&self) -> Option<u64> {
        let known = self.number("balloon.usable").or_else(|| self.number("balloon.unused"));
        let kib = known.or_else(|| Some(self.number("balloon.maximum")?.saturating_sub(self.number("balloon.rss")?)))?;
        kib.checked_mul(1 << 10)
    }

    /// Names of the devices of a group: block.0, block.1, …
    fn devices<'a>(&'a self, group: &'a str) -> impl Iterator<Item = String> + 'a {
        (0..self.number(&format!("{group}.count")).unwrap_or(0)).map(move |index| format!("{group}.{index}"))
    }

    fn sum(&self, group: &str, figure: &str) -> u64 {
        self.devices(group).filter_map(|device| self.number(&format!("{device}.{figure}"))).fold(0, u64::saturating_add)
    }

    /// Bytes that the image files may still grow. libvirt's own "allocation" is the highest offset written since the guest was started, so
    /// the file system is asked instead. CD-ROMs are read-only files whose capacity is their size: nothing is left of them to grow.
    fn disk_available(&self) -> u64 {
        let left = |device: String| {
            let capacity = self.number(&format!("{device}.capacity"))?;
            let Statistic::Text(path) = self.0.get(&format!("{device}.path"))? else { return None };
            let allocated = std::fs::metadata(path).ok()?.blocks().saturating_mul(STAT_BLOCK);
            Some(capacity.saturating_sub(allocated))
        };
        self.devices("block").filter_map(left).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(numbers: &[(&str, u64)]) -> Figures {
        Figures(numbers.iter().map(|(name, number)| ((*name).to_owned(), Statistic::Number(*number))).collect())
    }

    #[test]
    fn free_memory_is_the_best_figure_there_is() {
        let all = [("balloon.usable", 3), ("balloon.unused", 2), ("balloon.maximum", 10), ("balloon.rss", 4)];
        assert_eq!(figures(&all).memory_available(), Some(3 << 10));
        assert_eq!(figures(&all[1..]).memory_available(), Some(2 << 10));
        assert_eq!(figures(&all[2..]).memory_available(), Some(6 << 10));
        assert_eq!(figures(&[("balloon.maximum", 4), ("balloon.rss", 10)]).memory_available(), Some(0));
        assert_eq!(figures(&all[2..3]).memory_available(), None);
    }

    #[test]
    fn counters_are_summed_over_the_devices() {
        let figures = figures(&[("block.count", 2), ("block.0.rd.bytes", 5), ("block.1.rd.bytes", 7), ("net.0.rx.bytes", 9)]);
        assert_eq!(figures.sum("block", "rd.bytes"), 12);
        assert_eq!(figures.sum("net", "rx.bytes"), 0);
    }

    #[test]
    fn what_an_image_may_grow_is_its_capacity_less_its_blocks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 8192]).unwrap();
        let mut figures = figures(&[("block.count", 1), ("block.0.capacity", 1 << 20)]);
        figures.0.insert("block.0.path".into(), Statistic::Text(file.path().to_string_lossy().into()));
        let blocks = std::fs::metadata(file.path()).unwrap().blocks() * STAT_BLOCK;
        assert_eq!(figures.disk_available(), (1 << 20) - blocks);
    }
}
