//! A Cell for tests: the real protocol on the Cell's side, and answers that the test chooses.
#![allow(dead_code)] // each suite uses its part of it

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use cell::proto::peer::{Peer, PeerConfig, PeerEvent, Role, Timing};
use cell::proto::transport::TransportConfig;
use corelet::{Core, CoreConfig};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longer than anything in these tests takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

enum Order {
    Send(Box<Message>),
    Close,
}

/// A connected Cell.
pub(crate) struct FakeCell {
    orders: mpsc::UnboundedSender<Order>,
    received: Arc<Mutex<Vec<Message>>>,
    task: JoinHandle<()>,
}

impl FakeCell {
    /// Connects to a Core under this name; `answer` gives what the Cell sends upon each message.
    pub(crate) async fn connect(core: SocketAddrV4, name: &str, answer: impl FnMut(&Message) -> Vec<Message> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(core).await.unwrap();
        let config = PeerConfig { role: Role::Cell, name: name.into(), timing: Timing::CELL };
        let conv = u32::from(socket.local_addr().unwrap().port());
        let peer = Peer::new(Duration::ZERO, config, TransportConfig::new(conv));
        let (orders, inbox) = mpsc::unbounded_channel();
        let received = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(run(peer, socket, inbox, received.clone(), answer));
        Self { orders, received, task }
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: Message) {
        self.orders.send(Order::Send(Box::new(message))).unwrap();
    }

    /// Every message that came so far.
    pub(crate) fn received(&self) -> Vec<Message> {
        self.received.lock().unwrap().clone()
    }

    /// Says "closed" and ends.
    pub(crate) async fn leave(self) {
        self.orders.send(Order::Close).unwrap();
        self.task.await.unwrap();
    }

    /// Waits until the Core ended the connection.
    pub(crate) async fn ended(self) {
        self.task.await.unwrap();
    }

    /// Ends without a word.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

async fn run(
    mut peer: Peer,
    socket: UdpSocket,
    mut orders: mpsc::UnboundedReceiver<Order>,
    received: Arc<Mutex<Vec<Message>>>,
    mut answer: impl FnMut(&Message) -> Vec<Message>,
) {
    let epoch = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        let now = epoch.elapsed();
        peer.handle_timeout(now);
        while let Some(event) = peer.poll_event() {
            if let PeerEvent::Message(message) = event {
                let answers = answer(&message);
                received.lock().unwrap().push(message);
                for message in answers {
                    peer.send(&message).unwrap();
                }
            }
        }
        while let Some(datagram) = peer.poll_transmit(epoch.elapsed()) {
            let _ = socket.send(&datagram).await;
        }
        if peer.is_finished() {
            return;
        }
        let deadline = epoch + peer.next_timeout().unwrap_or(Duration::from_secs(1));
        tokio::select! {
            length = socket.recv(&mut buffer) => {
                if let Ok(length) = length {
                    peer.receive(epoch.elapsed(), &buffer[..length]).unwrap();
                }
            }
            order = orders.recv(), if peer.is_open() => match order {
                Some(Order::Send(message)) => peer.send(&message).unwrap(),
                Some(Order::Close) | None => peer.close(epoch.elapsed(), Timing::FLUSH),
            },
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// A Core on loopback without discovery.
pub(crate) async fn core_with(change: impl FnOnce(&mut CoreConfig)) -> Core {
    let mut config = CoreConfig::new(Ipv4Addr::LOCALHOST);
    config.discovery = false;
    config.ports = 0..=0;
    change(&mut config);
    Core::start(config).await.unwrap()
}

/// The answer of a Cell without guests to its pool.
pub(crate) fn empty_ready(request: &Message) -> Message {
    Message::new(MessageId::COMPUTE_CELL_READY_EVENT).succeeded().from_session(2).to_session(request.from).uint(Key::Count, 0)
}

/// A successful answer without data.
pub(crate) fn success(request: &Message) -> Message {
    Message::new(request.id.response()).succeeded().from_session(3).to_session(request.from)
}

/// Answers the pool and leaves everything else to `others`.
pub(crate) fn joining(mut others: impl FnMut(&Message) -> Vec<Message>) -> impl FnMut(&Message) -> Vec<Message> {
    move |message| match message.id {
        MessageId::COMPUTE_POOL_READY_EVENT => vec![empty_ready(message)],
        _ => others(message),
    }
}

/// A message about a guest.
pub(crate) fn instance(id: MessageId, guest: GuestId) -> Message {
    Message::new(id).string(Key::Instance, guest.to_string())
}

/// The guest that a message is about.
pub(crate) fn guest_of(message: &Message) -> GuestId {
    message.string_params[&Key::Instance].parse().unwrap()
}

fn created(guest: GuestId) -> Message {
    instance(MessageId::GUEST_CREATED_EVENT, guest)
        .uint(Key::Monitor, 5901)
        .string(Key::Secret, "secret")
        .string(Key::Hardware, "00:16:3e:00:00:01")
}

/// Does at once what it is asked for.
pub(crate) fn obedient(message: &Message) -> Vec<Message> {
    let guest = || guest_of(message);
    match message.id {
        MessageId::CREATE_GUEST_REQUEST => {
            vec![success(message).string(Key::Instance, guest().to_string()).bool(Key::Enable, false), created(guest())]
        }
        MessageId::START_INSTANCE_REQUEST => vec![success(message), instance(MessageId::GUEST_STARTED_EVENT, guest())],
        MessageId::STOP_INSTANCE_REQUEST => vec![success(message), instance(MessageId::GUEST_STOPPED_EVENT, guest())],
        MessageId::DELETE_GUEST_REQUEST => vec![success(message), instance(MessageId::GUEST_DELETED_EVENT, guest())],
        MessageId::GET_GUEST_REQUEST => vec![description(message)],
        MessageId::GET_INSTANCE_STATUS_REQUEST => {
            let answer = description(message).bool(Key::Media, false).float(Key::Usage, 1.5);
            vec![answer.uints(Key::Available, [1, 2]).uints(Key::IO, [1, 2, 3, 4])]
        }
        MessageId::QUERY_CELL_STORAGE_REQUEST => {
            let paths = || vec!["/var/lib/libvirt/images".to_owned()];
            vec![success(message).uint(Key::Mode, 0).strings(Key::System, paths()).strings(Key::Data, paths())]
        }
        MessageId::GET_COMPUTE_POOL_CELL_REQUEST => {
            vec![success(message).strings(Key::Storage, []).strings(Key::Error, []).uints(Key::Attach, [])]
        }
        _ => vec![Message::new(message.id.response()).to_session(message.from).failed("not understood")],
    }
}

/// The configuration of a guest, as the captured reference answers it.
fn description(request: &Message) -> Message {
    let texts = [(Key::Name, "manager.one"), (Key::User, "admin"), (Key::Group, "manager"), (Key::Secret, "secret")];
    let numbers = [(Key::Core, 1), (Key::Memory, 1 << 28), (Key::Status, 0), (Key::Monitor, 5901), (Key::Priority, 1)];
    let message = success(request).string(Key::Instance, guest_of(request).to_string()).bool(Key::Enable, true);
    let message = texts.into_iter().fold(message, |message, (key, text)| message.string(key, text));
    let message = numbers.into_iter().fold(message, |message, (key, number)| message.uint(key, number));
    message.uints(Key::Disk, [1 << 30]).uints(Key::Option, [0]).uints(Key::Limit, [0; 6])
}
