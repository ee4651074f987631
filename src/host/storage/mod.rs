//! Files and file systems of the host: free space, blank images, SELinux labels, images of disks and `qemu-img`, and transfers from and to image servers.
//!
//! Contract: knows nothing of libvirt. What blocks says so in its name or runs on a thread for blocking work.

mod blank;
mod disks;
mod doors;
pub(super) mod files;
mod images;
mod mounts;
mod qemu_img;
pub(super) mod selinux;
mod shared;
mod space;
mod sparse;

pub(super) use blank::Blanks;
pub use disks::LocalDisks;
pub(super) use images::discard_cache;
pub use images::{assess_answer, inspect_qcow2, ImageClient, ImageSettings, ImageTls};
pub(super) use mounts::is_mounted;
pub use qemu_img::version as qemu_img_version;
pub use shared::SharedFiles;
pub(super) use space::Space;
