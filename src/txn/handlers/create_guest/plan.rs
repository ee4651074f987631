//! What a CreateGuestRequest asks for, read and checked before anything is touched (contract §6.2).

use std::net::Ipv4Addr;

use crate::host::{cloudinit, ImageLocation};
use crate::model::address::rule_address_from_wire;
use crate::model::extra::Extra;
use crate::model::{AddressMode, GuestConfig, GuestId, Protocol, Rule, Secret, SecurityPolicy, Template};
use crate::proto::message::Key;
use crate::txn::handlers::image;
use crate::txn::params::Params;
use crate::txn::{secrets, Failure};

/// Most disks of a guest; a name beyond `sdz` would need two letters.
const MOST_DISKS: usize = 24;
/// Least size of a disk, bytes: a sector.
const LEAST_DISK: u64 = 512;
/// Least memory, bytes: below a mebibyte no firmware starts.
const LEAST_MEMORY: u64 = 1 << 20;
/// Longest password, bytes: the longest that PAM takes.
const MOST_SECRET: usize = 511;
/// Longest path in a guest, bytes.
const MOST_PATH: usize = 1024;

/// A checked request.
pub(super) struct Plan {
    pub(super) id: GuestId,
    pub(super) name: String,
    pub(super) auto_start: bool,
    pub(super) disks: Vec<u64>,
    pub(super) internal_address: String,
    pub(super) external_address: String,
    /// What the system disk is filled with; it stays blank without.
    pub(super) image: Option<ImageLocation>,
    rest: GuestConfig,
}

impl Plan {
    /// Reads the request.
    pub(super) fn read(params: Params<'_>) -> Result<Self, Failure> {
        let id = params.guest(Key::Instance)?;
        let name = read_name(params)?;
        let disks = read_disks(params)?;
        let auto_start = params.bool(Key::Option)?;
        let [internal_address, external_address] = read_addresses(params)?;
        check_modes(params)?;
        let [root_login] = params.exact_uints::<1>(Key::Flag)?;
        let image = match params.optional_string(Key::Image) {
            Some(_) => Some(read_image(params, &disks)?),
            None => None,
        };
        let modules = read_modules(params)?;
        let [read_speed, write_speed, read_iops, write_iops, receive_speed, send_speed] = match params.optional_uints(Key::Limit) {
            Some(_) => params.exact_uints::<6>(Key::Limit)?,
            None => [0; 6],
        };
        let rest = GuestConfig {
            name: name.clone(),
            id,
            user: params.string(Key::User)?.to_owned(),
            group: params.string(Key::Group)?.to_owned(),
            cores: read_cores(params)?,
            memory: read_memory(params)?,
            disks: disks.clone(),
            auto_start,
            system: String::new(),
            monitor_port: 0,
            monitor_secret: Secret::default(),
            storage_mode: 0,
            storage_pool: String::new(),
            storage_volumes: Vec::new(),
            network_mode: 1,
            network_source: String::new(),
            hardware_address: String::new(),
            ports: Vec::new(),
            auth_user: read_admin(params, modules.cloud_init)?,
            auth_secret: read_secret(params, modules.cloud_init)?,
            system_version: String::new(),
            initialized: false,
            root_login_enabled: root_login == 1,
            data_path: read_data_path(params, modules.cloud_init)?,
            qemu_available: modules.qemu,
            cloud_init_available: modules.cloud_init,
            boot_image: String::new(),
            create_time: String::new(),
            address_allocation: AddressMode::None,
            internal_address: internal_address.clone(),
            external_address: external_address.clone(),
            cpu_priority: read_priority(params)?,
            write_speed,
            write_iops,
            read_speed,
            read_iops,
            receive_speed,
            send_speed,
            template: read_template(params)?,
            security: read_policy(params)?,
            media: None,
            unfinished: image.is_some(),
            extra: Extra::default(),
        };
        Ok(Self { id, name, auto_start, disks, internal_address, external_address, image, rest })
    }

    /// The guest's configuration without what is assigned to it here: port, password, MAC, volumes, time.
    pub(super) fn config(&self) -> GuestConfig {
        self.rest.clone()
    }
}

/// `<group>.<name>` of letters, digits, `_` and `-`: it becomes the libvirt domain's name.
pub(in crate::txn::handlers) fn read_name(params: Params<'_>) -> Result<String, Failure> {
    let name = params.string(Key::Name)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        let shown: String = name.chars().take(60).collect();
        return Err(params.bad(Key::Name, format!("is {shown:?}: 1 to 200 letters, digits, '_', '-' and '.' are expected")));
    }
    Ok(name.to_owned())
}

pub(in crate::txn::handlers) fn read_cores(params: Params<'_>) -> Result<u32, Failure> {
    let cores = params.uint(Key::Core)?;
    match u32::try_from(cores) {
        Ok(cores) if (1..=4096).contains(&cores) => Ok(cores),
        _ => Err(params.bad(Key::Core, format!("is {cores}: 1 to 4096 virtual CPUs are expected"))),
    }
}

pub(in crate::txn::handlers) fn read_memory(params: Params<'_>) -> Result<u64, Failure> {
    let memory = params.uint(Key::Memory)?;
    if !(LEAST_MEMORY..=1 << 50).contains(&memory) {
        return Err(params.bad(Key::Memory, format!("is {memory}: bytes are expected, at least {LEAST_MEMORY}")));
    }
    Ok(memory)
}

fn read_disks(params: Params<'_>) -> Result<Vec<u64>, Failure> {
    let disks = params.uints(Key::Disk)?;
    if disks.is_empty() || disks.len() > MOST_DISKS {
        return Err(params.bad(Key::Disk, format!("lists {} disks: 1 to {MOST_DISKS} are expected", disks.len())));
    }
    if let Some(size) = disks.iter().find(|size| !(LEAST_DISK..=1 << 60).contains(size)) {
        return Err(params.bad(Key::Disk, format!("has a disk of {size} bytes: at least {LEAST_DISK} are expected")));
    }
    Ok(disks.to_vec())
}

/// The image that the system disk is to hold.
fn read_image(params: Params<'_>, disks: &[u64]) -> Result<ImageLocation, Failure> {
    let image = image::read_source(params)?;
    image::check_size(&image, disks.first().copied().unwrap_or_default())?;
    Ok(image)
}

fn read_addresses(params: Params<'_>) -> Result<[String; 2], Failure> {
    let Some(list) = params.optional_strings(Key::Address) else {
        return Ok([String::new(), String::new()]);
    };
    let [internal, external] = list else {
        return Err(params.bad(Key::Address, format!("has {} values, 2 (internal, external) are expected", list.len())));
    };
    for address in [internal, external] {
        if !address.is_empty() && !is_cidr(address) {
            return Err(params.bad(Key::Address, format!("has {address:?}: an address such as 10.0.0.5/24 is expected")));
        }
    }
    Ok([internal.clone(), external.clone()])
}

/// What DHCP and cloud-init can give to the guest: without a length of the prefix neither would.
fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<Ipv4Addr>().is_ok_and(|address| !address.is_unspecified()) && prefix.parse::<u8>().is_ok_and(|bits| bits <= 32)
    })
}

/// Only a bridged network and the storage mode that the Core always sends exist (contract §6.2).
fn check_modes(params: Params<'_>) -> Result<(), Failure> {
    match params.exact_uints::<2>(Key::Mode)? {
        [1, 0] => Ok(()),
        [1, storage] => Err(params.bad(Key::Mode, format!("asks for storage mode {storage}: only 0 is supported"))),
        [network, _] => Err(params.bad(Key::Mode, format!("asks for network mode {network}: only 1 (bridge) is supported"))),
    }
}

/// What is to be in the guest.
struct Modules {
    /// The guest agent.
    qemu: bool,
    /// Account, password and data disks are set up by cloud-init.
    cloud_init: bool,
}

fn read_modules(params: Params<'_>) -> Result<Modules, Failure> {
    let mut modules = Modules { qemu: false, cloud_init: false };
    for module in params.optional_strings(Key::Module).unwrap_or_default() {
        match module.as_str() {
            "qemu" => modules.qemu = true,
            "cloud-init" => modules.cloud_init = true,
            other => return Err(params.bad(Key::Module, format!("has {other:?}: \"qemu\" and \"cloud-init\" are expected"))),
        }
    }
    Ok(modules)
}

/// Account of the administrator; cloud-init has to be able to make it.
fn read_admin(params: Params<'_>, cloud_init: bool) -> Result<String, Failure> {
    let admin = params.string(Key::Admin)?;
    if cloud_init && !admin.is_empty() && !cloudinit::is_account(admin) {
        let shown: String = admin.chars().take(60).collect();
        return Err(params.bad(Key::Admin, format!("is {shown:?}: the name of an account without spaces, ':' and the like is expected")));
    }
    Ok(admin.to_owned())
}

/// Password of the administrator: with cloud-init "" asks for a generated one; it ends up in a line of its own in the guest.
fn read_secret(params: Params<'_>, cloud_init: bool) -> Result<Secret, Failure> {
    if !cloud_init {
        return Ok(Secret::new(params.optional_string(Key::Secret).unwrap_or_default()));
    }
    let secret = params.string(Key::Secret)?;
    if secret.is_empty() {
        return secrets::password(secrets::ADMIN_SECRET_LENGTH);
    }
    if secret.len() > MOST_SECRET || secret.chars().any(char::is_control) {
        return Err(params.bad(Key::Secret, format!("is no password: at most {MOST_SECRET} bytes without control characters are expected")));
    }
    Ok(Secret::new(secret))
}

/// Where cloud-init mounts the data disks.
fn read_data_path(params: Params<'_>, cloud_init: bool) -> Result<String, Failure> {
    if !cloud_init {
        return Ok(String::new());
    }
    let path = params.string(Key::Path)?;
    if path.is_empty() {
        return Ok(cloudinit::DATA_PATH.to_owned());
    }
    let bad = path.chars().any(char::is_control) || path.split('/').any(|part| part == "..") || path.trim_end_matches('/').is_empty();
    if !path.starts_with('/') || path.len() > MOST_PATH || bad {
        let shown: String = path.chars().take(60).collect();
        return Err(
            params.bad(Key::Path, format!("is {shown:?}: the absolute path of a directory in the guest is expected, such as /opt/data"))
        );
    }
    Ok(path.to_owned())
}

fn read_priority(params: Params<'_>) -> Result<u32, Failure> {
    match params.optional_uint(Key::Priority).unwrap_or(0) {
        0 => Ok(0),
        1 => Ok(1),
        2 => Ok(2),
        other => Err(params.bad(Key::Priority, format!("is {other}: 0 (high), 1 (medium) or 2 (low) is expected"))),
    }
}

fn read_template(params: Params<'_>) -> Result<Template, Failure> {
    let [system, disk, network, display, control, usb, tablet] = params.exact_uints::<7>(Key::Template)?;
    let word = |what: &str, words: &[&str], number: u64| {
        let found = usize::try_from(number).ok().and_then(|index| words.get(index));
        found.map(|word| (*word).to_owned()).ok_or_else(|| {
            params.bad(Key::Template, format!("has {what} {number}: 0 to {} are expected ({})", words.len() - 1, words.join(", ")))
        })
    };
    Ok(Template {
        operating_system: word("operating system", &["linux", "windows"], system)?,
        disk: word("disk bus", &["scsi", "sata", "ide"], disk)?,
        network: word("network model", &["virtio", "e1000", "rtl8139"], network)?,
        display: word("display", &["vga", "cirrus", "virtio", "qxl", "none"], display)?,
        control: word("remote control", &["vnc", "spice"], control)?,
        usb: word("usb", &["", "nec-xhci"], usb)?,
        tablet: word("tablet", &["", "usb", "virtio"], tablet)?,
    })
}

fn read_policy(params: Params<'_>) -> Result<Option<SecurityPolicy>, Failure> {
    let Some(list) = params.optional_uints(Key::Policy) else {
        return Ok(None);
    };
    let accept = params.bool(Key::Action)?;
    let rules = list.chunks(5).map(|rule| read_rule(params, rule)).collect::<Result<_, _>>()?;
    Ok(Some(SecurityPolicy { accept, rules }))
}

fn read_rule(params: Params<'_>, rule: &[u64]) -> Result<Rule, Failure> {
    let bad = |problem: String| params.bad(Key::Policy, problem);
    let [action, protocol, source, target, port] = rule else {
        return Err(bad("has a length that is no multiple of 5".into()));
    };
    let accept = match action {
        0 => true,
        1 => false,
        other => return Err(bad(format!("has action {other}: 0 (accept) or 1 (reject) is expected"))),
    };
    let protocol =
        Protocol::from_wire(*protocol).ok_or_else(|| bad(format!("has protocol {protocol}: 0 (tcp), 1 (udp) or 2 (icmp) is expected")))?;
    let address =
        |number: u64| rule_address_from_wire(number).ok_or_else(|| bad(format!("has {number}, which is no IPv4 address as a number")));
    let target_port = u16::try_from(*port).map_err(|_| bad(format!("has port {port}: 0 to 65535 are expected")))?;
    Ok(Rule { accept, protocol, source_address: address(*source)?, target_address: address(*target)?, target_port, interface: 0 })
}
