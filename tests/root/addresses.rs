//! What guests get from the node: their addresses and their cloud-init documents, and what the Core hears of it.
//!
//! A client in a network namespace on the bridge stands in for the guest's system: it has the guest's MAC and runs a real DHCP client.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cell::model::GuestId;
use corelet::requests::{CreateGuest, StopMode, TemplateNumbers};
use corelet::{AddressPool, Event};
use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use nix::sched::{setns, CloneFlags};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::lab::{eventually, eventually_some, Cell, Host, Lab, Running, TestCore, BOOT, CORE_ADDRESS, PATIENCE};

const ASSIGNED: &str = "10.226.0.50";
const CELL: &str = "10.226.0.2";

/// udhcpc's script: applies what it is told, and notes it.
const SCRIPT: &str = r#"#!/bin/sh
case $1 in
  bound|renew)
    ip address replace "$ip/$mask" dev "$interface"
    echo "$1 $ip/$mask router=$router dns=$dns server=$serverid lease=$lease" >>"$NOTES"
    ;;
  deconfig) ip link set "$interface" up ;;
  nak) echo nak >>"$NOTES" ;;
esac
"#;

/// A machine on the Cell's bridge.
struct Client {
    host: Host,
    pid: String,
    directory: PathBuf,
    _holder: Running,
}

impl Client {
    fn plug_in(host: Host, name: &str, mac: &str) -> Self {
        let directory = host.home().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let script = directory.join("script");
        std::fs::write(&script, SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let pid = directory.join("pid");
        let hold = "echo $$ >\"$0.new\" && mv \"$0.new\" \"$0\" && exec sleep 3600";
        let holder = Running::start(host.command("unshare").args(["--net", "sh", "-c", hold]).arg(&pid));
        let pid = eventually_some("the client is there", PATIENCE, || std::fs::read_to_string(&pid).ok()).trim().to_owned();
        let port = format!("p-{name}");
        host.run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        host.run("ip", &["link", "set", &port, "master", "br0", "up"]);
        let client = Self { host, pid, directory, _holder: holder };
        client.run("ip", &["link", "set", "eth0", "address", mac, "up"]);
        client
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.host.command("nsenter");
        command.env("NOTES", self.directory.join("notes")).args(["--target", &self.pid, "--net", "--", program]);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        crate::lab::output_of(self.command(program).args(arguments))
    }

    fn udhcpc(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("busybox");
        command.args(["udhcpc", "-f", "-i", "eth0", "-t", "3", "-T", "1", "-s"]).arg(self.directory.join("script")).args(arguments);
        command
    }

    /// Asks once, with a real client; whether it got an address.
    fn asks(&self) -> bool {
        self.udhcpc(&["-n", "-q"]).output().unwrap().status.success()
    }

    fn notes(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.join("notes")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Status and body of a document.
    fn get(&self, path: &str) -> Result<String, String> {
        let url = format!("http://{CELL}:25469{path}");
        let output = self.command("busybox").args(["wget", "-q", "-O", "-", &url]).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// A DHCP client's socket in there.
    fn socket(&self) -> UdpSocket {
        let network = File::open(format!("/proc/{}/root/proc/{}/ns/net", self.host.holder(), self.pid)).unwrap();
        let open = move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            UdpSocket::from(socket)
        };
        std::thread::spawn(open).join().unwrap()
    }
}

fn packet(mac: &str, kind: MessageType, options: &[DhcpOption]) -> Vec<u8> {
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mut message = Message::default();
    message.set_chaddr(&mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message.to_vec().unwrap()
}

/// Sends until something is answered.
fn ask(socket: &UdpSocket, packet: &[u8]) -> Message {
    let transaction = Message::decode(&mut Decoder::new(packet)).unwrap().xid();
    eventually_some("a DHCP answer", PATIENCE, || {
        socket.send_to(packet, (Ipv4Addr::BROADCAST, 67)).unwrap();
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).ok()?;
        let answer = Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
        // A question that was answered late was asked twice.
        Some(answer).filter(|answer| answer.xid() == transaction)
    })
}

/// A running guest with cloud-init and an assigned address, and its MAC.
fn addressed_guest(core: &TestCore, cell: &Cell) -> (GuestId, String) {
    let request = CreateGuest {
        memory: 32 << 20,
        modules: vec!["cloud-init".into()],
        addresses: [format!("{ASSIGNED}/24"), String::new()],
        ..CreateGuest::blank(&format!("net.addressed-{}", std::process::id()), 1 << 20)
    };
    let guest = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}"));
    cell.make_bootable(guest.id);
    core.boot(cell, guest.id);
    (guest.id, guest.hardware_address)
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_gets_and_keeps_its_address_and_documents_and_a_stranger_gets_nothing() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (id, mac) = addressed_guest(&core, &cell);
    let guest = Client::plug_in(lab.cell(1), "own", &mac);
    let stranger = Client::plug_in(lab.cell(1), "stranger", "52:54:00:12:34:56");

    let mut events = core.events();
    eventually("an address", PATIENCE, || guest.asks());
    let lease = format!("bound {ASSIGNED}/24 router={CORE_ADDRESS} dns={CORE_ADDRESS} server={CELL} lease=43200");
    assert_eq!(guest.notes(), [lease]);
    let told = |event: &Event| matches!(event, Event::GuestAddress { guest, address, .. } if *guest == id && address == ASSIGNED);
    core.expect(&mut events, "the Core hears of the address", told);
    assert!(!stranger.asks(), "a stranger was answered");
    assert!(stranger.notes().is_empty(), "not even a refusal");

    // documents: to the guest alone, user-data once
    let path = |document: &str| format!("/latest/{id}/{document}");
    stranger.run("ip", &["address", "add", "10.226.0.77/24", "dev", "eth0"]);
    let refused = stranger.get(&path("user-data")).unwrap_err();
    assert!(refused.contains("403"), "{refused}");
    assert!(guest.get(&path("meta-data")).unwrap().contains(&format!("instance-id: \"{id}\"")));
    assert!(guest.get(&path("user-data")).unwrap().contains("#cloud-config"));
    eventually("the delivery is written down", PATIENCE, || cell.file("data/instance.data").contains("\"initialized\": true"));
    assert_eq!(guest.get(&path("user-data")).unwrap(), "");

    // the service is killed between DISCOVER and REQUEST
    let socket = guest.socket();
    let offer = ask(&socket, &packet(&mac, MessageType::Discover, &[]));
    assert_eq!((offer.opts().msg_type(), offer.yiaddr().to_string().as_str()), (Some(MessageType::Offer), ASSIGNED));
    cell.kill();
    cell.start();
    let chosen = [DhcpOption::RequestedIpAddress(offer.yiaddr()), offer.opts().get(OptionCode::ServerIdentifier).unwrap().clone()];
    let ack = ask(&socket, &packet(&mac, MessageType::Request, &chosen));
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), offer.yiaddr()));
    let wrong = [DhcpOption::RequestedIpAddress("10.226.0.51".parse().unwrap())];
    assert_eq!(ask(&socket, &packet(&mac, MessageType::Request, &wrong)).opts().msg_type(), Some(MessageType::Nak));
    drop(socket);

    // a client that lives through restarts renews, and hears of a changed pool
    let mut daemon = Running::start(&mut guest.udhcpc(&["-p", guest.directory.join("udhcpc.pid").to_str().unwrap()]));
    eventually("the client is bound again", PATIENCE, || guest.notes().len() == 2);
    cell.stop();
    cell.start();
    core.joined(&cell);
    let dns = ["10.226.0.8".to_owned(), "10.226.0.9".to_owned()];
    let pool = AddressPool { name: "net0".into(), gateway: "10.226.0.7".into(), dns: dns.to_vec(), mode: "dhcp".into() };
    core.address_pool_changed(&cell.name(), &pool).unwrap();
    eventually("the pool is taken", PATIENCE, || cell.file("data/network.data").contains("10.226.0.7"));
    let pid = std::fs::read_to_string(guest.directory.join("udhcpc.pid")).unwrap().trim().parse().unwrap();
    let renewed = format!("renew {ASSIGNED}/24 router=10.226.0.7 dns=10.226.0.8 10.226.0.9 server={CELL} lease=43200");
    eventually("the client renews", PATIENCE, || {
        // It does so once for each time that it is told to.
        guest.host.signal(pid, Signal::SIGUSR1);
        std::thread::sleep(Duration::from_millis(500));
        guest.notes().contains(&renewed)
    });
    assert!(!guest.notes().contains(&"nak".to_owned()), "{:?}", guest.notes());
    daemon.end(Signal::SIGTERM);

    // another mode: DHCP falls silent
    core.address_pool_changed(&cell.name(), &AddressPool { mode: "cloudinit".into(), ..pool }).unwrap();
    eventually("the mode is taken", PATIENCE, || cell.file("data/network.data").contains("cloudinit"));
    assert!(!guest.asks(), "answered in cloud-init mode");
    assert!(guest.get(&path("network-config")).unwrap().contains(&format!("\"address\": \"{ASSIGNED}/24\"")));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn another_dhcp_server_on_the_bridge_is_said_and_outlived() {
    let lab = Lab::up(1);
    let host = lab.cell(1);
    let (settings, leases) = (host.home().join("udhcpd.conf"), host.home().join("leases"));
    std::fs::write(&leases, "").unwrap();
    let lines = format!("interface br0\nstart 10.226.0.200\nend 10.226.0.210\nlease_file {}\n", leases.display());
    std::fs::write(&settings, lines).unwrap();
    let mut other = Running::start(host.command("busybox").args(["udhcpd", "-f"]).arg(&settings));
    eventually("the port is taken", PATIENCE, || host.run("ss", &["-lunH"]).contains(":67"));
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    eventually("it is said", PATIENCE, || cell.file("log/cell.log").contains("another program serves UDP port 67"));
    let (_, mac) = addressed_guest(&core, &cell);
    let guest = Client::plug_in(lab.cell(1), "own", &mac);
    other.end(Signal::SIGKILL);
    eventually("the service takes over", PATIENCE, || guest.asks());
}

/// Lets a Linux guest boot in a pool of this mode; gives what it said and the id.
fn boot_linux(core: &TestCore, cell: &Cell) -> (GuestId, String) {
    let request = CreateGuest {
        memory: 128 << 20,
        // what the kernel of virtual machines has drivers for
        template: TemplateNumbers { disk: 0, network: 0, ..TemplateNumbers::default() },
        modules: vec!["cloud-init".into()],
        addresses: [format!("{ASSIGNED}/24"), String::new()],
        ..CreateGuest::blank(&format!("net.linux-{}", std::process::id()), 32 << 20)
    };
    let guest = core.wait(core.create_and_wait(&cell.name(), &request, PATIENCE)).unwrap_or_else(|error| panic!("{error:?}")).id;
    cell.host().linux_disk(&format!("/var/lib/libvirt/images/local0/{guest}_sys.qcow2"));
    let mut events = core.events();
    core.wait(core.start_guest(&cell.name(), guest)).unwrap();
    let told = |event: &Event| matches!(event, Event::GuestAddress { guest: of, address, .. } if *of == guest && address == ASSIGNED);
    let heard = core.wait(events.wait(BOOT, told));
    heard.unwrap_or_else(|error| panic!("the Core hears of the address: {error}\n{}", cell.serial(guest)));
    eventually("the guest is ready", BOOT, || cell.serial(guest).contains("guest: ready"));
    (guest, cell.serial(guest))
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_linux_guest_gets_its_address_by_dhcp_and_its_documents() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (guest, said) = boot_linux(&core, &cell);
    for line in [
        format!("guest: address {ASSIGNED}/24 router {CORE_ADDRESS} dns {CORE_ADDRESS}"),
        format!("guest: server http://{CELL}:25469/latest/{guest}/"),
        format!("guest: documents {guest} 1 0"),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    let status = core.wait(core.get_status(&cell.name(), guest)).unwrap();
    assert_eq!(status.address, ASSIGNED);
    // §14 D3: a stopped guest has no address, and after the next start it is told again.
    core.halt(&cell, guest, StopMode::Graceful);
    assert_eq!(core.wait(core.get_status(&cell.name(), guest)).unwrap().address, "");
    let mut events = core.events();
    core.wait(core.start_guest(&cell.name(), guest)).unwrap();
    core.wait(events.wait(BOOT, |event| matches!(event, Event::GuestAddress { address, .. } if address == ASSIGNED))).unwrap();
    eventually("its user-data is not given twice", BOOT, || cell.serial(guest).contains(&format!("guest: documents {guest} 0 0")));
    core.halt(&cell, guest, StopMode::Force);
    core.remove(&cell, guest);
    assert_eq!(cell.host().run("ls", &["/var/lib/libvirt/images/local0"]).trim(), "", "the seed image goes with the guest");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_linux_guest_that_is_addressed_by_cloud_init_is_found_by_its_mac() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "cloudinit");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let (guest, said) = boot_linux(&core, &cell);
    for line in [format!("guest: address {ASSIGNED}/24 router {CORE_ADDRESS}"), format!("guest: documents {guest} 1 0")] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
}
