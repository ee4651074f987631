//! The real libvirt behind the host traits: domains, filters, events, pools, volumes, interruptions.
//!
//! Every test needs a libvirtd that may be restarted and a bridge, so all are ignored by default. Run them as root in a place of their own with
//! `CELL_TEST_LIBVIRT_URI=qemu:///system CELL_TEST_BRIDGE=br0 cargo test --test libvirt -- --include-ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod domains;
mod edits;
mod interruptions;
mod lab;
mod packets;
mod storage;
