//! `config/domain.cfg`: which domain the node belongs to (contract §8.1).

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::fields::Fields;
use super::ConfigError;

/// The domain that is suggested.
pub const DEFAULT_DOMAIN: &str = "nano";
/// The multicast group that is suggested.
pub const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 226);
/// The multicast port that is suggested.
pub const DEFAULT_PORT: u16 = 5599;

/// T_cell where the file says 0 or nothing, seconds.
const DEFAULT_TIMEOUT: u64 = 10;
/// The longest T_cell that makes sense, seconds: a day.
const LONGEST_TIMEOUT: u64 = 86_400;
/// A ping carries the name in one datagram.
const LONGEST_NAME: usize = 255;
/// The file's mode (contract §8).
const MODE: u32 = 0o640;

/// How the node finds its Core, and how long a transaction may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSettings {
    /// The Core answers only to its own domain's name.
    pub domain: String,
    /// Multicast group and port of the pings; echoes come to the port before it (transport §1).
    pub group: SocketAddrV4,
    /// T_cell, the limit of a transaction.
    pub timeout: Duration,
}

impl Default for DomainSettings {
    fn default() -> Self {
        Self {
            domain: DEFAULT_DOMAIN.into(),
            group: SocketAddrV4::new(DEFAULT_GROUP, DEFAULT_PORT),
            timeout: Duration::from_secs(DEFAULT_TIMEOUT),
        }
    }
}

/// The file's form. The reference leaves `timeout` out when it is 0; its own first file holds the default.
#[derive(Serialize)]
struct File<'a> {
    domain: &'a str,
    group_address: Ipv4Addr,
    group_port: u16,
    timeout: u64,
}

impl DomainSettings {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ConfigError> {
        let domain = fields.text("domain", DEFAULT_DOMAIN)?.ok_or_else(|| missing(fields, "domain", "\"nano\""))?;
        valid_domain(&domain).map_err(|reason| fields.error("domain", reason))?;
        if domain.trim() != domain {
            fields.warn("domain", "begins or ends with a blank; a Core answers only when its own does too");
        }
        let address = fields.text("group_address", "224.0.0.226")?.ok_or_else(|| missing(fields, "group_address", "\"224.0.0.226\""))?;
        let address = valid_group_address(&address).map_err(|reason| fields.error("group_address", reason))?;
        let port = fields.number("group_port", 2..=u64::from(u16::MAX))?.ok_or_else(|| missing(fields, "group_port", "5599"))?;
        let port = valid_group_port(port).map_err(|reason| fields.error("group_port", reason))?;
        let timeout = fields.number("timeout", 0..=LONGEST_TIMEOUT)?.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TIMEOUT);
        Ok(Self { domain, group: SocketAddrV4::new(address, port), timeout: Duration::from_secs(timeout) })
    }

    /// Writes the file as the reference does: one blank of indent, mode 0640, whole or not at all. An existing file is not replaced.
    pub fn write_new(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Io { path: path.to_owned(), what: "written", source };
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        self.as_file()
            .serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))
            .map_err(|error| failed(error.into()))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist_noclobber(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn as_file(&self) -> File<'_> {
        File { domain: &self.domain, group_address: *self.group.ip(), group_port: self.group.port(), timeout: self.timeout.as_secs() }
    }
}

fn missing(fields: &Fields, key: &'static str, example: &str) -> ConfigError {
    fields.error(key, format!("is missing; add for example \"{key}\": {example}"))
}

/// Refuses a name that no Core can have; says what would be right.
pub fn valid_domain(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        Err("is empty; it has to be the name of the Core's domain, such as \"nano\"".into())
    } else if name.len() > LONGEST_NAME {
        Err(format!("has {} bytes; a domain's name has at most {LONGEST_NAME}", name.len()))
    } else if name.chars().any(char::is_control) {
        Err("holds a control character; it has to be the name of the Core's domain, such as \"nano\"".into())
    } else {
        Ok(())
    }
}

/// Reads a multicast address; says what would be right.
pub fn valid_group_address(text: &str) -> Result<Ipv4Addr, String> {
    let wanted = "has to be an IPv4 multicast address, 224.0.0.0 to 239.255.255.255, such as \"224.0.0.226\"";
    match text.parse::<Ipv4Addr>() {
        Ok(address) if address.is_multicast() => Ok(address),
        Ok(address) => Err(format!("is {address}, which is not multicast; it {wanted}")),
        Err(_) => Err(format!("is \"{}\"; it {wanted}", text.chars().take(40).flat_map(char::escape_debug).collect::<String>())),
    }
}

/// Checks a group port; says what would be right. Port 1 is none, because echoes come to the port before it.
pub fn valid_group_port(port: u64) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 1).ok_or_else(|| format!("is {port}; it has to be a port from 2 to 65535, such as 5599"))
}
