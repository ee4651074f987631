//! One error type for the host: what kind, on what, why.

use std::fmt;

/// What a caller can do about it depends on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such domain, pool or volume.
    NotFound,
    /// It exists already with another content.
    Exists,
    /// Not in this state (running, locked).
    Busy,
    /// The request can't be carried out as it is.
    Invalid,
    /// This host can't do it.
    Unsupported,
    /// The file system is full.
    NoSpace,
    /// The service behind it (libvirtd) can't be reached right now.
    Unavailable,
    /// It did not end in time and may still happen: reconcile.
    Unknown,
    /// Anything else.
    Failed,
}

/// An operation on the host that did not succeed.
#[derive(Debug)]
pub struct HostError {
    /// Its class.
    pub kind: ErrorKind,
    /// What failed, on what.
    pub context: String,
    /// Why, when something below said so.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl HostError {
    /// An error that starts here.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error with its cause.
    pub fn with_source(kind: ErrorKind, context: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
