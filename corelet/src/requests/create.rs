//! The request for a new guest (contract §6.2).

use std::net::Ipv4Addr;

use cell::model::{GuestId, Protocol};
use cell::proto::message::{Key, Message, MessageId};

/// Network mode of every guest: plain (bridge).
const NETWORK_PLAIN: u64 = 1;
/// Storage mode of every guest, also on shared storage (contract §13.13).
const STORAGE_LOCAL: u64 = 0;

/// A guest to be created. The public fields are what a user of a Core chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateGuest {
    /// Full name `<group>.<name>`.
    pub name: String,
    /// Its id.
    pub id: GuestId,
    /// Owner.
    pub owner: String,
    /// Owner's group.
    pub group: String,
    /// Compute pool, as a note; Cells ignore it.
    pub pool: String,
    /// Virtual CPUs.
    pub cores: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk sizes in bytes, system disk first.
    pub disks: Vec<u64>,
    /// Start it once created and with the host.
    pub auto_start: bool,
    /// CPU priority: 0 high, 1 medium, 2 low.
    pub priority: u64,
    /// Read B/s, write B/s, read IOPS, write IOPS, receive B/s, send B/s; 0 = unlimited.
    pub limits: [u64; 6],
    /// Hardware.
    pub template: TemplateNumbers,
    /// Id of the hardware template in the Core; Cells ignore it.
    pub template_id: String,
    /// `qemu`, `cloud-init`.
    pub modules: Vec<String>,
    /// Administrator's account in the guest.
    pub admin: String,
    /// Administrator's password; empty lets the Cell choose.
    pub secret: String,
    /// Where the guest mounts its data disks; empty lets the Cell choose.
    pub data_path: String,
    /// root may log in over ssh.
    pub root_login: bool,
    /// Assigned internal and external address in CIDR form, empty for none.
    pub addresses: [String; 2],
    /// Security rules; without them everything is accepted.
    pub policy: Option<Policy>,
    /// Fill the system disk from this image.
    pub image: Option<ImageSource>,
}

/// A disk image on an image server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSource {
    /// Id on the image server.
    pub id: String,
    /// Address of the image server.
    pub host: String,
    /// Its HTTPS port.
    pub port: u16,
    /// Size of the image in bytes.
    pub size: u64,
}

/// Hardware of a guest in the numbers of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateNumbers {
    /// 0 linux, 1 windows.
    pub system: u64,
    /// 0 scsi, 1 sata, 2 ide.
    pub disk: u64,
    /// 0 virtio, 1 e1000, 2 rtl8139.
    pub network: u64,
    /// 0 vga, 1 cirrus, 2 virtio, 3 qxl, 4 none.
    pub display: u64,
    /// 0 vnc, 1 spice.
    pub control: u64,
    /// 0 none, 1 nec-xhci.
    pub usb: u64,
    /// 0 none, 1 usb, 2 virtio.
    pub tablet: u64,
}

impl Default for TemplateNumbers {
    /// What runs anywhere: SATA disk, rtl8139, VGA, VNC, USB tablet. It is the template of the captured guests.
    fn default() -> Self {
        Self { system: 0, disk: 1, network: 2, display: 0, control: 0, usb: 0, tablet: 1 }
    }
}

impl TemplateNumbers {
    /// From the order of the wire.
    pub fn from_array([system, disk, network, display, control, usb, tablet]: [u64; 7]) -> Self {
        Self { system, disk, network, display, control, usb, tablet }
    }

    /// In the order of the wire.
    pub fn to_array(self) -> [u64; 7] {
        [self.system, self.disk, self.network, self.display, self.control, self.usb, self.tablet]
    }
}

/// Security rules, and what happens to the traffic that none names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Default action.
    pub accept: bool,
    /// Tried in this order.
    pub rules: Vec<PolicyRule>,
}

/// One security rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Accept or reject.
    pub accept: bool,
    /// What it is about.
    pub protocol: Protocol,
    /// Sender, `None` for any.
    pub source: Option<Ipv4Addr>,
    /// Target, `None` for any.
    pub target: Option<Ipv4Addr>,
    /// Target port.
    pub port: u16,
}

impl PolicyRule {
    /// Action, protocol, source, target, port in the numbers of the wire.
    fn to_array(&self) -> [u64; 5] {
        let address = |address: Option<Ipv4Addr>| u64::from(address.map_or(0, u32::from));
        let action = u64::from(!self.accept); // 0 accept, 1 reject
        [action, self.protocol.to_wire(), address(self.source), address(self.target), self.port.into()]
    }
}

impl CreateGuest {
    /// A guest `<group>.<name>` with one core, 256 MiB of memory and one empty disk of so many bytes.
    pub fn blank(name: &str, disk: u64) -> Self {
        let group = name.split_once('.').map_or("manager", |(group, _)| group);
        Self {
            name: name.into(),
            id: GuestId::random(),
            owner: "admin".into(),
            group: group.into(),
            pool: "default".into(),
            cores: 1,
            memory: 256 << 20,
            disks: vec![disk],
            auto_start: false,
            priority: 1,
            limits: [0; 6],
            template: TemplateNumbers::default(),
            template_id: "corelet".into(),
            modules: Vec::new(),
            admin: "root".into(),
            secret: String::new(),
            data_path: String::new(),
            root_login: true,
            addresses: Default::default(),
            policy: None,
            image: None,
        }
    }

    /// The request.
    pub fn to_message(&self) -> Message {
        let mut message = Message::new(MessageId::CREATE_GUEST_REQUEST)
            .string(Key::Name, &self.name)
            .string(Key::Instance, self.id.to_string())
            .string(Key::User, &self.owner)
            .string(Key::Group, &self.group)
            .string(Key::Pool, &self.pool)
            .string(Key::Admin, &self.admin)
            .string(Key::Secret, &self.secret)
            .string(Key::Path, &self.data_path)
            .string(Key::Template, &self.template_id)
            .string(Key::Policy, "")
            .bool(Key::Option, self.auto_start)
            .uint(Key::Core, self.cores)
            .uint(Key::Memory, self.memory)
            .uint(Key::Priority, self.priority)
            .uints(Key::Disk, self.disks.clone())
            .uints(Key::Template, self.template.to_array())
            .uints(Key::Mode, [NETWORK_PLAIN, STORAGE_LOCAL])
            .uints(Key::Flag, [u64::from(self.root_login)])
            .uints(Key::Limit, self.limits)
            .strings(Key::Module, self.modules.clone())
            .strings(Key::Address, self.addresses.to_vec());
        if let Some(policy) = &self.policy {
            let rules: Vec<u64> = policy.rules.iter().flat_map(PolicyRule::to_array).collect();
            message = message.uints(Key::Policy, rules).bool(Key::Action, policy.accept);
        }
        if let Some(image) = &self.image {
            message = message
                .string(Key::Image, &image.id)
                .string(Key::Host, &image.host)
                .uint(Key::Port, image.port.into())
                .uint(Key::Size, image.size);
        }
        message
    }
}
