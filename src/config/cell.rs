//! `config/cell.cfg`: what this node needs beyond the reference. The file is optional and so is every key in it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::fields::Fields;
use super::{ConfigError, ImageSettings};
use crate::model::Virtualization;

/// The first port that a Core listens on for its Cells (transport §1, §4).
pub const DEFAULT_CORE_PORT: u16 = 5600;

/// The kernel's limit for an interface's name (IFNAMSIZ without the NUL).
const LONGEST_INTERFACE: usize = 15;
/// Longer than any name that a Core gives itself.
const LONGEST_CORE_NAME: usize = 255;
const MIB: u64 = 1 << 20;

impl FromStr for Virtualization {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "qemu" => Ok(Self::Qemu),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Virtualization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        })
    }
}

/// What goes to the log and how much of it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Which events.
    pub filter: Targets,
    /// Older files are removed after this many days.
    pub days: u32,
    /// The live file is closed at this size, bytes.
    pub file_bytes: u64,
    /// All files together keep below this, bytes.
    pub total_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: Targets::new().with_default(LevelFilter::INFO), days: 14, file_bytes: 32 * MIB, total_bytes: 256 * MIB }
    }
}

/// The node's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSettings {
    /// The bridge that guests are joined to and the domain is reached through.
    pub bridge: String,
    /// Which libvirt.
    pub libvirt_uri: String,
    /// KVM or emulation.
    pub virtualization: Virtualization,
    /// The only Core that is talked to, by its address: it is dialled without discovery, also where multicast does not pass.
    pub core_address: Option<SocketAddrV4>,
    /// The only Core that is joined, by the name that it gives in the handshake.
    pub core_name: Option<String>,
    /// Disk images.
    pub images: ImageSettings,
    /// The log.
    pub log: LogSettings,
}

impl Default for CellSettings {
    fn default() -> Self {
        Self {
            bridge: "br0".into(),
            libvirt_uri: "qemu:///system".into(),
            virtualization: Virtualization::default(),
            core_address: None,
            core_name: None,
            images: ImageSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl CellSettings {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ConfigError> {
        let default = Self::default();
        let bridge = fields.text("bridge", &default.bridge)?.unwrap_or(default.bridge);
        valid_interface(&bridge).map_err(|reason| fields.error("bridge", reason))?;
        let libvirt_uri = fields.text("libvirt_uri", &default.libvirt_uri)?.unwrap_or(default.libvirt_uri);
        if !libvirt_uri.contains("://") {
            return Err(fields
                .error("libvirt_uri", format!("is \"{}\"; it has to be a URI such as \"qemu:///system\"", libvirt_uri.escape_debug())));
        }
        let virtualization = match fields.text("virtualization", "auto")? {
            None => default.virtualization,
            Some(text) => text.parse().map_err(|()| {
                fields.error("virtualization", format!("is \"{}\"; it has to be \"auto\", \"kvm\" or \"qemu\"", text.escape_debug()))
            })?,
        };
        let core_address = match fields.text("core_address", "192.168.1.10")?.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(core_address(&text).map_err(|reason| fields.error("core_address", reason))?),
        };
        let core_name = fields.text("core_name", "Core_00163e000001")?.filter(|text| !text.is_empty());
        if let Some(name) = &core_name {
            valid_core_name(name).map_err(|reason| fields.error("core_name", reason))?;
        }
        let images = ImageSettings::take(fields)?;
        Ok(Self { bridge, libvirt_uri, virtualization, core_address, core_name, images, log: LogSettings::take(fields, default.log)? })
    }
}

impl LogSettings {
    fn take(fields: &mut Fields, default: Self) -> Result<Self, ConfigError> {
        let filter = match fields.text("log_level", "info")? {
            None => default.filter,
            Some(text) => log_filter(&text).map_err(|reason| fields.error("log_level", reason))?,
        };
        let days = fields.number("log_days", 1..=3650)?.and_then(|days| u32::try_from(days).ok()).unwrap_or(default.days);
        let file_bytes = fields.number("log_file_mib", 1..=1024)?.map_or(default.file_bytes, |size| size * MIB);
        let total = fields.number("log_total_mib", 2..=1_048_576)?.map(|size| size * MIB);
        let total_bytes = total.unwrap_or(default.total_bytes.max(2 * file_bytes));
        if total_bytes < 2 * file_bytes {
            let reason = format!("is {}; it has to be at least twice \"log_file_mib\", which is {}", total_bytes / MIB, file_bytes / MIB);
            return Err(fields.error("log_total_mib", reason));
        }
        Ok(Self { filter, days, file_bytes, total_bytes })
    }
}

/// Reads a level, or levels by target: `info`, or `info,cell::txn=debug`; says what would be right.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    let wanted = "it has to be error, warn, info, debug or trace, or such a level followed by target=level, as in \"info,cell::txn=debug\"";
    let refused = || format!("is \"{}\"; {wanted}", text.escape_debug());
    // A lone word that is no level would be taken for a target: everything else would be silent then.
    let is_level = |part: &str| LevelFilter::from_str(part).is_ok();
    if text.split(',').any(|part| !part.contains('=') && !is_level(part.trim())) {
        return Err(refused());
    }
    text.replace(' ', "").parse::<Targets>().map_err(|_| refused())
}

/// `IP` or `IP:port`.
fn core_address(text: &str) -> Result<SocketAddrV4, String> {
    let address = text.parse::<SocketAddrV4>().or_else(|_| text.parse::<Ipv4Addr>().map(|ip| SocketAddrV4::new(ip, DEFAULT_CORE_PORT)));
    match address {
        Ok(address)
            if address.port() > 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() && !address.ip().is_broadcast() =>
        {
            Ok(address)
        }
        _ => Err(format!(
            "is \"{}\"; it has to be the Core's IPv4 address, such as \"192.168.1.10\" or \"192.168.1.10:5600\"",
            text.escape_debug()
        )),
    }
}

/// A name that a Core may have: what it says is compared with it, character by character.
fn valid_core_name(name: &str) -> Result<(), String> {
    if name.len() <= LONGEST_CORE_NAME && !name.contains(char::is_control) && name.trim() == name {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(format!("is \"{shown}\"; it has to be the Core's name as 'cell status' shows it, such as \"Core_00163e000001\""))
}

fn valid_interface(name: &str) -> Result<(), String> {
    let usable =
        !name.is_empty() && name.len() <= LONGEST_INTERFACE && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if usable && name != "." && name != ".." {
        Ok(())
    } else {
        Err(format!("is \"{}\"; it has to be the name of a network interface, such as \"br0\"", name.escape_debug()))
    }
}
