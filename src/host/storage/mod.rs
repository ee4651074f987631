//! Files and file systems of the host: free space, blank images, images of disks and `qemu-img`, SELinux labels.
//!
//! Contract: knows nothing of libvirt. What blocks says so in its name or runs on a thread for blocking work.

mod blank;
mod disks;
mod qemu_img;
pub(super) mod selinux;
mod space;

pub(super) use blank::Blanks;
pub use disks::LocalDisks;
pub(super) use space::Space;
