//! The node on real parts: multicast, libvirt, QEMU processes that boot.
//!
//! Each test brings up a lab of its own (`scripts/lab.sh`): hosts in network namespaces with a libvirtd each, and takes it down whatever happens.
//! They need root and the programs that `make setup` installs, so they are ignored unless asked for: `make test` asks for them where
//! they can run and names them where they can't.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    unreachable_pub,
    missing_docs
)]

mod addresses;
mod cloudinit;
mod crash;
mod doctor;
mod domain;
mod faults;
mod full_disks;
mod images;
mod lab;
mod lab_itself;
mod libvirtd_dies;
mod life;
mod linux;
mod migration;
mod moves;
mod replay;
mod security;
mod snapshots;
mod takeover;
mod upgrade;
