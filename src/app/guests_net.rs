//! The services that guests see: DHCP, cloud-init documents, and the search for their addresses.

use std::sync::Arc;

use super::supervisor::Supervisor;
use crate::host::cloudinit::server::SeedServer;
use crate::host::network::dhcp::DhcpServer;
use crate::txn::addresses::{detect, GuestNetwork};
use crate::txn::Node;

/// Starts them. None ends by itself; a port that is taken is said and tried again.
pub(super) fn serve(node: &Arc<Node>, tasks: &mut Supervisor) {
    let (network, guests) = (node.host.network.clone(), Arc::new(GuestNetwork::new(node.clone())));
    let dhcp = DhcpServer::new(network.clone(), guests.clone());
    let seeds = SeedServer::new(network, guests);
    let node = node.clone();
    tasks.spawn("the DHCP service", async move {
        dhcp.serve().await;
        Ok::<(), String>(())
    });
    tasks.spawn("the cloud-init server", async move {
        seeds.serve().await;
        Ok::<(), String>(())
    });
    tasks.spawn("the search for guests' addresses", async move {
        detect::run(node).await;
        Ok::<(), String>(())
    });
}
