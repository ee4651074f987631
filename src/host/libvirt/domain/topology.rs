//! How many sockets, cores and threads a number of virtual CPUs is shown as.
//!
//! Contract: for every count, `sockets * cores * threads` is the count, which libvirt insists on. Where the reference's formula (contract §11.3)
//! gives a valid answer, ours is the same, so that a guest sees the same processor after a take-over.

/// Cores of one socket before a further socket is added (contract §11.3).
const CORES_PER_SOCKET: u32 = 32;

/// Shape of a guest's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host::libvirt) struct Topology {
    /// Packages.
    pub(in crate::host::libvirt) sockets: u32,
    /// Cores of each socket.
    pub(in crate::host::libvirt) cores: u32,
    /// Threads of each core.
    pub(in crate::host::libvirt) threads: u32,
}

impl Topology {
    /// The topology of `count` virtual CPUs; `None` for 0.
    ///
    /// Even counts get two threads a core, odd ones a single thread. More than 32 cores are spread over 2, 4 or 8 sockets where that
    /// divides evenly, and otherwise (66, 130) stay in one socket: an uneven division is what made the reference's definition invalid.
    pub(in crate::host::libvirt) fn of(count: u32) -> Option<Self> {
        if count == 0 {
            return None;
        }
        let threads = if count % 2 == 0 { 2 } else { 1 };
        let cores = count / threads;
        let fits = |sockets: &u32| cores % sockets == 0 && cores / sockets <= CORES_PER_SOCKET;
        let sockets = [1, 2, 4, 8].into_iter().find(fits).unwrap_or(1);
        Some(Self { sockets, cores: cores / sockets, threads })
    }
}
