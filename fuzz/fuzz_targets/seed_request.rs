//! Requests to the cloud-init server from anybody on the bridge: only the guest's own address gets a document with its password.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use async_trait::async_trait;
use cell::host::cloudinit::server::SeedServer;
use cell::host::sim::SimHost;
use cell::host::{Instance, Instances, PoolNetwork};
use cell::model::{GuestConfig, GuestId};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ID: &str = "01010101-0101-0101-0101-010101010101";
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);

#[derive(Arbitrary, Debug)]
enum Request<'a> {
    Raw(&'a [u8]),
    /// A request for something of the guest.
    Path(&'a str, &'a [u8]),
}

struct Guests(Arc<GuestConfig>);

#[async_trait]
impl Instances for Guests {
    fn find(&self, id: GuestId) -> Option<Instance> {
        (id == self.0.id).then(|| Instance { config: self.0.clone(), address: Some(OWN), pool: PoolNetwork::default() })
    }
    async fn delivered(&self, id: GuestId) {
        assert_eq!(id, self.0.id);
    }
    fn refused(&self, _: GuestId, peer: Ipv4Addr) {
        assert_eq!(peer, STRANGER);
    }
    async fn serving(&self, _: Ipv4Addr) {}
}

fn guest() -> GuestConfig {
    let json = serde_json::json!({ "name": "group.vm1", "id": ID, "cores": 1, "memory": 1 << 26, "monitor_port": 5900, "initialized": true,
        "cloud_init_available": true, "template": { "operating_system": "linux" } });
    serde_json::from_value(json).expect("a guest")
}

fuzz_target!(|input: (bool, Request)| {
    let (is_own, request) = input;
    let request = match request {
        Request::Raw(bytes) => bytes.to_vec(),
        Request::Path(document, headers) => {
            [format!("GET /latest/{ID}/{document} HTTP/1.1\r\nHost: x\r\n").as_bytes(), headers, b"\r\n\r\n"].concat()
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let answer = runtime.block_on(async {
        let host = SimHost::new();
        let server = SeedServer::new(host.host().network, Arc::new(Guests(Arc::new(guest()))));
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let client = async {
            let mut answer = Vec::new();
            let _ = theirs.write_all(&request).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut answer).await;
            drop(theirs);
            answer
        };
        let peer = if is_own { OWN } else { STRANGER };
        let both = async { tokio::join!(server.converse(peer, ours), client).1 };
        tokio::time::timeout(Duration::from_secs(120), both).await.expect("a connection has an end")
    });
    let text = String::from_utf8_lossy(&answer);
    assert!(is_own || !text.contains("instance-id"), "a stranger was given a document: {text}");
});
