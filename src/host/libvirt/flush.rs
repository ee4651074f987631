//! What QEMU holds back of a running guest's image is brought to the disk.
//!
//! QEMU keeps tables of an image in memory until its guest flushes, and some guests never do. libvirt has no call that does it for a guest,
//! so QEMU's monitor is asked (seen with QEMU 7.2: a pull changes the header of the image before the tables that say where its data is).

use serde::Deserialize;
use virt::domain::Domain;

use crate::host::{ErrorKind, HostError, Result};
use crate::model::GuestId;

use super::block::{disk_at, live};
use super::connection::Connection;
use super::error::failed;
use super::hypervisor::find_running;

/// Answer of `query-block`.
#[derive(Deserialize)]
struct Devices {
    #[serde(rename = "return")]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    /// Name of the drive, of a QEMU that is given drives and not nodes.
    #[serde(default)]
    device: String,
    /// Name or path of the guest's device.
    #[serde(default)]
    qdev: String,
    inserted: Option<Inserted>,
}

#[derive(Deserialize)]
struct Inserted {
    #[serde(default, rename = "node-name")]
    node: String,
}

/// Answer of `human-monitor-command`: nothing, or what went wrong.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "return")]
    text: String,
}

/// Flushes the disk whose image is at `path`.
pub(super) fn disk(connection: &Connection, id: GuestId, path: &str) -> Result<()> {
    let what = format!("cannot bring to the disk what QEMU holds back of {path} of guest {id}");
    let domain = find_running(connection, id, &what)?;
    let wrong = |why: &str| HostError::new(ErrorKind::Failed, format!("{what}: {why}"));
    let document = live(&domain, &what)?;
    let alias = disk_at(&document, path).and_then(|disk| disk.find(&["alias"])).and_then(|alias| alias.attribute("name"));
    let alias = alias.ok_or_else(|| HostError::new(ErrorKind::NotFound, format!("{what}: it does not use this disk")))?;
    let devices: Devices = ask(&domain, &serde_json::json!({"execute": "query-block"}), &what)?;
    let name = name_of(&devices, alias).ok_or_else(|| wrong(&format!("QEMU names no image of its device {alias}")))?;
    let line = format!("qemu-io {name} flush");
    let command = serde_json::json!({"execute": "human-monitor-command", "arguments": {"command-line": line}});
    let said: Said = ask(&domain, &command, &what)?;
    match said.text.trim() {
        "" => Ok(()),
        text => Err(wrong(text)),
    }
}

fn ask<T: serde::de::DeserializeOwned>(domain: &Domain, command: &serde_json::Value, what: &str) -> Result<T> {
    let answer = domain.qemu_monitor_command(&command.to_string(), 0).map_err(|error| failed(what, &error))?;
    serde_json::from_str(&answer)
        .map_err(|error| HostError::with_source(ErrorKind::Failed, format!("{what}: QEMU's answer can't be read"), error))
}

/// What QEMU calls the image of a device.
fn name_of<'a>(devices: &'a Devices, alias: &str) -> Option<&'a str> {
    let device =
        devices.devices.iter().find(|device| device.qdev.split('/').any(|part| part == alias) || is_drive(&device.device, alias))?;
    let node = device.inserted.as_ref().map(|inserted| inserted.node.as_str());
    [Some(device.device.as_str()), node].into_iter().flatten().find(|name| !name.is_empty())
}

fn is_drive(name: &str, alias: &str) -> bool {
    name.strip_prefix("drive-") == Some(alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(answer: &str, alias: &str) -> Option<String> {
        name_of(&serde_json::from_str(answer).unwrap(), alias).map(str::to_owned)
    }

    #[test]
    fn an_image_is_named_as_its_qemu_names_it() {
        let nodes = r##"{"return": [
            {"device": "", "qdev": "ide0-0-0", "io-status": "ok", "locked": false, "removable": true, "tray_open": false, "type": "unknown"},
            {"device": "", "qdev": "sata0-0-0", "inserted": {"node-name": "libvirt-3-format", "drv": "qcow2"}, "type": "unknown"},
            {"device": "", "qdev": "/machine/peripheral/virtio-disk1/virtio-backend", "inserted": {"node-name": "libvirt-1-format"}}],
            "id": "libvirt-400"}"##;
        assert_eq!(name(nodes, "sata0-0-0").as_deref(), Some("libvirt-3-format"));
        assert_eq!(name(nodes, "virtio-disk1").as_deref(), Some("libvirt-1-format"));
        assert_eq!((name(nodes, "ide0-0-0"), name(nodes, "virtio-disk")), (None, None));
        let drives =
            r##"{"return": [{"device": "drive-virtio-disk0", "inserted": {"node-name": "#block127"}}, {"device": "drive-ide0-0-0"}]}"##;
        assert_eq!(name(drives, "virtio-disk0").as_deref(), Some("drive-virtio-disk0"));
    }
}
