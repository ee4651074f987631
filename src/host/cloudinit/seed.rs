//! The seed image: what cloud-init finds in the guest's second drive (contract §9.1).
//!
//! Normally it only says where this node's server is. A guest that gets its address from cloud-init can't ask a server before it has one: its image
//! carries the network configuration itself, and user-data that includes the server's. The image names this node's address, so it is made anew
//! when that changes or the guest came from another node (§14 D22); the same input gives the same bytes, so a comparison tells.

use std::net::Ipv4Addr;

use serde_json::json;

use super::documents::{identity, network_config};
use super::iso::{self, File};
use super::{yaml, PORT};
use crate::host::PoolNetwork;
use crate::model::{GuestConfig, GuestId};

/// Volume id by which cloud-init knows a seed.
const VOLUME: &str = "cidata";

/// Name of the image in the pool's directory.
pub fn file_name(id: GuestId) -> String {
    format!("{id}_ci.iso")
}

/// The image for a guest of the node with this address.
pub fn image(guest: &GuestConfig, pool: &PoolNetwork, node: Ipv4Addr) -> Vec<u8> {
    let server = format!("http://{node}:{PORT}/latest/{}/", guest.id);
    // Without an assigned address there is nothing to configure: such a guest has to find the server by other means.
    let network = network_config(guest, pool).unwrap_or_default();
    if network.is_empty() {
        let meta_data = yaml::document(&yaml::mapping(json!({ "dsmode": "net", "seedfrom": server })));
        return image_of(&meta_data, "", "");
    }
    let mut meta_data = identity(guest);
    meta_data.insert("dsmode".into(), "net".into());
    image_of(&yaml::document(&meta_data), &format!("#include-once\n{server}user-data\n"), &network)
}

fn image_of(meta_data: &str, user_data: &str, network_config: &str) -> Vec<u8> {
    let mut files =
        vec![File { name: "meta-data", content: meta_data.as_bytes() }, File { name: "user-data", content: user_data.as_bytes() }];
    if !network_config.is_empty() {
        files.push(File { name: "network-config", content: network_config.as_bytes() });
    }
    iso::image(VOLUME, &files)
}
