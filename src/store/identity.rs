//! The name under which the Core knows this node: `identity.json`.
//!
//! Fixed at the first start and kept: the bridge's MAC changes with its ports, and a new name would be a new, unallocated node for the
//! Core (contract §14 D19).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{Files, Former};
use super::StoreError;

pub(super) const NAME: &str = "identity.json";

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `Cell_<12 hexadecimal digits>`.
    pub name: String,
    /// Why the name was chosen anew although there was a file; `None` when all is well.
    #[serde(skip)]
    pub warning: Option<String>,
}

impl Identity {
    /// True when the name was fixed by an earlier start in this data directory.
    pub fn is_fixed(directory: &Path) -> bool {
        directory.join(NAME).exists()
    }

    /// The name that an earlier start has fixed; none when there was no start. The error says why the file is of no use.
    pub fn look(directory: &Path) -> Result<Option<Self>, String> {
        match std::fs::read(directory.join(NAME)) {
            Ok(content) => parse(&content).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The name that a bridge with this MAC gives to a node that has none yet (transport §4).
    pub fn name_of(mac: [u8; 6]) -> String {
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("Cell_{hex}")
    }

    pub(super) fn load(files: &Files, mac: [u8; 6]) -> Result<Self, StoreError> {
        let warning = match files.read(NAME)?.map(|content| parse(&content)) {
            Some(Ok(identity)) => return Ok(identity),
            Some(Err(reason)) => Some(reason),
            None => None,
        };
        let name = Self::name_of(mac);
        let warning = match warning {
            Some(reason) => {
                let aside = files.set_aside(NAME, &chrono::Local::now().format("%Y%m%d-%H%M%S").to_string())?;
                Some(format!("{NAME} is damaged: {reason}; the name is now {name}, the damaged file is now {aside}"))
            }
            None => None,
        };
        let content = serde_json::json!({ "name": name }).to_string();
        files.replace(&[(NAME, content.as_bytes())], Former::Drop)?;
        Ok(Self { name, warning })
    }
}

fn parse(content: &[u8]) -> Result<Identity, String> {
    let identity: Identity = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=64).contains(&identity.name.len()) && identity.name.chars().all(fit) {
        Ok(identity)
    } else {
        Err("the name must be 1 to 64 letters, digits, '_', '-' or '.'".into())
    }
}
