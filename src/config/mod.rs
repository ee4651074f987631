//! The node's settings: `config/domain.cfg`, which is the reference's, and `config/cell.cfg`, which is ours and optional.
//!
//! Contract: a setting that can't be used is an error of one line that names file, key and what would be right; a key that nobody knows is a
//! warning. Reading touches nothing. What is ever written: a missing `domain.cfg`, and single settings that somebody asked to have set.

mod cell;
mod domain;
mod edit;
mod fields;
mod images;

use std::path::{Path, PathBuf};

pub use cell::{log_filter, CellSettings, LogSettings, DEFAULT_CORE_PORT};
pub use domain::{valid_domain, valid_group_address, valid_group_port, DomainSettings, DEFAULT_DOMAIN, DEFAULT_GROUP, DEFAULT_PORT};
pub use edit::set_texts;
pub use images::{ImageSettings, ImageTls};

/// A settings file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not there (only `domain.cfg` has to be).
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Not readable or not writable.
    #[error("{}: cannot be {what}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// "read" or "written".
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON, or JSON that is not an object.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column where that is known.
        reason: String,
    },
    /// One key's value is of no use.
    #[error("{}: \"{key}\" {reason}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Settings and what is strange about their file, a line each.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// For the operator; the service works all the same.
    pub warnings: Vec<String>,
}

/// Reads `config/domain.cfg`.
pub fn load_domain(path: &Path) -> Result<Loaded<DomainSettings>, ConfigError> {
    let mut fields = fields::Fields::read(path)?.ok_or_else(|| ConfigError::Missing(path.to_owned()))?;
    let settings = DomainSettings::take(&mut fields)?;
    Ok(Loaded { settings, warnings: fields.finish() })
}

/// Reads `config/cell.cfg`; everything has its default when the file is missing.
pub fn load_cell(path: &Path) -> Result<Loaded<CellSettings>, ConfigError> {
    match fields::Fields::read(path)? {
        None => Ok(Loaded { settings: CellSettings::default(), warnings: Vec::new() }),
        Some(mut fields) => {
            let settings = CellSettings::take(&mut fields)?;
            Ok(Loaded { settings, warnings: fields.finish() })
        }
    }
}

#[cfg(test)]
mod tests;
