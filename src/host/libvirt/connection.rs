//! A connection to libvirtd.
//!
//! Contract: opening and closing block, so both happen on threads for blocking work only.

use std::ops::Deref;

use virt::connect::Connect;

use crate::host::{ErrorKind, HostError, Result};

use super::error::Said;

/// Seconds between two signs of life, and how many may be missed before the connection counts as broken: a libvirtd that hangs is
/// noticed after about 20 s, one that ends at once.
const KEEP_ALIVE: (i32, u32) = (5, 3);

/// An open connection; dropping it closes it.
pub(super) struct Connection(Connect);

impl Connection {
    /// Opens a connection and has it watched.
    pub(super) fn open(uri: &str) -> Result<Self> {
        let unreachable = |error: &virt::error::Error| {
            HostError::with_source(
                ErrorKind::Unavailable,
                format!("cannot connect to libvirt at {uri}; see that libvirtd (or virtqemud) runs and that this user may use it"),
                Said(error.message().to_owned()),
            )
        };
        if uri.contains('\0') {
            return Err(HostError::new(ErrorKind::Invalid, "the libvirt URI contains a NUL character"));
        }
        let connection = Self(Connect::open(Some(uri)).map_err(|error| unreachable(&error))?);
        connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1).map_err(|error| unreachable(&error))?;
        Ok(connection)
    }

    /// False as soon as the connection is known to be broken. Asks nobody.
    pub(super) fn works(&self) -> bool {
        self.is_alive().unwrap_or(false)
    }
}

impl Deref for Connection {
    type Target = Connect;

    fn deref(&self) -> &Connect {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!("closing a libvirt connection: {}", error.message());
        }
    }
}
