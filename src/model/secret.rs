//! Text that must not show in a log, an error or a panic message.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A password. `Debug` hides it and there is no `Display`; [`Secret::reveal`] marks each place that
/// hands it out (the wire, the data files, the domain XML).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The clear text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when no password is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}
