//! Drivers on loopback. Multicast needs namespaces of its own; here the Core's address is fixed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{domain, DomainConfig, DomainEvent, DomainHandle, Interface, Listener, ListenerConfig, ListenerHandle, NetError, SendError};
use crate::proto::hub::{HubConfig, HubEvent};
use crate::proto::member::LinkStatus;
use crate::proto::message::{Key, Message, MessageId};

/// Far beyond what anything here takes; a test that waits so long has failed.
const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "Cell_020000000001";

struct Core {
    address: SocketAddrV4,
    handle: ListenerHandle,
    events: mpsc::Receiver<HubEvent>,
    task: JoinHandle<()>,
}

impl Core {
    /// A Core on loopback at this port, 0 for any.
    fn start(port: u16) -> Self {
        let config =
            ListenerConfig { address: Ipv4Addr::LOCALHOST, ports: port..=port, discovery: None, hub: HubConfig::new("Core_020000000002") };
        let (listener, handle, events) = Listener::bind(config).unwrap();
        let address = listener.address();
        Self { address, handle, events, task: tokio::spawn(listener.run()) }
    }

    async fn next(&mut self) -> HubEvent {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("a living listener")
    }
}

struct Cell {
    handle: DomainHandle,
    events: mpsc::Receiver<DomainEvent>,
    task: JoinHandle<Result<(), getrandom::Error>>,
}

impl Cell {
    fn start(core_address: SocketAddrV4) -> Self {
        let (driver, handle, events) = domain(DomainConfig {
            group: Ipv4Addr::new(224, 0, 0, 226),
            port: 5599,
            domain: "nano".into(),
            interface: "lo".into(),
            name: NAME.into(),
            core_address: Some(core_address),
            core_name: None,
            unclean: false,
        });
        Self { handle, events, task: tokio::spawn(driver.run()) }
    }

    async fn next(&mut self) -> DomainEvent {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("a living driver")
    }

    async fn joined(&mut self) -> u64 {
        match self.next().await {
            DomainEvent::Joined { link, .. } => link,
            other => panic!("expected to join: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_is_answered_and_leaving_is_graceful() {
    let mut core = Core::start(0);
    let mut cell = Cell::start(core.address);
    let DomainEvent::Joined { link, core_name, core_address, local_address } = cell.next().await else {
        panic!("joined first");
    };
    assert_eq!((core_name.as_str(), core_address), ("Core_020000000002", core.address));
    assert_eq!(*local_address.ip(), Ipv4Addr::LOCALHOST);
    let HubEvent::Connected { name, remote, .. } = core.next().await else { panic!("connected first") };
    assert_eq!((name.as_str(), remote), (NAME, local_address));
    assert!(matches!(cell.handle.status().borrow().link, LinkStatus::Joined { lost: false, .. }));

    let request = Message::new(MessageId::GET_GUEST_REQUEST).from_session(7).string(Key::Instance, "x".repeat(5000));
    core.handle.send(NAME, request.clone()).unwrap();
    assert_eq!(cell.next().await, DomainEvent::Request { link, message: request });
    let reply = Message::new(MessageId::GET_GUEST_RESPONSE).to_session(7).succeeded();
    let outbound = cell.handle.outbound();
    outbound.send(Some(link + 1), Message::new(MessageId::GET_GUEST_RESPONSE).to_session(8)).unwrap(); // of another connection: dropped
    outbound.send(Some(link), reply.clone()).unwrap();
    assert_eq!(core.next().await, HubEvent::Message { name: NAME.into(), message: reply });

    let farewell = Message::new(MessageId::GUEST_STOPPED_EVENT);
    outbound.send(None, farewell.clone()).unwrap();
    assert!(cell.handle.leave().await);
    assert_eq!(core.next().await, HubEvent::Message { name: NAME.into(), message: farewell });
    assert!(matches!(core.next().await, HubEvent::Disconnected { graceful: true, .. }));
    assert!(matches!(cell.next().await, DomainEvent::Left { .. }));
    cell.task.await.unwrap().unwrap();
    assert_eq!(outbound.send(None, Message::new(MessageId::GUEST_STOPPED_EVENT)), Err(SendError::Ended));
}

#[tokio::test]
async fn a_core_that_is_not_there_yet_is_found_when_it_comes_and_when_it_comes_back() {
    let probe = Core::start(0);
    let address = probe.address;
    probe.handle.close();
    probe.task.await.unwrap();

    let mut cell = Cell::start(address);
    let mut status = cell.handle.status();
    timeout(LIMIT, status.wait_for(|status| matches!(status.link, LinkStatus::Connecting { .. }))).await.unwrap().unwrap();
    let mut core = Core::start(address.port());
    let first = cell.joined().await;
    assert!(matches!(core.next().await, HubEvent::Connected { .. }));

    core.task.abort(); // the Core dies: nothing is said, its port refuses
    let _ = core.task.await;
    assert!(matches!(cell.next().await, DomainEvent::Left { link, .. } if link == first));
    let mut core = Core::start(address.port());
    assert!(cell.joined().await > first);
    assert!(matches!(core.next().await, HubEvent::Connected { .. }));
    assert!(cell.handle.leave().await);
}

#[tokio::test]
async fn a_core_that_closes_says_so() {
    let mut core = Core::start(0);
    let mut cell = Cell::start(core.address);
    let link = cell.joined().await;
    assert!(matches!(core.next().await, HubEvent::Connected { .. }));
    core.handle.close();
    timeout(LIMIT, core.task).await.expect("closes in time").unwrap();
    let left = cell.next().await;
    assert!(matches!(&left, DomainEvent::Left { link: l, reason } if *l == link && reason == "closed by the other end"), "{left:?}");
    assert!(cell.handle.leave().await);
}

#[tokio::test]
async fn ten_thousand_requests_in_a_burst_are_all_answered() {
    const COUNT: usize = 10_000;
    let mut core = Core::start(0);
    let mut cell = Cell::start(core.address);
    let link = cell.joined().await;
    assert!(matches!(core.next().await, HubEvent::Connected { .. }));
    let outbound = cell.handle.outbound();
    let answers = tokio::spawn(async move {
        for _ in 0..COUNT {
            let DomainEvent::Request { message, .. } = cell.next().await else { panic!("only requests") };
            let reply = Message::new(message.id.response()).to_session(message.from).succeeded();
            outbound.send(Some(link), reply).unwrap();
        }
        cell
    });
    let mut seen = vec![false; COUNT];
    let mut sent = 0;
    let mut answered = 0;
    while answered < COUNT {
        while sent < COUNT && sent - answered < 1000 {
            let session = u32::try_from(sent).unwrap();
            core.handle.send(NAME, Message::new(MessageId::GET_GUEST_REQUEST).from_session(session)).unwrap();
            sent += 1;
        }
        let HubEvent::Message { message, .. } = core.next().await else { panic!("only answers") };
        assert!(!std::mem::replace(&mut seen[message.to as usize], true), "answered twice: {}", message.to);
        answered += 1;
    }
    assert!(answers.await.unwrap().handle.leave().await);
}

#[test]
fn interfaces_are_found_as_they_are() {
    let lo = Interface::find("lo").unwrap();
    assert_eq!((lo.index, lo.address), (1, Ipv4Addr::LOCALHOST));
    assert!(matches!(Interface::find("nope0"), Err(NetError::NoInterface(name)) if name == "nope0"));
}

#[tokio::test]
async fn a_missing_interface_is_told_and_does_not_end_the_driver() {
    let (driver, handle, _events) = domain(DomainConfig {
        group: Ipv4Addr::new(224, 0, 0, 226),
        port: 5599,
        domain: "nano".into(),
        interface: "nope0".into(),
        name: NAME.into(),
        core_address: None,
        core_name: None,
        unclean: false,
    });
    let task = tokio::spawn(driver.run());
    let mut status = handle.status();
    let told = timeout(LIMIT, status.wait_for(|status| status.trouble.is_some())).await.unwrap().unwrap().clone();
    assert!(told.trouble.is_some_and(|trouble| trouble.contains("there is no network interface nope0")));
    assert_eq!(told.link, LinkStatus::Searching);
    assert!(handle.leave().await);
    task.await.unwrap().unwrap();
}

/// A stranger with sockets of its own: the kernel drops what does not come from the Core, and garbage that claims to does not matter (the same in the Core's
/// name, with raw sockets, is tests/root/security.rs).
#[tokio::test]
async fn strangers_on_real_sockets_change_nothing() {
    let mut core = Core::start(0);
    let mut cell = Cell::start(core.address);
    let DomainEvent::Joined { link, local_address, .. } = cell.next().await else { panic!("joined first") };
    assert!(matches!(core.next().await, HubEvent::Connected { .. }));
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for number in 0..3000 {
        let mut datagram = vec![0; [0, 1, 8, 40, 1400, 9000][number % 6]];
        random.fill(&mut datagram);
        // The Core gets the same: it listens to anybody.
        for to in [local_address, core.address] {
            let _ = stranger.send_to(&datagram, to).await;
        }
    }
    let request = Message::new(MessageId::GET_GUEST_REQUEST).from_session(7);
    core.handle.send(NAME, request.clone()).unwrap();
    assert_eq!(cell.next().await, DomainEvent::Request { link, message: request });
    assert!(matches!(cell.handle.status().borrow().link, LinkStatus::Joined { lost: false, .. }));
    assert!(cell.handle.leave().await);
}
