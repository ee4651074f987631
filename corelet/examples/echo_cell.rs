//! A Cell with nothing behind it: it has one guest and answers every request at once. It shows what `corelet bench` itself can drive:
//!
//! ```text
//! corelet --listen 127.0.0.1 --no-discovery --port 5700 bench --guests 1 --running 0 &
//! cargo run --release -p corelet --example echo_cell 127.0.0.1:5700
//! ```

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use cell::model::GuestId;
use cell::proto::kcp::KcpConfig;
use cell::proto::message::{Key, Message, MessageId};
use cell::proto::peer::{Peer, PeerConfig, PeerEvent, Role, Timing};
use cell::proto::transport::TransportConfig;
use tokio::net::UdpSocket;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let core: SocketAddrV4 = std::env::args().nth(1).ok_or("give the Core's address and port")?.parse()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(core).await?;
    let config = PeerConfig { role: Role::Cell, name: "Cell_echo".into(), timing: Timing::CELL };
    let kcp = KcpConfig { send_window: 1024, receive_window: 1024, ..KcpConfig::default() };
    let peer = Peer::new(Duration::ZERO, config, TransportConfig { kcp, ..TransportConfig::new(std::process::id()) });
    serve(peer, socket).await
}

async fn serve(mut peer: Peer, socket: UdpSocket) -> Result<(), Box<dyn Error>> {
    let epoch = Instant::now();
    let guest = GuestId::random();
    let mut buffer = [0; 2048];
    loop {
        peer.handle_timeout(epoch.elapsed());
        while let Some(event) = peer.poll_event() {
            match event {
                PeerEvent::Message(message) => peer.send(&answer(&message, guest))?,
                PeerEvent::Closed(reason) => {
                    println!("{reason}");
                    return Ok(());
                }
                _ => {}
            }
        }
        while let Some(datagram) = peer.poll_transmit(epoch.elapsed()) {
            let _ = socket.send(&datagram).await; // what is lost is sent again
        }
        let deadline = tokio::time::Instant::from_std(epoch + peer.next_timeout().unwrap_or(Duration::from_secs(1)));
        tokio::select! {
            ready = socket.readable() => {
                ready?;
                while let Ok(length) = socket.try_recv(&mut buffer) {
                    peer.receive(epoch.elapsed(), buffer.get(..length).unwrap_or_default())?;
                }
            }
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

fn answer(request: &Message, guest: GuestId) -> Message {
    let id = guest.to_string();
    match request.id {
        MessageId::COMPUTE_POOL_READY_EVENT => ready(id),
        _ => config(request.id.response(), id),
    }
    .succeeded()
    .from_session(1)
    .to_session(request.from)
}

/// One guest, as a Cell lists it.
fn ready(id: String) -> Message {
    let mut message = Message::new(MessageId::COMPUTE_CELL_READY_EVENT).uint(Key::Count, 1).strings(Key::Instance, [id]);
    for key in [Key::User, Key::Group, Key::Secret, Key::Address, Key::System, Key::Create, Key::Internal, Key::External, Key::Hardware] {
        message = message.strings(key, [String::new()]);
    }
    for key in [Key::Core, Key::Option, Key::Progress, Key::Status, Key::Monitor, Key::Memory, Key::Priority] {
        message = message.uints(key, [0]);
    }
    let message = message.strings(Key::Name, ["manager.echo".to_owned()]).uints(Key::Enable, [1]);
    message.uints(Key::Count, [1]).uints(Key::Disk, [1 << 30]).uints(Key::Limit, [0; 6])
}

/// An answer of the usual size.
fn config(response: MessageId, id: String) -> Message {
    let message = Message::new(response).string(Key::Instance, id).bool(Key::Enable, true).bool(Key::Media, false).float(Key::Usage, 0.0);
    let texts = [
        (Key::Name, "manager.echo"),
        (Key::User, "admin"),
        (Key::Group, "manager"),
        (Key::Secret, "abcdefgh"),
        (Key::Address, ""),
        (Key::System, "linux"),
        (Key::Create, "2026-01-01 00:00:00"),
        (Key::Hardware, "00:16:3e:00:00:01"),
    ];
    let message = texts.into_iter().fold(message, |message, (key, text)| message.string(key, text));
    let numbers = [(Key::Core, 1), (Key::Memory, 1 << 30), (Key::Status, 0), (Key::Monitor, 5901), (Key::Priority, 1)];
    let message = numbers.into_iter().fold(message, |message, (key, number)| message.uint(key, number));
    message
        .uints(Key::Disk, [1 << 30])
        .uints(Key::Option, [0])
        .uints(Key::Limit, [0; 6])
        .uints(Key::IO, [0; 4])
        .uints(Key::Available, [0, 0])
}
