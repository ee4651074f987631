use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::super::tests::guest;
use super::*;
use crate::host::sim::SimHost;
use crate::host::{Bridge, Instance, Neighbour, PoolNetwork};
use crate::model::{GuestConfig, GuestId};

const OWN: [u8; 6] = [0, 0x16, 0x3e, 1, 2, 3];

static COUNT: AtomicU8 = AtomicU8::new(1);

struct Guests {
    instances: Mutex<HashMap<GuestId, Instance>>,
    delivered: mpsc::UnboundedSender<GuestId>,
    refused: mpsc::UnboundedSender<Ipv4Addr>,
    serving: mpsc::UnboundedSender<Ipv4Addr>,
}

#[async_trait]
impl Instances for Guests {
    fn find(&self, id: GuestId) -> Option<Instance> {
        self.instances.lock().get(&id).cloned()
    }

    async fn delivered(&self, id: GuestId) {
        if let Some(instance) = self.instances.lock().get_mut(&id) {
            Arc::make_mut(&mut instance.config).initialized = true;
        }
        self.delivered.send(id).unwrap();
    }

    fn refused(&self, _: GuestId, peer: Ipv4Addr) {
        self.refused.send(peer).unwrap();
    }

    async fn serving(&self, address: Ipv4Addr) {
        self.serving.send(address).unwrap();
    }
}

/// A server on a loopback address of its own.
struct Rig {
    sim: SimHost,
    address: Ipv4Addr,
    guest: GuestConfig,
    guests: Arc<Guests>,
    delivered: mpsc::UnboundedReceiver<GuestId>,
    refused: mpsc::UnboundedReceiver<Ipv4Addr>,
    serving: mpsc::UnboundedReceiver<Ipv4Addr>,
    _server: JoinSet<()>,
}

impl Rig {
    async fn new() -> Self {
        let address = Ipv4Addr::new(127, 25, COUNT.fetch_add(1, Ordering::Relaxed), 1);
        let sim = SimHost::new();
        sim.set_bridge(bridge(address));
        let guest = guest();
        let instance = Instance { config: Arc::new(guest.clone()), address: None, pool: PoolNetwork::default() };
        let (deliver, delivered) = mpsc::unbounded_channel();
        let (refuse, refused) = mpsc::unbounded_channel();
        let (serve, mut serving) = mpsc::unbounded_channel();
        let guests = Guests { instances: Mutex::new([(guest.id, instance)].into()), delivered: deliver, refused: refuse, serving: serve };
        let guests = Arc::new(guests);
        let mut server = JoinSet::new();
        server.spawn(SeedServer::new(sim.host().network, guests.clone()).serve());
        assert_eq!(serving.recv().await, Some(address));
        let rig = Self { sim, address, guest, guests, delivered, refused, serving, _server: server };
        rig.is_at(rig.own(), OWN);
        rig
    }

    /// Where the guest's requests come from.
    fn own(&self) -> Ipv4Addr {
        self.other(2)
    }

    fn other(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.address.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    fn is_at(&self, address: Ipv4Addr, mac: [u8; 6]) {
        self.sim.set_neighbours(vec![Neighbour { address, mac }]);
    }

    fn path(&self, document: &str) -> String {
        format!("/latest/{}/{document}", self.guest.id)
    }

    async fn connect(&self, from: Ipv4Addr, request: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect((self.address, PORT).into()).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream
    }

    /// Status line and headers, and the body.
    async fn ask(&self, from: Ipv4Addr, request: &str) -> (String, String) {
        let mut answer = String::new();
        self.connect(from, request).await.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, from: Ipv4Addr, document: &str) -> (String, String) {
        self.ask(from, &format!("GET {}", self.path(document))).await
    }
}

fn bridge(address: Ipv4Addr) -> Bridge {
    Bridge { name: "br0".into(), index: 1, mac: [2, 0, 0, 0, 0, 1], address: Some(address) }
}

fn is(head: &str, status: u16) -> bool {
    head.starts_with(&format!("http/1.1 {status} "))
}

#[tokio::test]
async fn a_guest_reads_its_documents_and_user_data_once() {
    let mut rig = Rig::new().await;
    let (head, body) = rig.get(rig.own(), "meta-data").await;
    assert!(is(&head, 200) && head.contains("content-type: text/plain; charset=utf-8"), "{head}");
    assert!(body.contains(&format!("instance-id: \"{}\"", rig.guest.id)), "{body}");
    let (head, body) = rig.get(rig.own(), "user-data").await;
    assert!(is(&head, 200) && body.contains("#cloud-config"), "{head} {body}");
    assert_eq!(rig.delivered.recv().await, Some(rig.guest.id));
    let (head, body) = rig.get(rig.own(), "user-data").await;
    assert!(is(&head, 200) && body.is_empty() && !head.contains("content-type"), "{head} {body}");
    assert!(rig.get(rig.own(), "meta-data").await.1.contains("vm1"), "the rest is given again");
    assert!(rig.delivered.try_recv().is_err(), "delivered once");
}

#[tokio::test]
async fn f1_another_guest_or_host_gets_nothing_and_marks_nothing() {
    let mut rig = Rig::new().await;
    let stranger = rig.other(3);
    rig.is_at(stranger, [0x52, 0x54, 0, 1, 1, 1]);
    for document in ["meta-data", "user-data", "network-config"] {
        let (head, body) = rig.get(stranger, document).await;
        assert!(is(&head, 403), "{head}");
        assert!(!body.contains("vm1") && !body.contains("$6$"), "{body}");
        assert_eq!(rig.refused.recv().await, Some(stranger));
    }
    assert!(rig.delivered.try_recv().is_err());
    // The assigned address is not enough when another MAC answers for it, and enough when the kernel knows none.
    let own = rig.own();
    rig.guests
        .instances
        .lock()
        .values_mut()
        .for_each(|instance| Arc::make_mut(&mut instance.config).internal_address = format!("{own}/24"));
    rig.is_at(own, [0x52, 0x54, 0, 1, 1, 1]);
    assert!(is(&rig.get(own, "meta-data").await.0, 403));
    rig.sim.set_neighbours(Vec::new());
    assert!(is(&rig.get(own, "meta-data").await.0, 200));
    assert!(is(&rig.get(stranger, "meta-data").await.0, 403));
}

#[tokio::test]
async fn paths_are_answered_as_the_contract_says() {
    let rig = Rig::new().await;
    for path in ["/", "/latest/", "/favicon.ico", "/latest/x/y/z", &rig.path("vendor-data"), "//", "/a//meta-data"] {
        let (head, body) = rig.ask(rig.own(), &format!("GET {path}")).await;
        assert!(is(&head, 200) && body.is_empty(), "{path}: {head} {body}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let (head, _) = rig.ask(rig.own(), &format!("{method} {}", rig.path("meta-data"))).await;
        assert!(is(&head, 405) && head.contains("allow: get"), "{head}");
    }
    assert!(is(&rig.ask(rig.own(), &format!("HEAD {}", rig.path("meta-data"))).await.0, 405));
    let (head, _) = rig.get(rig.own(), "meta-data/").await;
    assert!(is(&head, 301) && head.contains(&format!("location: {}", rig.path("meta-data"))), "{head}");
    for id in ["nonsense", "0b5a7c7e-6f5d-4d6a-9f43-000000000000"] {
        let (head, body) = rig.ask(rig.own(), &format!("GET /latest/{id}/user-data")).await;
        assert!(is(&head, 500) && body.contains(id), "{head} {body}");
    }
    let version = format!("GET /2009-04-04/{}/meta-data", rig.guest.id);
    assert!(is(&rig.ask(rig.own(), &version).await.0, 200), "the version does not matter");
}

#[tokio::test]
async fn c15_a_windows_guest_is_told_and_the_server_goes_on() {
    let rig = Rig::new().await;
    rig.guests
        .instances
        .lock()
        .values_mut()
        .for_each(|instance| Arc::make_mut(&mut instance.config).template.operating_system = "windows".into());
    let (head, body) = rig.get(rig.own(), "user-data").await;
    assert!(is(&head, 500) && body.contains("linux guests only"), "{head} {body}");
    assert!(is(&rig.get(rig.own(), "meta-data").await.0, 200));
}

#[tokio::test]
async fn a_guest_that_breaks_off_gets_its_user_data_again() {
    let mut rig = Rig::new().await;
    let broken = rig.connect(rig.own(), &format!("GET {}", rig.path("user-data"))).await;
    broken.readable().await.unwrap();
    // Closed with the answer unread: the connection is reset.
    drop(broken);
    let (_, body) = rig.get(rig.own(), "user-data").await;
    assert!(body.contains("#cloud-config"), "{body}");
    assert_eq!(rig.delivered.recv().await, Some(rig.guest.id));
    assert_eq!(rig.get(rig.own(), "user-data").await.1, "");
    assert!(rig.delivered.try_recv().is_err());
}

#[tokio::test]
async fn d26_the_server_follows_the_bridge() {
    let mut rig = Rig::new().await;
    let before = rig.address;
    rig.address = rig.other(77);
    rig.sim.set_bridge(bridge(rig.address));
    assert_eq!(rig.serving.recv().await, Some(rig.address), "told, so that seed images are renewed");
    assert!(is(&rig.get(rig.own(), "meta-data").await.0, 200));
    assert!(TcpStream::connect((before, PORT)).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_waited_for() {
    let address = Ipv4Addr::new(127, 25, COUNT.fetch_add(1, Ordering::Relaxed), 1);
    let other = TcpListener::bind((address, PORT)).await.unwrap();
    let sim = SimHost::new();
    sim.set_bridge(bridge(address));
    let (sender, mut serving) = mpsc::unbounded_channel();
    let (unused, _unused) = mpsc::unbounded_channel();
    let (never, _never) = mpsc::unbounded_channel();
    let guests = Arc::new(Guests { instances: Mutex::default(), delivered: unused, refused: never, serving: sender });
    let mut server = JoinSet::new();
    server.spawn(SeedServer::new(sim.host().network, guests).serve());
    // The first attempt is made before anything else can happen on this thread's runtime.
    tokio::task::yield_now().await;
    assert!(serving.try_recv().is_err());
    drop(other);
    assert_eq!(serving.recv().await, Some(address));
}
