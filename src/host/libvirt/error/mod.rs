//! libvirt's errors as [`HostError`]: the kind that a caller acts on, and libvirt's own sentence as the reason.

use virt::error::{Error as VirtError, ErrorNumber};

use crate::host::{ErrorKind, HostError};

/// libvirt's sentence, without the codes that say nothing to people.
#[derive(Debug, thiserror::Error)]
#[error("libvirt says: {0}")]
pub(super) struct Said(pub(super) String);

/// An error of a libvirt call; `context` says what failed, on what.
pub(super) fn failed(context: impl Into<String>, error: &VirtError) -> HostError {
    HostError::with_source(kind(error.code(), error.message()), context, Said(error.message().to_owned()))
}

/// [`failed`] for a call that carried a secret: should libvirt quote it (it shows the line of XML that it can't parse), it is struck out.
pub(super) fn failed_without(secret: &str, context: impl Into<String>, error: &VirtError) -> HostError {
    let message = if secret.is_empty() { error.message().to_owned() } else { error.message().replace(secret, "(hidden)") };
    HostError::with_source(kind(error.code(), error.message()), context, Said(message))
}

/// The class of a libvirt error.
pub(super) fn kind(code: ErrorNumber, message: &str) -> ErrorKind {
    // qemu-img and the file system report a full disk as an internal or a system error; only the text tells.
    if message.contains("No space left on device") || message.contains("Disk quota exceeded") {
        return ErrorKind::NoSpace;
    }
    match code {
        ErrorNumber::NoDomain
        | ErrorNumber::NoStoragePool
        | ErrorNumber::NoStorageVolume
        | ErrorNumber::NoNwfilter
        | ErrorNumber::NoNetwork => ErrorKind::NotFound,
        ErrorNumber::DomExist | ErrorNumber::StorageVolExist | ErrorNumber::StoragePoolBuilt => ErrorKind::Exists,
        ErrorNumber::OperationInvalid | ErrorNumber::OperationTimeout | ErrorNumber::ResourceBusy => ErrorKind::Busy,
        ErrorNumber::InvalidArg
        | ErrorNumber::XmlError
        | ErrorNumber::XmlDetail
        | ErrorNumber::XmlInvalidSchema
        | ErrorNumber::InvalidDomain
        | ErrorNumber::InvalidMac
        | ErrorNumber::InvalidNwfilter => ErrorKind::Invalid,
        ErrorNumber::ConfigUnsupported | ErrorNumber::NoSupport | ErrorNumber::ArgumentUnsupported | ErrorNumber::OperationUnsupported => {
            ErrorKind::Unsupported
        }
        ErrorNumber::NoConnect | ErrorNumber::InvalidConn | ErrorNumber::Rpc | ErrorNumber::AuthFailed | ErrorNumber::AuthUnavailable => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Failed,
    }
}

/// True for "there is none", which makes removing idempotent.
pub(super) fn is_missing(error: &VirtError) -> bool {
    kind(error.code(), error.message()) == ErrorKind::NotFound
}

#[cfg(test)]
mod tests;
