//! What went wrong in a transfer, and whether asking again may help.

use std::io;

use crate::host::{ErrorKind, HostError};

/// A transfer that did not get done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection broke or nothing came any more: the rest may come over another one.
    Broken(HostError),
    /// Asking again would give the same.
    Final(HostError),
}

impl Trouble {
    /// Trouble that asking again does not cure.
    pub(super) fn last(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self::Final(HostError::new(kind, context))
    }

    /// A connection that broke.
    pub(super) fn broken(context: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(HostError::with_source(ErrorKind::Failed, context, source))
    }

    /// The error, whatever can be done about it.
    pub(super) fn into_error(self) -> HostError {
        match self {
            Self::Broken(error) | Self::Final(error) => error,
        }
    }
}

/// A failure of this host's files.
pub(super) fn on_file(context: impl Into<String>, error: io::Error) -> HostError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    HostError::with_source(kind, context, error)
}
