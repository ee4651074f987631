//! Strangers in the domain, secrets, and the rights that the unit leaves to the service.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cell::model::GuestId;
use cell::proto::message::{Key, Message, MessageId};
use corelet::requests::{CreateGuest, StopMode};
use corelet::Event;
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{eventually, eventually_some, Cell, Lab, TestCore, CORE_ADDRESS, PATIENCE};

fn status(cell: &Cell) -> Value {
    eventually_some("the service tells how it is", PATIENCE, || cell.status())
}

/// The service's sockets towards the Core, as the kernel lists them.
fn ports_towards_core(cell: &Cell) -> Vec<u16> {
    let table = cell.host().run("cat", &["/proc/net/udp"]);
    let core = format!("{:08X}", u32::from_le_bytes(CORE_ADDRESS.parse::<Ipv4Addr>().unwrap().octets()));
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let towards = columns.filter(|columns| columns.get(2).is_some_and(|remote| remote.starts_with(&core)));
    towards.map(|columns| u16::from_str_radix(columns[1].rsplit(':').next().unwrap(), 16).unwrap()).collect()
}

/// A UDP datagram as it stands behind the IP header, without a checksum.
fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// Sends in the Core's name, from its own address and port, past its socket.
fn forge(to: SocketAddrV4, from_port: u16, payloads: &[Vec<u8>]) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
    for payload in payloads {
        // A full queue is as good as a loss.
        let _ = socket.send_to(&udp(from_port, to.port(), payload), &SocketAddrV4::new(*to.ip(), 0).into());
    }
}

/// Noise, headers of packets with anything behind them, and lengths that nothing has.
fn payloads() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(5);
    (0..6000)
        .map(|number| {
            let mut payload = vec![0; [0, 3, 8, 32, 200, 1400, 1472][number % 7]];
            random.fill(&mut payload);
            if let Some(header) = payload.first_chunk_mut::<6>() {
                header[..4].copy_from_slice(&random.u32(..4096).to_le_bytes());
                header[4..].copy_from_slice(&[0xf1 + u8::from(random.bool()), 0]);
            }
            payload
        })
        .collect()
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_stranger_beside_the_core_and_in_its_name_changes_nothing() {
    let lab = Lab::up(1);
    let cell = Cell::install(lab.cell(1), "nano");
    let core = TestCore::named(&lab, "Core_mine", 5600);
    std::fs::write(cell.host().home().join("config/cell.cfg"), r#"{"virtualization": "qemu", "core_name": "Core_mine"}"#).unwrap();
    // Another one of the same domain, which answers the same pings.
    let stranger = TestCore::named(&lab, "Core_strange", 5700);
    cell.start();
    core.joined(&cell);
    let (name, guest) = (cell.name(), core.blank_guest(&cell, "security.stranger"));
    assert_eq!(status(&cell)["service"]["core"], "Core_mine");

    let pid = cell.pid().to_string();
    let memory = || -> u64 {
        let text = cell.host().run("cat", &[&format!("/proc/{pid}/status")]);
        text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = memory();
    let ports = ports_towards_core(&cell);
    assert_eq!(ports.len(), 1, "{ports:?}");
    let address: Ipv4Addr = status(&cell)["service"]["local_address"].as_str().unwrap().parse().unwrap();
    let (target, forged) = (SocketAddrV4::new(address, ports[0]), payloads());
    core.inside(async move { forge(target, 5600, &forged) });
    assert!(core.wait(core.get_status(&name, guest)).is_ok());
    assert_eq!(ports_towards_core(&cell), ports, "the connection was given up");
    assert!(memory() < before + 8 * 1024, "{before} kB have become {}", memory());
    eventually("it is logged", PATIENCE, || cell.file("log/cell.log").contains("ignored a datagram on the connection"));
    let log = cell.file("log/cell.log");
    assert!(log.lines().filter(|line| line.contains("ignored a datagram")).count() < 50, "the log is flooded");

    // While its own Core is away, the stranger answers, and gets nothing.
    core.crash();
    eventually("the stranger is found out", PATIENCE, || {
        cell.file("log/cell.log").contains("\"Core_strange\", but core_name pins \"Core_mine\"")
    });
    let core = TestCore::named(&lab, "Core_mine", 5600);
    core.joined(&cell);
    assert!(core.wait(core.get_status(&name, guest)).is_ok());
    let mut heard = stranger.all_events();
    while let Some(recorded) = heard.try_next() {
        assert!(!matches!(recorded.event, Event::CellReady { .. }), "{:?}", recorded.event);
    }
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn trust_pins_the_core_that_was_joined_or_that_answers() {
    let lab = Lab::up(1);
    let core = TestCore::named(&lab, "Core_mine", 5600);
    let cell = Cell::install(lab.cell(1), "nano");
    let config = cell.host().home().join("config/cell.cfg");
    std::fs::write(&config, "{\"virtualization\": \"qemu\", \"mine\": [1,  2]}").unwrap();
    // Nobody runs: the domain is asked.
    let said = cell.cli(&["trust"]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("--yes"), "{said:?}");
    let said = cell.cli(&["trust", "--yes"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        std::fs::read_to_string(&config).unwrap(),
        format!("{{\"virtualization\": \"qemu\", \"mine\": [1,  2],\"core_address\": \"{CORE_ADDRESS}:5600\"}}")
    );
    // One runs: it tells the name as well.
    cell.start();
    core.joined(&cell);
    let said = cell.cli(&["trust", "--yes"]);
    assert!(said.status.success() && String::from_utf8_lossy(&said.stdout).contains("Core_mine"), "{said:?}");
    assert!(std::fs::read_to_string(&config).unwrap().contains("\"core_name\": \"Core_mine\""));
    let again = cell.cli(&["trust"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("pinned already"), "{again:?}");
    cell.stop();
    cell.start();
    core.joined(&cell);
}

fn grep(directory: &Path, marker: &str) -> Vec<String> {
    let found = Command::new("grep").args(["-rlF", "--binary-files=text", marker]).arg(directory).output().unwrap();
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn passwords_are_in_the_data_files_and_nowhere_else() {
    const ADMIN: &str = "m4rk3r-Admin-1";
    const OTHER: &str = "m4rk3r-Other-2";
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let name = cell.name();
    let request = CreateGuest {
        memory: 32 << 20,
        modules: vec!["qemu".into(), "cloud-init".into()],
        addresses: ["10.226.0.50/24".into(), String::new()],
        admin: "nano".into(),
        secret: ADMIN.into(),
        ..CreateGuest::blank(&format!("security.secret-{}", std::process::id()), 1 << 20)
    };
    let guest: GuestId = core.wait(core.create_and_wait(&name, &request, PATIENCE)).unwrap().id;
    cell.make_bootable(guest);
    core.boot(&cell, guest);
    let monitor = core.wait(core.get_status(&name, guest)).unwrap().monitor_secret;
    // An agent that is not there, and a guest that is not there.
    for about in [guest, GuestId::from_bytes([7; 16])] {
        let change = Message::new(MessageId::MODIFY_AUTH_REQUEST)
            .string(Key::Guest, about.to_string())
            .string(Key::User, "nano")
            .string(Key::Secret, OTHER);
        let answer = core.wait(core.exchange(&name, change)).unwrap();
        assert!(!answer.success && !answer.error.contains(OTHER), "{}", answer.error);
    }
    let reset = Message::new(MessageId::RESET_SECRET_REQUEST).string(Key::Guest, guest.to_string());
    let answer = core.wait(core.exchange(&name, reset)).unwrap();
    assert!(answer.success, "{}", answer.error);
    let renewed = core.wait(core.get_status(&name, guest)).unwrap().monitor_secret;
    assert_ne!(renewed, monitor);

    let home = cell.host().home();
    let told = cell.cli(&["status", "--json"]);
    for marker in [ADMIN, OTHER, &monitor, &renewed] {
        assert_eq!(grep(&home.join("log"), marker), Vec::<String>::new(), "in the log");
        assert!(!String::from_utf8_lossy(&told.stdout).contains(marker));
        let lists = cell
            .host()
            .command("sh")
            .arg("-c")
            .arg(r#"cat /proc/[0-9]*/cmdline /proc/$(cat "$0")/environ"#)
            .arg(home.join("cell.pid"))
            .output()
            .unwrap();
        let lists = String::from_utf8_lossy(&lists.stdout).into_owned();
        assert!(lists.contains(&guest.to_string()), "its QEMU is among them");
        assert!(!lists.contains(marker), "in a list of processes");
    }
    core.halt(&cell, guest, StopMode::Force);
    assert!(!grep(&home.join("data"), ADMIN).is_empty(), "the marker is one");
    for entry in std::fs::read_dir(home.join("data")).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        assert!(!metadata.is_file() || metadata.permissions().mode() & 0o077 == 0, "{:?} may be read by others", entry.path());
    }
    let mode = |name: &str| std::fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("log/audit.log"), mode("cell.sock")), (0o600, 0o600));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_trail_says_who_had_what_done() {
    let lab = Lab::up(1);
    let core = TestCore::named(&lab, "Core_mine", 5600);
    let cell = Cell::started(lab.cell(1), "nano");
    core.joined(&cell);
    let guest = core.blank_guest(&cell, "security.trail");
    let moved = cell.host().home().join("log/audit.log.1");
    let trail = cell.host().home().join("log/audit.log");
    let holds = |message: &str| std::fs::read_to_string(&trail).is_ok_and(|text| text.contains(message));
    eventually("the create is noted", PATIENCE, || holds("CreateGuestRequest"));
    // As logrotate does; the next line begins a new file.
    std::fs::rename(&trail, &moved).unwrap();
    core.remove(&cell, guest);
    eventually("the delete is noted", PATIENCE, || holds("DeleteGuestRequest"));
    let lines = std::fs::read_to_string(moved).unwrap() + &std::fs::read_to_string(&trail).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about: Vec<&Value> = records.iter().filter(|record| record["guest"] == guest.to_string()).collect();
    assert_eq!(
        about.iter().map(|record| record["message"].as_str().unwrap()).collect::<Vec<_>>(),
        ["CreateGuestRequest", "DeleteGuestRequest"]
    );
    for record in about {
        assert_eq!(
            (&record["core"]["name"], &record["core"]["address"]),
            (&Value::from("Core_mine"), &Value::from(format!("{CORE_ADDRESS}:5600")))
        );
        assert!(record["outcome"] == "done" && record["duration_ms"].is_u64() && record["core_session"].as_u64() > Some(0));
        assert!(record["guest_name"].as_str().unwrap().starts_with("security.trail"));
    }
}

/// systemd's side of the unit: the whole service reports while its loops get on, also without a Core.
#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_watchdog_is_fed_by_the_whole_service() {
    let lab = Lab::up(1);
    let cell = Cell::install(lab.cell(1), "nano");
    let path = cell.host().home().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut service = cell.run_notifying(&path, Duration::from_secs(2));
    let mut text = [0; 512];
    let (mut ready, mut fed) = (false, 0);
    while !ready || fed < 5 {
        let length = socket.recv(&mut text).expect("the service reports");
        let told = String::from_utf8_lossy(&text[..length]).into_owned();
        ready |= told.contains("READY=1");
        fed += usize::from(told.contains("WATCHDOG=1"));
    }
    service.end(Signal::SIGTERM);
}

/// What the unit's `CapabilityBoundingSet` leaves, in the words of setpriv.
fn bounding_set() -> String {
    let unit = include_str!("../../packaging/cell.service");
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept = set.split_whitespace().map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()));
    std::iter::once("-all".to_owned()).chain(kept).collect::<Vec<_>>().join(",")
}

/// Everything that touches the host, with no more rights than the unit leaves.
#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn the_units_capabilities_are_enough() {
    let lab = Lab::up(1);
    let core = TestCore::with_addresses(&lab, "dhcp");
    let cell = Cell::install(lab.cell(1), "nano");
    let started = cell.start_as(&["setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", &bounding_set()]);
    assert!(started.status.success(), "{started:?}");
    core.joined(&cell);
    let rights = cell.host().run("grep", &["-E", "^(CapEff|NoNewPrivs)", &format!("/proc/{}/status", cell.pid())]);
    assert!(rights.contains("NoNewPrivs:\t1") && !rights.contains("ffffffff"), "{rights}");
    let guest = core.bootable_guest(&cell, "security.rights");
    core.boot(&cell, guest);
    core.halt(&cell, guest, StopMode::Force);
    let name = cell.name();
    let ask = |request: Message| {
        let answer = core.wait(core.exchange(&name, request)).unwrap();
        assert!(answer.success, "{}", answer.error);
    };
    // The files of disks belong to libvirt's user.
    ask(Message::new(MessageId::CREATE_SNAPSHOT_REQUEST)
        .string(Key::Instance, guest.to_string())
        .string(Key::Name, "s1")
        .string(Key::Description, ""));
    ask(Message::new(MessageId::RESTORE_SNAPSHOT_REQUEST).string(Key::Instance, guest.to_string()).string(Key::Name, "s1"));
    ask(Message::new(MessageId::DELETE_SNAPSHOT_REQUEST).string(Key::Instance, guest.to_string()).string(Key::Name, "s1"));
    ask(Message::new(MessageId::SHRINK_DISK_REQUEST).string(Key::Guest, guest.to_string()).uint(Key::Disk, 0));
    core.boot(&cell, guest);
    core.halt(&cell, guest, StopMode::Force);
    core.remove(&cell, guest);
    let log = cell.file("log/cell.log");
    assert!(log.contains("DHCP") && !log.contains("ermission denied") && !log.contains("not permitted"), "{log}");
}
