//! A guest: its persistent configuration and what is known of it right now.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{is_default, null_default, null_when_empty, AddressMode, Extra, GuestId, Secret, SecurityPolicy};

/// One guest object of `data/instance.data` and of `<id>.meta` (contract §8.2). Sizes are bytes, speeds bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// `<group>.<name>`; also the libvirt domain name.
    pub name: String,
    /// Chosen by the Core.
    pub id: GuestId,
    /// Owner.
    #[serde(default)]
    pub user: String,
    /// Owner's group.
    #[serde(default)]
    pub group: String,
    /// Virtual CPUs.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Virtual size of each disk in bytes, system disk first.
    #[serde(default, deserialize_with = "null_default", serialize_with = "null_when_empty")]
    pub disks: Vec<u64>,
    /// Started with the host.
    #[serde(default)]
    pub auto_start: bool,
    /// Operating system of a guest from before templates existed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// TCP port of VNC or SPICE.
    pub monitor_port: u16,
    /// Password of VNC or SPICE (8 characters: the VNC protocol uses no more).
    #[serde(default)]
    pub monitor_secret: Secret,
    /// Always 0 (local), also for volumes in an NFS pool (contract §6.2).
    #[serde(default)]
    pub storage_mode: u32,
    /// libvirt pool of the volumes.
    #[serde(default)]
    pub storage_pool: String,
    /// Volume names, system disk first.
    #[serde(default, deserialize_with = "null_default", serialize_with = "null_when_empty")]
    pub storage_volumes: Vec<String>,
    /// Always 1 (bridge).
    #[serde(default)]
    pub network_mode: u32,
    /// Bridge of the interface.
    #[serde(default)]
    pub network_source: String,
    /// MAC address, lower case with colons.
    #[serde(default)]
    pub hardware_address: String,
    /// Not used; kept as it was found.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u64>,
    /// Administrator's account in the guest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth_user: String,
    /// Administrator's password in the guest.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub auth_secret: Secret,
    /// Not used; kept as it was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system_version: String,
    /// cloud-init's user-data was delivered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub initialized: bool,
    /// root may log in over ssh.
    #[serde(default, skip_serializing_if = "is_default")]
    pub root_login_enabled: bool,
    /// Where the guest mounts its data disks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data_path: String,
    /// The module "qemu" (guest agent) was asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qemu_available: bool,
    /// The module "cloud-init" was asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cloud_init_available: bool,
    /// Path of the cloud-init ISO.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_image: String,
    /// `YYYY-MM-DD HH:MM:SS`, local time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub create_time: String,
    /// How the guest gets its address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address_allocation: AddressMode,
    /// Assigned address in CIDR form, "" when none; always written.
    #[serde(default)]
    pub internal_address: String,
    /// Assigned outside address, "" when none; always written.
    #[serde(default)]
    pub external_address: String,
    /// CPU priority: 0 high, 1 medium, 2 low.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu_priority: u32,
    /// 0 = unlimited; bytes per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_speed: u64,
    /// 0 = unlimited; operations per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_iops: u64,
    /// 0 = unlimited; bytes per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_speed: u64,
    /// 0 = unlimited; operations per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_iops: u64,
    /// 0 = unlimited; bytes per second into the guest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub receive_speed: u64,
    /// 0 = unlimited; bytes per second out of the guest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub send_speed: u64,
    /// Hardware template; always written (the reference needs it to start).
    #[serde(default, deserialize_with = "null_default")]
    pub template: Template,
    /// Absent = never configured, everything accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<SecurityPolicy>,
    /// Its system disk is not complete: a start of the service that finds this takes the guest back. Not of the reference, which passes it over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unfinished: bool,
    /// What is in the CD drive while it runs. The reference does not know this key and forgets what it stands for (contract §14 D2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// Keys that this version does not know; kept as they were found.
    #[serde(flatten)]
    pub extra: Extra,
}

impl GuestConfig {
    /// The six limits in the order of the wire: read B/s, write B/s, read IOPS, write IOPS, receive B/s, send B/s (contract §15).
    pub fn limits(&self) -> [u64; 6] {
        [self.read_speed, self.write_speed, self.read_iops, self.write_iops, self.receive_speed, self.send_speed]
    }

    /// The security policy; a guest that never had one accepts everything.
    pub fn policy(&self) -> SecurityPolicy {
        self.security.clone().unwrap_or(SecurityPolicy { accept: true, rules: Vec::new() })
    }

    /// The administrator's account: the stored one, else the usual one of the guest's system (contract §8.2).
    pub fn administrator(&self) -> &str {
        match self.auth_user.as_str() {
            "" if self.operating_system() == "windows" => "Administrator",
            "" => "root",
            user => user,
        }
    }

    /// What Core shows as the guest's system: the template's, else the legacy text.
    pub fn operating_system(&self) -> &str {
        if self.template.operating_system.is_empty() {
            &self.system
        } else {
            &self.template.operating_system
        }
    }
}

/// A CD or DVD image in a guest's drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// Id on the image server.
    pub id: String,
    /// File of this host that was made of it.
    pub file: String,
}

/// Hardware of a guest (contract §8.2); the words are libvirt's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Template {
    /// "linux" or "windows".
    pub operating_system: String,
    /// Disk bus: "scsi", "sata" or "ide".
    pub disk: String,
    /// Interface model: "virtio", "e1000" or "rtl8139".
    pub network: String,
    /// Video model: "vga", "cirrus", "virtio", "qxl" or "none".
    pub display: String,
    /// "vnc" or "spice".
    pub control: String,
    /// "nec-xhci", or "" for libvirt's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub usb: String,
    /// "usb", "virtio" or "" for none; a template that is there but does not name one means none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tablet: String,
}

impl Default for Template {
    /// What the reference uses for a guest without one.
    fn default() -> Self {
        Self {
            operating_system: "linux".into(),
            disk: "scsi".into(),
            network: "virtio".into(),
            display: "vga".into(),
            control: "vnc".into(),
            usb: String::new(),
            tablet: "usb".into(),
        }
    }
}

/// Whether a guest runs, as far as libvirt has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// No QEMU process.
    Stopped,
    /// A QEMU process exists; it may be paused.
    Running,
    /// libvirt has no such domain any more; nothing can be done with the guest but to delete it.
    Lost,
}

/// A guest as the node knows it: configuration plus what is not written to disk.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Persistent part. Replaced as a whole on a change, so that readers keep a consistent view.
    pub config: Arc<GuestConfig>,
    /// False while its system disk is being filled.
    pub created: bool,
    /// 0..=100 while not created.
    pub progress: u32,
    /// Last known power state.
    pub power: PowerState,
    /// Address that the guest was seen to use.
    pub address: Option<Ipv4Addr>,
}

impl Guest {
    /// A stopped guest, created unless its configuration says that it is unfinished.
    pub fn new(config: impl Into<Arc<GuestConfig>>) -> Self {
        let config = config.into();
        Self { created: !config.unfinished, config, progress: 0, power: PowerState::Stopped, address: None }
    }
}
