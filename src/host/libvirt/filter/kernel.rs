//! Whether iptables sees what crosses a bridge.
//!
//! The module `br_netfilter` has switches for it. It is loaded, with the switches on, when libvirt sets the first rule that needs it; an administrator
//! or the distribution may switch them off, because other rules of iptables on this host are not made for bridged packets. So they are looked at
//! and never touched.

use std::path::Path;

use super::Tracking;

const SWITCHES: &str = "/proc/sys/net/bridge";

/// What the host's kernel does now, or, where the module is not loaded yet, will do.
pub(crate) fn tracking() -> Tracking {
    tracking_in(Path::new(SWITCHES))
}

fn tracking_in(switches: &Path) -> Tracking {
    let off = |name: &str| std::fs::read_to_string(switches.join(name)).is_ok_and(|text| text.trim() == "0");
    if off("bridge-nf-call-iptables") || off("bridge-nf-call-ip6tables") {
        Tracking::None
    } else {
        Tracking::Connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_is_off_counts_one_that_is_missing_does_not() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(tracking_in(directory.path()), Tracking::Connections);
        let set = |name: &str, value: &str| std::fs::write(directory.path().join(name), value).unwrap();
        set("bridge-nf-call-iptables", "1\n");
        set("bridge-nf-call-ip6tables", "1\n");
        assert_eq!(tracking_in(directory.path()), Tracking::Connections);
        set("bridge-nf-call-ip6tables", "0\n");
        assert_eq!(tracking_in(directory.path()), Tracking::None);
    }
}
