//! What a command can fail with.

use std::io;
use std::path::PathBuf;

use super::ppm::PpmError;
use super::raw::RawError;
use crate::bench::BenchError;
use crate::core::CreateError;
use crate::error::{RequestError, StartError, WaitError};
use crate::images::ImageServerError;
use crate::replay::CaptureError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("give the address to listen on: --listen IP (or CORELET_LISTEN); it is the one towards the Cells, such as the bridge's")]
    NoListenAddress,
    #[error("cannot start")]
    Start(#[from] StartError),
    #[error(transparent)]
    ImageServer(#[from] ImageServerError),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error(transparent)]
    Ppm(#[from] PpmError),
    #[error("no guest '{wanted}' on {cells}; there is {present}")]
    NoSuchGuest { wanted: String, cells: String, present: String },
    #[error("'{wanted}' is the name of several guests: {found}; give the id")]
    Ambiguous { wanted: String, found: String },
    #[error("{what}: not within {seconds} s")]
    Late { what: String, seconds: f64 },
    #[error("the bench failed")]
    Bench(#[from] BenchError),
    #[error("cannot {verb} {}", .path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no figures of a bench", .path.display())]
    NoFigures { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("input or output failed")]
    Io(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
    /// Failures that were shown already.
    #[error("some commands failed")]
    Reported,
}

impl CliError {
    /// 2 for wrong usage, 1 for everything else.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::NoListenAddress | Self::Raw(_) | Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    cell::model::Chain(error).to_string()
}
