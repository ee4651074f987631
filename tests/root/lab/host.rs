//! One host of a lab: programs in it, its libvirt, its faults.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use super::{eventually, output_of, script};

/// Where `linux-guest.sh fetch-debian` keeps its packages for the tests.
const DEBIAN: &str = "/var/lib/cell-lab/debian";

/// A host; cheap to make, it only names one.
pub struct Host {
    lab: String,
    name: String,
    holder: String,
}

impl Host {
    pub(super) fn of(lab: &str, name: &str) -> Self {
        Self { lab: lab.into(), name: name.into(), holder: script(&["pid", lab, name]).trim().into() }
    }

    /// Scratch directory of the host, the same path inside and outside.
    pub fn home(&self) -> PathBuf {
        self.files().join("home")
    }

    /// Process whose namespaces are this host's.
    pub fn holder(&self) -> String {
        self.holder.clone()
    }

    fn files(&self) -> PathBuf {
        script(&["dir", &self.lab, &self.name]).trim().into()
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder, "--pid", "--net", "--mount", "--"]).arg(program);
        command
    }

    /// Standard output of a program run inside that must succeed.
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
        output_of(self.command(program).args(arguments))
    }

    /// `virsh` on the host's libvirt.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.run("virsh", &[&["-q", "-c", "qemu:///system"], arguments].concat())
    }

    /// "running", "shut off", …
    pub fn state_of(&self, guest: &str) -> String {
        self.virsh(&["domstate", guest]).trim().to_owned()
    }

    /// Number of the guest's QEMU process, as the host counts.
    pub fn qemu_pid(&self, guest: &str) -> i32 {
        self.run("cat", &[&format!("/run/libvirt/qemu/{guest}.pid")]).trim().parse().expect("a pid")
    }

    /// Whether a process exists and is more than a zombie.
    pub fn runs(&self, pid: i32) -> bool {
        self.process_state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }

    /// Whether a process was stopped by a signal.
    pub fn is_stopped(&self, pid: i32) -> bool {
        self.process_state(pid) == Some('T')
    }

    /// The letter of the kernel; none when there is no such process.
    fn process_state(&self, pid: i32) -> Option<char> {
        let line = output_of(self.command("sh").args(["-c", "cat /proc/$0/stat 2>/dev/null || true", &pid.to_string()]));
        line.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    }

    /// Process of the host's libvirtd.
    pub fn libvirtd_pid(&self) -> i32 {
        self.run("cat", &["/run/libvirt/libvirtd.pid"]).trim().parse().expect("a pid")
    }

    /// Whether somebody waits for a libvirtd that does not read what it was sent.
    pub fn libvirtd_is_awaited(&self) -> bool {
        let sockets = self.run("ss", &["-xHn", "state", "established"]);
        // kind, bytes to be read, bytes to be sent, address
        sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| match fields[..] {
            [_, unread, _, address, ..] => address.starts_with("/run/libvirt/libvirt-sock") && unread != "0",
            _ => false,
        })
    }

    /// Sends a signal to a process of the host.
    pub fn signal(&self, pid: i32, signal: Signal) {
        self.run("kill", &["-s", &signal.as_str()[3..], &pid.to_string()]);
    }

    /// `action` is start, stop or kill.
    pub fn libvirtd(&self, action: &str) {
        script(&["libvirt", &self.lab, &self.name, action]);
    }

    /// Drops this share of the packets between the host and the Core, each way; 0 ends it.
    pub fn loss(&self, percent: u32) {
        script(&["loss", &self.lab, &self.name, &percent.to_string()]);
    }

    /// Plugs the host's cable "up" or "down".
    pub fn link(&self, state: &str) {
        script(&["link", &self.lab, &self.name, state]);
    }

    /// Puts the bootable sector on a qcow2 volume.
    pub fn boot_disk(&self, volume: &str) {
        script(&["boot-disk", &self.lab, &self.name, volume]);
    }

    /// Puts the small Linux guest on a qcow2 volume of at least 32 MiB.
    pub fn linux_disk(&self, volume: &str) {
        self.fill(volume, &["make"], "");
    }

    /// Puts the small Linux guest on a qcow2 volume of at least so many MiB, with a file system that it writes to.
    pub fn linux_disk_of(&self, volume: &str, size: u64) {
        self.fill(volume, &["make"], &size.to_string());
    }

    /// Puts a Debian with cloud-init on a qcow2 volume of at least 1 GiB.
    pub fn debian_disk(&self, volume: &str) {
        self.fill(volume, &["make-debian", DEBIAN], "");
    }

    fn fill(&self, volume: &str, arguments: &[&str], size: &str) {
        let raw = self.home().join("guest.raw");
        let raw = raw.to_str().expect("UTF-8");
        output_of(
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/linux-guest.sh"))
                .args(arguments)
                .arg(raw)
                .args(Some(size).filter(|size| !size.is_empty())),
        );
        self.run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "qcow2", raw, volume]);
        std::fs::remove_file(raw).expect("it was made just now");
    }

    pub(super) fn tell_logs(&self) {
        for pattern in ["home/log/cell.log", "log/qemu"] {
            let path = self.files().join(pattern);
            let tail = Command::new("sh").arg("-c").arg("find \"$0\" -type f -exec tail -n 60 {} +").arg(&path).output();
            if let Ok(tail) = tail {
                eprintln!("--- {} {}\n{}", self.name, path.display(), String::from_utf8_lossy(&tail.stdout));
            }
        }
    }
}

/// A program that runs inside a host until it is told to end. It leads a process group, because `nsenter` stands between it and us.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) {
        let group = Pid::from_raw(self.0.id() as i32);
        if self.0.try_wait().expect("our own child").is_none() {
            killpg(group, signal).expect("our own process group");
            eventually("the program ends", Duration::from_secs(20), || self.0.try_wait().expect("our own child").is_some());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}
