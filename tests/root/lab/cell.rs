//! The service under test on one of the hosts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cell::model::GuestId;
use nix::sys::signal::Signal;

use super::core::{DEADLINE, PATIENCE};
use super::{eventually, eventually_some, Host, Running};

/// What a test guest prints on its serial port when it boots.
pub const BOOT_LINE: &str = "cell demo guest: it boots";

/// Longest wait for a boot under emulation on a busy machine.
pub const BOOT: Duration = Duration::from_secs(600);

/// The program under test: the build of the tests, or another one, for figures of a release build.
fn built_program() -> PathBuf {
    std::env::var_os("CELL_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_cell").into(), PathBuf::from)
}

/// A home directory on a host, with the service that may run in it. Ends with its host.
pub struct Cell {
    host: Host,
    home: PathBuf,
    program: PathBuf,
}

impl Cell {
    /// Writes the settings: this domain, emulated guests.
    pub fn install(host: Host, domain: &str) -> Self {
        let home = host.home();
        std::fs::create_dir_all(home.join("config")).unwrap();
        let settings = format!(r#"{{"domain": "{domain}", "group_address": "224.0.0.226", "group_port": 5599, "timeout": {DEADLINE}}}"#);
        std::fs::write(home.join("config/domain.cfg"), settings).unwrap();
        std::fs::write(home.join("config/cell.cfg"), r#"{"virtualization": "qemu", "log_level": "debug"}"#).unwrap();
        Self { host, home, program: built_program() }
    }

    /// Lays the program into its home, in the place of the one that may be there, and uses that from now on. As an upgrade does: what runs keeps its file.
    pub fn replace_program(&mut self) {
        let (beside, program) = (self.home.join("cell.new"), self.home.join("cell"));
        std::fs::copy(built_program(), &beside).unwrap();
        std::fs::rename(&beside, &program).unwrap();
        self.program = program;
    }

    /// True when the service runs the program that lies in its home now.
    pub fn runs_its_program(&self) -> bool {
        let inode = |path: &str| self.host.run("stat", &["-L", "-c", "%i", path]);
        inode(&format!("/proc/{}/exe", self.pid())) == inode(self.program.to_str().unwrap())
    }

    /// Below it are its settings, data and logs.
    pub fn home(&self) -> &std::path::Path {
        &self.home
    }

    /// Installs and starts it.
    pub fn started(host: Host, domain: &str) -> Self {
        let cell = Self::install(host, domain);
        cell.start();
        cell
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name that it has in the domain: its bridge's MAC.
    pub fn name(&self) -> String {
        let mac = self.host.run("cat", &["/sys/class/net/br0/address"]);
        format!("Cell_{}", mac.trim().replace(':', ""))
    }

    /// Runs `cell` with these arguments.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What `cell status` says, when the service tells in time how it is.
    pub fn status(&self) -> Option<serde_json::Value> {
        let status: serde_json::Value = serde_json::from_slice(&self.cli(&["status", "--json"]).stdout).unwrap();
        status["service"].is_object().then_some(status)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.program);
        command.arg("--home").arg(&self.home).args(arguments);
        command
    }

    /// `cell start`, which must succeed; gives what it says.
    pub fn start(&self) -> String {
        super::output_of(&mut self.command(&["start"]))
    }

    /// `cell start` with places at which it is ended; see `src/faults.rs`.
    pub fn start_mortal(&self, places: &str) -> String {
        super::output_of(self.command(&["start"]).env("FAILPOINTS", places))
    }

    /// `cell start` behind a program that changes its rights.
    pub fn start_as(&self, wrapper: &[&str]) -> Output {
        let (program, arguments) = wrapper.split_first().expect("a program");
        let mut command = self.host.command(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_cell")).arg("--home").arg(&self.home).arg("start").output().unwrap()
    }

    /// `cell run` as systemd would start it: it is told where to report and how often.
    pub fn run_notifying(&self, socket: &Path, watchdog: Duration) -> Running {
        let mut command = self.command(&["run"]);
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog.as_micros().to_string()).stdout(Stdio::null());
        Running::start(&mut command)
    }

    /// `cell stop`, which must succeed.
    pub fn stop(&self) {
        super::output_of(&mut self.command(&["stop"]));
    }

    /// Process of the service, as the host counts.
    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.home.join("cell.pid")).unwrap();
        text.trim().parse().unwrap_or_else(|error| panic!("cell.pid holds {text:?}: {error}"))
    }

    /// Ends it without a chance to say anything.
    pub fn kill(&self) {
        let pid = self.pid();
        self.host.signal(pid, Signal::SIGKILL);
        eventually("the service is gone", PATIENCE, || !self.host.runs(pid));
    }

    /// A file below its home.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Puts the boot sector on the guest's system disk.
    pub fn make_bootable(&self, guest: GuestId) {
        self.host.boot_disk(&format!("/var/lib/libvirt/images/local0/{guest}_sys.qcow2"));
    }

    /// Where a shared pool is mounted on this host.
    pub fn mount(&self, pool: &str) -> PathBuf {
        self.home.parent().unwrap().join("pools").join(pool)
    }

    /// What the guest has said on its serial port.
    pub fn serial(&self, guest: GuestId) -> String {
        let log = std::fs::read(self.home.join(format!("log/guests/{guest}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// How often the guest has booted so far, by its lines on the serial port.
    pub fn boots(&self, guest: GuestId) -> usize {
        self.serial(guest).matches(BOOT_LINE).count()
    }

    /// Waits until the guest has booted so often.
    pub fn wait_boots(&self, guest: GuestId, count: usize) {
        eventually_some("the guest prints its line on the serial port", BOOT, || (self.boots(guest) >= count).then_some(()));
    }
}
