//! The lab is what the other tests trust: here it is looked at by itself, with virsh alone.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::{eventually, Lab, Running, BOOT_LINE, CORE_ADDRESS};

const VOLUME: &str = "/var/lib/libvirt/images/boot.qcow2";
const SERIAL: &str = "/var/lib/libvirt/images/serial.log";

fn domain(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
         <cputune><shares>1000</shares><period>1000000</period><quota>500000</quota></cputune>
         <devices>
           <disk type='file'><driver name='qemu' type='qcow2'/><source file='{VOLUME}'/><target dev='sda' bus='scsi'/></disk>
           <controller type='scsi' model='virtio-scsi'/>
           <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
           <serial type='pty'><log file='{SERIAL}'/></serial>
         </devices></domain>"
    )
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_guest_boots_and_obeys_the_power_button() {
    let lab = Lab::up(1);
    let host = lab.cell(1);
    let name = format!("lab.boot-{}", std::process::id());
    let definition = host.home().join("domain.xml");
    std::fs::write(&definition, domain(&name)).unwrap();
    host.run("qemu-img", &["create", "-q", "-f", "qcow2", VOLUME, "1M"]);
    host.boot_disk(VOLUME);
    host.virsh(&["define", definition.to_str().unwrap()]);
    host.virsh(&["start", &name]);
    eventually("the guest prints its line", Duration::from_secs(60), || host.run("cat", &[SERIAL]).contains(BOOT_LINE));
    let qemu = host.qemu_pid(&name);

    host.libvirtd("kill");
    host.libvirtd("start");
    assert_eq!(host.state_of(&name), "running");
    assert_eq!(host.qemu_pid(&name), qemu);

    host.virsh(&["shutdown", &name]);
    eventually("the guest switches itself off", Duration::from_secs(30), || host.state_of(&name) == "shut off");
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn labs_side_by_side_see_only_themselves() {
    let (one, two) = (Lab::up(2), Lab::up(1));
    let mut program = Running::start(one.cell(2).command("sleep").arg("1234").stdin(Stdio::null()));
    let processes = |lab: &Lab| lab.core().run("ps", &["-A", "-o", "args"]);
    eventually("the program runs", Duration::from_secs(10), || processes(&one).contains("sleep 1234"));
    assert!(!processes(&two).contains("sleep 1234"));

    assert_eq!(one.cell(1).run("ip", &["-br", "address", "show", "br0"]).split_whitespace().nth(2), Some("10.226.0.2/24"));
    assert!(one.cell(1).run("ip", &["route", "get", "224.0.0.226"]).contains("dev br0"));
    assert!(two.core().run("ip", &["-br", "link"]).contains("port1"));
    assert!(!two.core().run("ip", &["-br", "link"]).contains("port2"), "a lab sees another lab's cable");
    program.end(Signal::SIGTERM);
    assert!(!processes(&one).contains("sleep 1234"));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn packets_get_lost_as_asked() {
    let lab = Lab::up(2);
    let (core, cell) = (lab.core(), lab.cell(1));
    let send = |to: &str| format!("exec 3>/dev/udp/{to}/9; for i in {{1..200}}; do echo x >&3 2>/dev/null || true; done");
    let dropped = |host: &crate::lab::Host| -> u32 {
        let rules = host.run("iptables", &["-w", "-L", "INPUT", "-v", "-n", "-x"]);
        rules
            .lines()
            .filter(|line| line.contains("statistic"))
            .map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap())
            .sum()
    };
    cell.loss(20);
    core.run("bash", &["-c", &send("10.226.0.2")]);
    cell.run("bash", &["-c", &send(CORE_ADDRESS)]);
    lab.cell(2).run("bash", &["-c", &send(CORE_ADDRESS)]);
    for host in [&cell, &core] {
        // 200 packets, 20 %: 40 expected, six standard deviations are 34
        eventually("some packets are dropped, and not most", Duration::from_secs(5), || (6..=90).contains(&dropped(host)));
    }
    cell.loss(0);
    assert!(!core.run("iptables", &["-w", "-S", "INPUT"]).contains("statistic"));
    assert!(!cell.run("iptables", &["-w", "-S", "INPUT"]).contains("statistic"));
}

#[test]
#[ignore = "needs root, libvirt and QEMU"]
fn a_cable_can_be_unplugged() {
    let lab = Lab::up(1);
    // a host that answers at all refuses the connection: nothing listens there
    let answers = || {
        let attempt = lab.core().command("bash").args(["-c", "exec 3<>/dev/tcp/10.226.0.2/9"]).output().unwrap();
        String::from_utf8_lossy(&attempt.stderr).contains("Connection refused")
    };
    assert!(answers());
    lab.cell(1).link("down");
    assert!(!answers());
    lab.cell(1).link("up");
    eventually("the host answers again", Duration::from_secs(10), answers);
}
