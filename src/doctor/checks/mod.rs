//! The checks: plain functions from what was gathered to what was found, one file an area.

pub(super) mod books;
pub(super) mod claims;
pub(super) mod data;
pub(super) mod disks;
pub(super) mod domains;
pub(super) mod filters;
pub(super) mod host;
pub(super) mod journal;
pub(super) mod leftovers;
pub(super) mod pools;
