//! What cloud-init asks for: meta-data, user-data, network-config (contract §9.1).

use std::net::Ipv4Addr;

use serde_json::{json, Map, Value};

use super::{hostname, user_data, yaml, DocumentError};
use crate::host::PoolNetwork;
use crate::model::{AddressMode, GuestConfig};

/// Name of the interface of a guest that is addressed by cloud-init.
const INTERFACE: &str = "eth0";

/// `meta-data`: who the guest is and, when cloud-init gives it its address, its network.
pub fn meta_data(guest: &GuestConfig, pool: &PoolNetwork) -> Result<String, DocumentError> {
    let mut data = identity(guest);
    if let Some(network) = network(guest, pool)? {
        data.insert("network".into(), network.into());
    }
    Ok(yaml::document(&data))
}

/// Instance id and host name, under the names that old and new readers look for.
pub(super) fn identity(guest: &GuestConfig) -> Map<String, Value> {
    let hostname = hostname(guest);
    yaml::mapping(json!({ "instance-id": guest.id.to_string(), "hostname": hostname, "local-hostname": hostname }))
}

/// `network-config`, version 1; empty when cloud-init does not give the address.
pub fn network_config(guest: &GuestConfig, pool: &PoolNetwork) -> Result<String, DocumentError> {
    Ok(network(guest, pool)?.map(|network| yaml::document(&network)).unwrap_or_default())
}

fn network(guest: &GuestConfig, pool: &PoolNetwork) -> Result<Option<Map<String, Value>>, DocumentError> {
    if guest.address_allocation != AddressMode::CloudInit {
        return Ok(None);
    }
    let address = guest.internal_address.as_str();
    if !is_cidr(address) {
        return Err(DocumentError::NoAddress { name: guest.name.clone(), address: address.to_owned() });
    }
    let mut subnet = yaml::mapping(json!({ "type": "static", "address": address }));
    if let Some(gateway) = pool.gateway {
        subnet.insert("gateway".into(), gateway.to_string().into());
    }
    let mut config = vec![json!({
        "type": "physical", "name": INTERFACE, "mac_address": guest.hardware_address.to_lowercase(), "subnets": [subnet],
    })];
    if !pool.dns.is_empty() {
        config.push(json!({ "type": "nameserver", "address": pool.dns.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>() }));
    }
    Ok(Some(yaml::mapping(json!({ "version": 1, "config": config }))))
}

fn is_cidr(text: &str) -> bool {
    let parts = text.split_once('/').and_then(|(address, prefix)| Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?)));
    parts.is_some_and(|(address, prefix)| !address.is_unspecified() && prefix <= 32)
}

/// `user-data`: the MIME document with one part of cloud configuration. Costs the time of a password hash.
pub fn user_data(guest: &GuestConfig) -> Result<String, DocumentError> {
    let config = user_data::cloud_config(guest)?;
    Ok(mime(&config))
}

fn mime(part: &str) -> String {
    // Base64 or not, a line of the part that looks like the boundary would end it: choose one that it does not have.
    let boundary = (0_u32..).map(|number| format!("==cloud-config-{number}==")).find(|boundary| !part.contains(boundary.as_str()));
    let boundary = boundary.unwrap_or_default();
    format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\n\
         MIME-Version: 1.0\n\
         \n\
         --{boundary}\n\
         Content-Disposition: attachment; filename=\"cloud-config.txt\"\n\
         Content-Transfer-Encoding: {encoding}\n\
         Content-Type: text/cloud-config{charset}\n\
         Mime-Version: 1.0\n\
         \n\
         {part}\n\
         --{boundary}--\n",
        encoding = if part.is_ascii() { "7bit" } else { "8bit" },
        charset = if part.is_ascii() { "" } else { "; charset=\"utf-8\"" },
    )
}
