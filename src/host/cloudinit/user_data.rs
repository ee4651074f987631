//! The cloud configuration of a Linux guest (contract §9.1): accounts, ssh, disks.

use serde_json::{json, Value};

use super::{hostname, password, yaml, DocumentError, DATA_PATH};
use crate::model::GuestConfig;

/// Finds the guest's blank data disks and mounts them; run at each boot, does its work once.
const DATA_DISKS: &str = include_str!("scripts/data-disks.sh");
/// Grows the root volume where the root is on LVM, which growpart leaves alone.
const ROOT_VOLUME: &str = include_str!("scripts/root-volume.sh");
/// Lets root in over ssh.
const ROOT_LOGIN: &str = include_str!("scripts/root-login.sh");
/// Makes the account an administrator in the way of its distribution.
const ADMINISTRATOR: &str = include_str!("scripts/administrator.sh");

/// The account that a template without one has.
const ROOT: &str = "root";

/// The `#cloud-config` document.
pub(super) fn cloud_config(guest: &GuestConfig) -> Result<String, DocumentError> {
    let system = guest.operating_system();
    if system != "linux" {
        return Err(DocumentError::NotLinux {
            name: guest.name.clone(),
            system: if system.is_empty() { "an unknown system".into() } else { system.into() },
        });
    }
    let admin = if guest.auth_user.is_empty() { ROOT } else { guest.auth_user.as_str() };
    if !is_account(admin) {
        return Err(DocumentError::BadAdmin { name: guest.name.clone(), user: admin.to_owned() });
    }
    let hash = password::hash(guest.auth_secret.reveal()).map_err(|reason| DocumentError::Hash { name: guest.name.clone(), reason })?;
    let hostname = hostname(guest);
    let mut config = yaml::mapping(json!({
        "hostname": hostname,
        "fqdn": hostname,
        "preserve_hostname": false,
        "manage_etc_hosts": "localhost",
        "disable_root": !guest.root_login_enabled,
        "ssh_pwauth": true,
        // A hash is told from a password by its form. Newer releases would rather have `users` here, which older ones don't know.
        "chpasswd": { "expire": false, "list": [format!("{admin}:{hash}")] },
        "growpart": { "mode": "auto", "devices": ["/"], "ignore_growroot_disabled": false },
        "resize_rootfs": true,
    }));
    let mut runcmd = vec![script(ROOT_VOLUME, "root-volume", &[])];
    if admin != ROOT {
        config.insert("users".into(), json!([{ "name": admin, "passwd": hash, "lock_passwd": false, "sudo": "ALL=(ALL) ALL" }]));
        runcmd.push(script(ADMINISTRATOR, "administrator", &[admin]));
    }
    if guest.root_login_enabled {
        runcmd.push(script(ROOT_LOGIN, "root-login", &[]));
    }
    if let Some(disks) = guest.disks.len().checked_sub(1).filter(|disks| *disks > 0) {
        let path = if guest.data_path.is_empty() { DATA_PATH } else { guest.data_path.as_str() };
        config.insert("bootcmd".into(), json!([script(DATA_DISKS, "data-disks", &[&disks.to_string(), path])]));
    }
    config.insert("runcmd".into(), runcmd.into());
    Ok(format!("#cloud-config\n{}", yaml::document(&config)))
}

/// A command for cloud-init that runs a script; what comes from outside goes in as arguments and is never part of the text.
fn script(text: &str, name: &str, arguments: &[&str]) -> Value {
    ["sh", "-c", text, name].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>().into()
}

/// True for what useradd and `chpasswd` can take: no separators of their files, no option.
pub fn is_account(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_');
    first
        && name.chars().count() <= 32
        && name.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',' | '/' | '"' | '\\'))
}
