//! Files and file systems of the host: free space, blank images, SELinux labels.
//!
//! Contract: knows nothing of libvirt. What blocks says so in its name or runs on a thread for blocking work.

mod blank;
pub(super) mod files;
pub(super) mod selinux;
mod space;

pub(super) use blank::Blanks;
pub(super) use space::Space;
