//! Who may run a guest of a shared pool: `<id>.claim`, beside the guest's `<id>.meta`. A file of ours; the reference passes it over.

use serde::{Deserialize, Serialize};

use super::is_default;

/// Content of `<id>.claim`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Name of the Cell that may run the guest; "" once that one has let go of it.
    pub owner: String,
    /// One more with each change, so that a change which crossed another is noticed.
    pub generation: u64,
    /// The generation with which the present owner got it, or, once nobody has it, the last one: it tells one tenure from another of the same owner.
    /// 0 when that is not known.
    #[serde(skip_serializing_if = "is_default")]
    pub tenure: u64,
    /// The Cell that it was taken from without having let go; "" once the guest has been started since.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Boot of the owner's host in which the guest was claimed or last started (the kernel's boot id).
    pub boot: String,
    /// The guest ran when its owner let go of it.
    #[serde(skip_serializing_if = "is_default")]
    pub running: bool,
}
