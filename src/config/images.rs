//! The keys of `config/cell.cfg` that concern disk images.

use std::path::PathBuf;

use super::fields::Fields;
use super::ConfigError;

const MIB: u64 = 1 << 20;

/// Cached images where the file names no limit, MiB a pool.
const DEFAULT_CACHE: u64 = 10 << 10;

/// How image servers prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageTls {
    /// They don't; as the reference has it.
    #[default]
    Insecure,
    /// Their certificate is checked.
    Verify,
}

/// Where disk images come from, and what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSettings {
    /// How certificates are judged. Naming an authority means that it is to be used.
    pub tls: ImageTls,
    /// File with the certificate authority of the image servers; the system's store otherwise.
    pub ca: Option<PathBuf>,
    /// Most bytes of cached images a pool; 0 keeps none.
    pub cache_bytes: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self { tls: ImageTls::default(), ca: None, cache_bytes: DEFAULT_CACHE * MIB }
    }
}

impl ImageSettings {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ConfigError> {
        let default = Self::default();
        let ca = fields.text("image_ca", "/etc/nano/nano_ca.crt.pem")?.filter(|path| !path.is_empty()).map(PathBuf::from);
        if ca.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(fields.error("image_ca", "is not an absolute path; it has to be one, such as \"/etc/nano/nano_ca.crt.pem\""));
        }
        let tls = match fields.text("image_tls", "verify")?.as_deref() {
            None if ca.is_some() => ImageTls::Verify,
            None => default.tls,
            Some("verify") => ImageTls::Verify,
            Some("insecure") => ImageTls::Insecure,
            Some(other) => {
                let reason = format!("is \"{}\"; it has to be \"verify\" or \"insecure\"", other.escape_debug());
                return Err(fields.error("image_tls", reason));
            }
        };
        if tls == ImageTls::Insecure && ca.is_some() {
            fields.warn("image_ca", "has no effect while \"image_tls\" is \"insecure\"");
        }
        let cache_bytes = fields.number("image_cache_mib", 0..=1 << 30)?.map_or(default.cache_bytes, |size| size * MIB);
        Ok(Self { tls, ca, cache_bytes })
    }
}
