//! How guests are run on this host.

/// With or without the processor's help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Virtualization {
    /// KVM where libvirt offers it and /dev/kvm opens, else emulation.
    #[default]
    Auto,
    /// KVM only.
    Kvm,
    /// Emulation (TCG): slow, but it works inside of virtual machines.
    Qemu,
}
