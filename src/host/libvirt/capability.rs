//! What libvirt and QEMU on this host can do for a guest.

use std::fs::OpenOptions;

use crate::host::{ErrorKind, HostError, Result};

use super::connection::Connection;
use super::domain::{Machine, ARCHITECTURE, MACHINE};
use super::error::failed;
use super::xml::Node;
use super::Virtualization;

/// Device through which QEMU uses KVM.
const KVM: &str = "/dev/kvm";

/// Most virtual CPUs of a pc machine, should libvirt not say.
const MAX_CPUS: u32 = 255;

/// Asks libvirt for the emulator of the wanted kind of virtualization.
pub(super) fn probe(connection: &Connection, wanted: Virtualization) -> Result<Machine> {
    match wanted {
        Virtualization::Qemu => ask(connection, "qemu"),
        Virtualization::Kvm => ask(connection, "kvm"),
        Virtualization::Auto => match ask(connection, "kvm") {
            Ok(machine) if kvm_opens() => Ok(machine),
            _ => ask(connection, "qemu"),
        },
    }
}

fn kvm_opens() -> bool {
    OpenOptions::new().read(true).write(true).open(KVM).is_ok()
}

fn ask(connection: &Connection, kind: &'static str) -> Result<Machine> {
    let document = connection.get_domain_capabilities(None, Some(ARCHITECTURE), Some(MACHINE), Some(kind), 0).map_err(|error| {
        failed(
            format!(
                "this host offers no {kind} guests with the machine '{MACHINE}'; install QEMU for {ARCHITECTURE}, or choose another virtualization in the settings"
            ),
            &error,
        )
    })?;
    read(&document, kind)
}

fn read(document: &str, kind: &'static str) -> Result<Machine> {
    let capabilities = Node::parse(document)?;
    let emulator = capabilities
        .text_at(&["path"])
        .ok_or_else(|| HostError::new(ErrorKind::Unsupported, format!("libvirt names no emulator for {kind} guests")))?
        .to_owned();
    let max_cpus = capabilities.find(&["vcpu"]).and_then(|node| node.attribute("max")).and_then(|max| max.parse().ok()).unwrap_or(MAX_CPUS);
    Ok(Machine { kind, emulator, max_cpus })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulator_and_limits_come_from_libvirt() {
        let document = "<domainCapabilities><path>/usr/libexec/qemu-kvm</path><domain>kvm</domain><vcpu max='240'/></domainCapabilities>";
        let expected = Machine { kind: "kvm", emulator: "/usr/libexec/qemu-kvm".into(), max_cpus: 240 };
        assert_eq!(read(document, "kvm").unwrap(), expected);
        assert_eq!(read("<domainCapabilities/>", "kvm").unwrap_err().kind, ErrorKind::Unsupported);
    }
}
