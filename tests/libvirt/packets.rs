//! What a guest's filter does to packets. A namespace on the bridge plays the guest, with the guest's MAC and with the guest's filter on its
//! port; another one is a stranger. What they send each other goes through the kernel as a real guest's packets do.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cell::host::{Change, Hypervisor};
use cell::model::{GuestConfig, Protocol, Rule, SecurityPolicy};
use nix::sched::{setns, CloneFlags};

use super::lab::{wait_for, Lab};

const GUEST: &str = "10.99.0.5";
const STRANGER: &str = "10.99.0.9";
const GUEST6: &str = "fd99::5";
const STRANGER6: &str = "fd99::9";

/// How long a packet that is let through may take; one that is not takes all of it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A machine on the bridge, in a network namespace.
struct Machine {
    holder: Child,
    port: String,
}

impl Machine {
    fn plug_in(lab: &Lab, port: &str, mac: &str, addresses: [&str; 2]) -> Self {
        // Left by a test that failed.
        let _ = Command::new("ip").args(["link", "del", port]).stderr(Stdio::null()).status();
        let holder = Command::new("unshare").args(["--net", "sleep", "3600"]).spawn().unwrap();
        let machine = Self { holder, port: port.to_owned() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", machine.holder.id()));
        while theirs().is_ok_and(|theirs| theirs == own) {
            std::thread::yield_now();
        }
        let pid = machine.holder.id().to_string();
        run("ip", &["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["link", "set", port, "master", &lab.bridge, "up"]);
        machine.run(&["ip", "link", "set", "eth0", "address", mac]);
        machine.run(&["ip", "link", "set", "lo", "up"]);
        machine.run(&["ip", "link", "set", "eth0", "up"]);
        machine.run(&["ip", "address", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
        machine.run(&["ip", "address", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"]);
        machine
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--"]).args(words);
        command
    }

    fn run(&self, words: &[&str]) {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let enter = move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::spawn(enter).join().unwrap()
    }

    /// Takes connections at a port, over IPv4 and IPv6, until it is dropped.
    fn listen(&self, port: u16) -> TcpListener {
        self.within(move || TcpListener::bind(("::", port)).unwrap())
    }

    /// Whether a TCP connection is made. Nobody remembers where the other one is, so ARP and neighbour discovery come first.
    fn reaches(&self, address: &str, port: u16) -> bool {
        self.run(&["ip", "neigh", "flush", "all"]);
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        self.within(move || TcpStream::connect_timeout(&address, PATIENCE).is_ok())
    }

    /// The same of what is let through: on a slow machine the first tries come too late.
    fn gets_to(&self, address: &str, port: u16) -> bool {
        tries(|| self.reaches(address, port))
    }

    fn pings(&self, address: &str) -> bool {
        self.command(&["busybox", "ping", "-c", "1", "-W", "1", address]).stdout(Stdio::null()).status().unwrap().success()
    }
}

fn tries(attempt: impl FnMut() -> bool) -> bool {
    std::iter::repeat_with(attempt).take(20).any(|is_done| is_done)
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.port]).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The guest, the stranger, and the guest's filter in force between them.
struct Scene {
    lab: Lab,
    config: GuestConfig,
    guest: Machine,
    stranger: Machine,
}

impl Scene {
    async fn new() -> Self {
        // One of a test that failed keeps its filter in use.
        let _ = Command::new("virsh").args(["-q", "nwfilter-binding-delete", "t-guest"]).output();
        let mut lab = Lab::new().await;
        let config = GuestConfig { internal_address: format!("{GUEST}/24"), ..lab.guest() };
        let guest = Machine::plug_in(&lab, "t-guest", &config.hardware_address, [GUEST, GUEST6]);
        let stranger = Machine::plug_in(&lab, "t-stranger", "02:00:00:00:00:09", [STRANGER, STRANGER6]);
        lab.libvirt.update_filter(&config).await.unwrap();
        let binding = format!(
            "<filterbinding><owner><name>{}</name><uuid>{}</uuid></owner><portdev name='t-guest'/><mac address='{}'/>\
             <filterref filter='nano-nwfilter-{}'/></filterbinding>",
            config.name, config.id, config.hardware_address, config.id
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), binding).unwrap();
        lab.told(&["nwfilter-binding-create", file.path().to_str().unwrap()]);
        let scene = Self { lab, config, guest, stranger };
        // The ports of a bridge need a moment until they forward.
        wait_for(|| scene.guest.pings(STRANGER)).await;
        scene
    }

    async fn policy(&mut self, accept: bool, rules: &[Rule]) {
        self.config.security = Some(SecurityPolicy { accept, rules: rules.to_vec() });
        assert_eq!(self.lab.libvirt.update_filter(&self.config).await.unwrap(), Change::Changed);
    }

    async fn end(self) {
        self.lab.told(&["nwfilter-binding-delete", "t-guest"]);
        drop((self.guest, self.stranger));
        self.lab.clean().await;
    }
}

fn rule(accept: bool, protocol: Protocol, port: u16, from: &str, to: &str) -> Rule {
    Rule { accept, protocol, source_address: from.into(), target_address: to.into(), target_port: port, interface: 0 }
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn e6_reject_keeps_strangers_out_and_lets_the_guests_own_connections_work() {
    let mut scene = Scene::new().await;
    let _ports = [scene.guest.listen(22), scene.guest.listen(80), scene.stranger.listen(443)];
    assert!(scene.stranger.gets_to(GUEST, 80) && scene.stranger.gets_to(GUEST6, 80), "without a policy everything is open");
    scene.policy(false, &[rule(true, Protocol::Tcp, 22, "", "")]).await;
    assert!(scene.stranger.gets_to(GUEST, 22) && scene.stranger.gets_to(GUEST6, 22), "what a rule accepts");
    assert!(!scene.stranger.reaches(GUEST, 80) && !scene.stranger.reaches(GUEST6, 80), "what no rule accepts");
    assert!(!scene.stranger.pings(GUEST));
    assert!(scene.guest.gets_to(STRANGER, 443) && scene.guest.gets_to(STRANGER6, 443), "answers to the guest, found by ARP and ND");
    assert!(tries(|| scene.guest.pings(STRANGER)));
    // §14 E4: ICMP, whatever its port.
    scene.policy(false, &[rule(true, Protocol::Icmp, 7, "", "")]).await;
    assert!(tries(|| scene.stranger.pings(GUEST)) && !scene.stranger.reaches(GUEST, 22));
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn e5_rules_count_in_their_order_with_source_and_target_and_at_once() {
    let mut scene = Scene::new().await;
    let _ports = [scene.guest.listen(22), scene.guest.listen(80), scene.stranger.listen(443)];
    scene.policy(false, &[rule(true, Protocol::Tcp, 80, "", "10.99.0.6"), rule(true, Protocol::Tcp, 22, "", GUEST)]).await;
    assert!(!scene.stranger.reaches(GUEST, 80), "the rule is about another target");
    assert!(scene.stranger.gets_to(GUEST, 22));
    scene.policy(false, &[rule(true, Protocol::Tcp, 80, "10.99.0.8", ""), rule(true, Protocol::Tcp, 22, STRANGER, "")]).await;
    assert!(!scene.stranger.reaches(GUEST, 80), "the rule is about another source");
    assert!(scene.stranger.gets_to(GUEST, 22) && !scene.stranger.reaches(GUEST6, 22), "an IPv4 source is nobody in IPv6");
    scene.policy(true, &[rule(false, Protocol::Tcp, 22, "", "")]).await;
    assert!(!scene.stranger.reaches(GUEST, 22) && !scene.stranger.reaches(GUEST6, 22) && scene.stranger.gets_to(GUEST, 80));
    assert!(scene.guest.gets_to(STRANGER, 443));
    scene.policy(true, &[rule(true, Protocol::Tcp, 22, STRANGER, ""), rule(false, Protocol::Tcp, 22, "", "")]).await;
    assert!(scene.stranger.gets_to(GUEST, 22), "the first rule that fits counts");
    scene.end().await;
}

#[tokio::test]
#[ignore = "needs libvirt: set CELL_TEST_LIBVIRT_URI and CELL_TEST_BRIDGE, run with --include-ignored"]
async fn nobody_sends_as_another() {
    let mut scene = Scene::new().await;
    let _port = scene.stranger.listen(443);
    assert!(scene.guest.gets_to(STRANGER, 443));
    scene.guest.run(&["ip", "address", "add", "10.99.0.77/24", "dev", "eth0"]);
    let from = |scene: &Scene, source: &str| {
        scene.guest.run(&["ip", "neigh", "flush", "all"]);
        scene
            .guest
            .command(&["busybox", "ping", "-c", "1", "-W", "1", "-I", source, STRANGER])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(tries(|| from(&scene, GUEST)) && !from(&scene, "10.99.0.77"), "an address that is not the guest's");
    // A guest that was assigned none may use any.
    scene.config.internal_address = String::new();
    assert_eq!(scene.lab.libvirt.update_filter(&scene.config).await.unwrap(), Change::Changed);
    assert!(tries(|| from(&scene, "10.99.0.77")));
    scene.guest.run(&["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"]);
    assert!(!scene.guest.reaches(STRANGER, 443), "a MAC that is not the guest's");
    scene.guest.run(&["ip", "link", "set", "eth0", "address", &scene.config.hardware_address]);
    assert!(scene.guest.gets_to(STRANGER, 443));
    scene.end().await;
}
