//! The program as its user meets it: real processes, real signals, real files.
//!
//! `service::*` needs a service that comes up on any machine: this test's own binary, called again with [`ROLE`] set, is the whole command line
//! around a small service that does what its "bridge" setting says. `program::*` runs the real `cell` as far as it goes without a host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use cell::app::{Settings, Started};
use cell::cli::OnReady;
use cell::model::ServiceStatus;
use cell::observe::StatusSocket;
use cell::process::signals::{Shutdown, Signals};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;

/// Set where this binary is to be the program and not the test.
const ROLE: &str = "CELL_TEST_AS_PROGRAM";

/// Nothing in here takes nearly as long unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return cell::cli::main(small_service);
    }
    let tests: &[(&str, fn())] = &[
        ("service::starts_tells_and_stops", starts_tells_and_stops),
        ("service::a_second_start_touches_nothing", a_second_start_touches_nothing),
        ("service::starts_at_once_from_two_sides_give_one_service", starts_at_once_from_two_sides_give_one_service),
        ("service::a_failed_start_tells_the_reason", a_failed_start_tells_the_reason),
        ("service::a_panic_is_a_failed_start_and_is_logged", a_panic_is_a_failed_start_and_is_logged),
        ("service::a_sudden_death_is_a_failed_start", a_sudden_death_is_a_failed_start),
        ("service::halt_kills_one_that_hangs", halt_kills_one_that_hangs),
        ("service::a_killed_service_leaves_nothing_in_the_way", a_killed_service_leaves_nothing_in_the_way),
        ("service::a_recycled_pid_is_left_alone", a_recycled_pid_is_left_alone),
        ("service::restart_makes_a_new_process", restart_makes_a_new_process),
        ("service::it_is_detached", it_is_detached),
        ("service::it_leaves_no_core_dump", it_leaves_no_core_dump),
        ("service::run_stays_in_front_and_notifies", run_stays_in_front_and_notifies),
        ("service::a_second_signal_is_quick", a_second_signal_is_quick),
        ("service::hangup_reopens_the_log", hangup_reopens_the_log),
        ("service::the_log_is_appended", the_log_is_appended),
        ("program::help_tells_a_stranger", help_tells_a_stranger),
        ("program::nothing_running", nothing_running),
        ("program::a_bad_configuration_is_one_clear_line", a_bad_configuration_is_one_clear_line),
        ("program::defaults_are_written_without_a_terminal", defaults_are_written_without_a_terminal),
        ("program::warnings_do_not_stop_a_start", warnings_do_not_stop_a_start),
        ("program::a_home_that_is_not_there", a_home_that_is_not_there),
        ("program::a_closed_pipe_is_no_panic", a_closed_pipe_is_no_panic),
        ("program::doctor_looks_at_a_bare_host_and_changes_nothing", doctor_looks_at_a_bare_host_and_changes_nothing),
        ("service::doctor_looks_beside_a_service_and_repairs_nothing_there", doctor_looks_beside_a_service_and_repairs_nothing_there),
    ];
    let trials = tests.iter().map(|(name, test)| {
        let test = *test;
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

// ---- the small service ----

fn small_service(settings: Settings, on_ready: OnReady) -> Result<(), Box<dyn Error + Send + Sync>> {
    match settings.cell.bridge.as_str() {
        "fails" => return Err("no bridge here\nand a second line".into()),
        "panics" => panic!("a defect"),
        "dies" => std::process::abort(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let socket = StatusSocket::bind(&settings.home.status_socket())?;
        let group = settings.domain.group;
        let domain = settings.domain.domain.clone();
        tokio::spawn(socket.serve(move || ServiceStatus {
            pid: std::process::id(),
            version: "0".into(),
            name: "Cell_test".into(),
            uptime_s: 61,
            domain: domain.clone(),
            group,
            local_address: None,
            core: Some("Core_test".into()),
            core_address: "10.0.0.1:5600".parse().ok(),
            guests: 3,
            running_guests: 2,
            lost_guests: 0,
            requests: 40,
            failed_requests: 1,
            late_requests: 0,
            held_guests: vec!["manager.web: /pool/a can't be written, there is no space left for it".into()],
        }));
        on_ready(&Started {
            name: "Cell_test".into(),
            local_address: Some([10, 0, 0, 7].into()),
            group,
            domain: settings.domain.domain.clone(),
            core: (settings.cell.bridge == "joins").then(|| "Core_test".into()),
        });
        tracing::info!("up");
        while signals.shutdown().await == Shutdown::Graceful {
            match settings.cell.bridge.as_str() {
                // Busy for ever: not even a second signal is heard.
                "hangs" => loop {
                    std::thread::park();
                },
                "lingers" => tracing::info!("asked to end"),
                _ => break,
            }
        }
        cell::process::notify::stopping();
        Ok(())
    })
}

// ---- the bench ----

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    /// A fresh home whose service does `behaviour`.
    fn new(behaviour: &str) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(node.path("config")).unwrap();
        node.write("config/domain.cfg", r#"{"domain": "lab", "group_address": "239.1.2.3", "group_port": 7000}"#);
        node.write("config/cell.cfg", &format!(r#"{{"bridge": "{behaviour}"}}"#));
        node
    }

    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log/cell.log")).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        fs::read_to_string(self.path("cell.pid")).unwrap().trim().parse().unwrap()
    }

    /// The command line around the small service.
    fn small(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, "1");
        self.with_home(command, args)
    }

    /// The real program.
    fn real(&self, args: &[&str]) -> Command {
        self.with_home(Command::new(env!("CARGO_BIN_EXE_cell")), args)
    }

    fn with_home(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).arg("--home").arg(self.dir.path()).env_remove("CELL_HOME").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    fn do_small(&self, args: &[&str]) -> Said {
        Said::of(self.small(args))
    }

    fn do_real(&self, args: &[&str]) -> Said {
        Said::of(self.real(args))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.do_small(&["status", "--json"]).out).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Also where an assertion failed, no service stays behind.
        let _ = self.small(&["halt"]).output();
    }
}

/// A process that has nothing to do with it, ended with the test.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let quiet = || Stdio::null();
        Self(Command::new("sleep").arg("60").stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// Runs a command to its end. Its output is read to the end too: a detached service that kept it open would hang this.
    fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code().expect("ended by a signal"),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    fn expect(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "{part:?} is not in {self:?}");
        }
        self
    }
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(tree(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            files.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

// ---- with a service ----

fn starts_tells_and_stops() {
    let node = Node::new("joins");
    let version = concat!("Cell ", env!("CARGO_PKG_VERSION"));
    let said = node.do_small(&["start"]);
    let pid = node.pid();
    said.expect(0, &[version, "Cell_test at 10.0.0.7", "group 239.1.2.3:7000, domain 'lab'", "joined Core_test", &format!("pid {pid}")]);
    for (dir, mode) in [("config", 0o755), ("data", 0o740), ("log", 0o740)] {
        // config/ was there before, with the mode that the umask gave it.
        let now = node.path(dir).metadata().unwrap().permissions().mode() & 0o777;
        assert!(dir == "config" || now == mode, "{dir} {now:o}");
    }
    node.do_small(&["status"]).expect(
        0,
        &[
            &format!("running, pid {pid}"),
            "Cell_test",
            "joined Core_test",
            "1 min 1 s",
            "3, 2 of them running",
            "held     manager.web: /pool/a",
        ],
    );
    let status = node.status();
    assert_eq!((status["state"].as_str(), status["pid"].as_i64()), (Some("running"), Some(pid.into())));
    assert_eq!(status["service"]["domain"], "lab");
    node.do_small(&["stop"]).expect(0, &[&format!("stopped (pid {pid})")]);
    wait_for("the end of the process", || !alive(pid));
    node.do_small(&["status"]).expect(3, &["cell is stopped"]);
    assert!(!node.path("cell.pid").exists() && !node.path("cell.sock").exists());
    let log = node.log();
    assert!(log.contains("cell has ended") && log.lines().all(|line| line.len() > 24 && line.starts_with("20")), "{log}");
}

fn a_second_start_touches_nothing() {
    let node = Node::new("waits");
    node.do_small(&["start"]).expect(0, &["no Core has answered yet"]);
    let pid = node.pid();
    wait_for("the log", || node.log().contains("INFO cli up"));
    node.write("config/domain.cfg", "not even JSON");
    let before = tree(node.dir.path());
    node.do_small(&["start"]).expect(0, &[&format!("already running, pid {pid}")]);
    node.do_small(&["run"]).expect(6, &[&format!("already running with pid {pid}")]);
    assert_eq!(tree(node.dir.path()), before);
    assert!(alive(pid));
    node.do_small(&["stop"]).expect(0, &[]);
}

fn starts_at_once_from_two_sides_give_one_service() {
    let node = Node::new("waits");
    let starters: Vec<Child> =
        (0..6).map(|_| node.small(&["start"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    let said: Vec<String> = starters
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(said.iter().filter(|said| said.contains("cell started")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| said.contains("already running")).count(), 5, "{said:?}");
    wait_for("the log", || node.log().contains("INFO cli up"));
    assert_eq!(node.log().matches("starts in").count(), 1);
}

fn a_failed_start_tells_the_reason() {
    let node = Node::new("fails");
    let said = node.do_small(&["start"]).expect(1, &["start failed: no bridge here\\nand a second line"]);
    assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{said:?}");
    assert!(node.log().contains("ERROR cell::cli::service cell ends: no bridge here\\nand"), "{}", node.log());
    node.do_small(&["status"]).expect(3, &["cell is stopped"]);
    assert!(!node.path("cell.pid").exists());
}

fn a_panic_is_a_failed_start_and_is_logged() {
    let node = Node::new("panics");
    node.do_small(&["start"]).expect(1, &["defect of its own"]);
    let log = node.log();
    assert!(log.contains("ERROR panic a defect; this is a defect of the service") && log.contains("place=tests/cli.rs:"), "{log}");
    assert!(!node.path("cell.pid").exists());
}

fn a_sudden_death_is_a_failed_start() {
    let node = Node::new("dies");
    node.do_small(&["start"]).expect(1, &["ended while it was starting", "log/cell.log"]);
    node.do_small(&["status"]).expect(3, &["did not end cleanly"]);
    node.do_small(&["stop"]).expect(0, &["not running", "removed the pidfile"]);
    node.do_small(&["stop"]).expect(0, &["not running"]);
    assert!(!node.path("cell.pid").exists());
}

fn halt_kills_one_that_hangs() {
    let node = Node::new("hangs");
    node.do_small(&["start"]).expect(0, &[]);
    let pid = node.pid();
    node.do_small(&["stop", "--timeout", "1"]).expect(1, &["still runs after", "cell halt"]);
    let said = node.do_small(&["status"]).expect(0, &[&format!("running, pid {pid}"), "does not tell how it is"]);
    assert!(!said.out.contains("Cell_test"));
    assert_eq!(node.status()["service"], Value::Null);
    node.do_small(&["halt"]).expect(0, &[&format!("killed (pid {pid})")]);
    wait_for("the end of the process", || !alive(pid));
    assert!(!node.path("cell.pid").exists() && !node.path("cell.sock").exists());
    node.do_small(&["halt"]).expect(0, &["not running"]);
}

fn a_killed_service_leaves_nothing_in_the_way() {
    let node = Node::new("waits");
    node.do_small(&["start"]).expect(0, &[]);
    let first = node.pid();
    send(first, Signal::SIGKILL);
    wait_for("the service's end", || node.status()["state"] == "stopped");
    assert_eq!(node.status()["stale_pid"], first);
    node.do_small(&["start"]).expect(0, &["cell started"]);
    assert_ne!(node.pid(), first);
    assert_eq!(node.status()["service"]["name"], "Cell_test");
    node.do_small(&["stop"]).expect(0, &["stopped"]);
}

fn a_recycled_pid_is_left_alone() {
    let node = Node::new("waits");
    let mut stranger = Stranger::new();
    node.write("cell.pid", &stranger.pid());
    node.do_small(&["status"]).expect(3, &["cell is stopped"]);
    node.do_small(&["halt"]).expect(0, &["not running"]);
    node.write("cell.pid", &stranger.pid());
    node.do_small(&["start"]).expect(0, &["cell started"]);
    // A wrong number in a file that is locked: nobody is killed for it.
    let real = node.pid();
    node.write("cell.pid", &stranger.pid());
    node.do_small(&["halt"]).expect(1, &["does not tell its process id; nothing was done"]);
    assert!(stranger.0.try_wait().unwrap().is_none(), "the stranger was killed");
    node.write("cell.pid", &real.to_string());
    node.do_small(&["stop"]).expect(0, &[&format!("pid {real}")]);
}

fn restart_makes_a_new_process() {
    let node = Node::new("waits");
    node.do_small(&["restart"]).expect(0, &["not running", "cell started"]);
    let first = node.pid();
    node.do_small(&["restart"]).expect(0, &[&format!("stopped (pid {first})"), "cell started"]);
    assert_ne!(node.pid(), first);
    node.do_small(&["stop"]).expect(0, &[]);
}

fn it_is_detached() {
    let node = Node::new("waits");
    node.do_small(&["start"]).expect(0, &[]);
    let pid = Pid::from_raw(node.pid());
    // Not of our session, and of no terminal.
    assert_ne!(nix::unistd::getsid(Some(pid)).unwrap(), nix::unistd::getsid(None).unwrap());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(fields[4], "0", "terminal of {stat}");
    for descriptor in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap(), Path::new("/dev/null"));
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), node.dir.path().canonicalize().unwrap());
    node.do_small(&["stop"]).expect(0, &[]);
}

/// A dump would hold the passwords of guests.
fn it_leaves_no_core_dump() {
    let node = Node::new("joins");
    node.do_small(&["start"]).expect(0, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // Where the service runs as root, another process of root without special rights can't look into it.
    if nix::unistd::geteuid().is_root() {
        let look = |pid: &str| {
            Command::new("setpriv")
                .args(["--inh-caps", "-all", "--bounding-set", "-all", "cat"])
                .arg(format!("/proc/{pid}/environ"))
                .output()
        };
        if look("self").is_ok_and(|own| own.status.success()) {
            assert!(!look(&node.pid().to_string()).unwrap().status.success());
        }
    }
    node.do_small(&["stop"]).expect(0, &[]);
}

fn run_stays_in_front_and_notifies() {
    let node = Node::new("joins");
    let socket_path = node.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&socket_path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = node.small(&["run", "--log-stderr", "--log-level", "info,cli=off"]);
    let child = command.env("NOTIFY_SOCKET", &socket_path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = || {
        let mut text = [0; 512];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let ready = read();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=Cell_test in domain lab, joined Core_test"), "{ready}");
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(node.pid(), pid);
    send(pid, Signal::SIGTERM);
    assert!(read().contains("STOPPING=1"));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("service Cell_test at 10.0.0.7"), "{out}");
    assert!(err.contains("cell has ended") && !err.contains("INFO cli up"), "{err}");
    assert_eq!(node.log(), err, "the same lines in both places");
    assert!(!node.path("cell.pid").exists());
}

fn a_second_signal_is_quick() {
    let node = Node::new("lingers");
    node.do_small(&["start"]).expect(0, &[]);
    let pid = node.pid();
    send(pid, Signal::SIGINT);
    wait_for("the first signal's effect", || node.log().contains("asked to end"));
    assert!(alive(pid));
    send(pid, Signal::SIGTERM);
    wait_for("the end of the process", || !alive(pid));
    assert!(node.log().contains("cell has ended"));
}

fn hangup_reopens_the_log() {
    let node = Node::new("lingers");
    node.do_small(&["start"]).expect(0, &[]);
    let pid = node.pid();
    wait_for("the log", || node.log().contains("INFO cli up"));
    fs::rename(node.path("log/cell.log"), node.path("log/moved")).unwrap();
    send(pid, Signal::SIGHUP);
    send(pid, Signal::SIGTERM);
    wait_for("a line in the new file", || node.log().contains("asked to end"));
    assert!(alive(pid), "a hangup does not end the service");
    assert!(fs::read_to_string(node.path("log/moved")).unwrap().contains("starts in"));
    node.do_small(&["halt"]).expect(0, &[]);
}

fn the_log_is_appended() {
    let node = Node::new("waits");
    for _ in 0..2 {
        node.do_small(&["start"]).expect(0, &[]);
        node.do_small(&["stop"]).expect(0, &[]);
    }
    assert_eq!(node.log().matches("starts in").count(), 2);
    assert_eq!(node.log().matches("cell has ended").count(), 2);
}

// ---- the real program, without a host ----

fn help_tells_a_stranger() {
    let node = Node::empty();
    let said = node.do_real(&["--help"]).expect(0, &["Resource node of a Nano cluster", "config/domain.cfg", "CELL_HOME", "Exit status"]);
    for command in ["start", "stop", "restart", "status", "halt", "run"] {
        assert!(said.out.contains(&format!("\n  {command}")), "{command} is not in {}", said.out);
        node.do_real(&[command, "--help"]).expect(0, &["Usage: cell"]);
    }
    for flag in ["-V", "--version"] {
        assert_eq!(node.do_real(&[flag]).expect(0, &[]).out, concat!("cell ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    node.do_real(&["strat"]).expect(2, &["start"]);
    node.do_real(&["stop", "--timeout", "0"]).expect(2, &["1..=3600"]);
}

fn nothing_running() {
    let node = Node::empty();
    node.do_real(&["status"]).expect(3, &["cell is stopped"]);
    assert_eq!(node.do_real(&["status", "--json"]).expect(3, &[]).out, "{\"stale_pid\":null,\"state\":\"stopped\"}\n");
    node.do_real(&["stop"]).expect(0, &["cell is not running"]);
    node.do_real(&["halt"]).expect(0, &["cell is not running"]);
    assert!(tree(node.dir.path()).is_empty(), "asking leaves no trace");
}

/// A libvirt and a bridge that no machine has.
const NOWHERE: &str = r#"{"bridge": "joins", "libvirt_uri": "qemu+unix:///system?socket=/nonexistent/libvirt-sock"}"#;

fn doctor_looks_at_a_bare_host_and_changes_nothing() {
    let node = Node::empty();
    fs::create_dir(node.path("config")).unwrap();
    node.write("config/cell.cfg", NOWHERE);
    let before = tree(node.dir.path());
    let said = node.do_real(&["doctor"]).expect(2, &["the service is stopped", "host.libvirt", "host.bridge", "not looked at", "by hand"]);
    assert!(!said.out.contains('\u{1b}'), "no colours without a terminal");
    let report: Value = serde_json::from_str(&node.do_real(&["doctor", "--json"]).expect(2, &[]).out).unwrap();
    assert_eq!((report["format"].as_u64(), report["result"].as_str()), (Some(1), Some("blind")));
    assert_eq!(report["service"], serde_json::json!({"running": false, "pid": null}));
    let found = report["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == "host.libvirt").unwrap();
    assert_eq!((found["weight"].as_str(), found["remedy"]["kind"].as_str()), (Some("drift"), Some("manual")));
    assert_eq!(tree(node.dir.path()), before);
    let said = node.do_real(&["doctor", "--repair"]).expect(2, &["host.libvirt"]);
    assert!(!said.out.contains("repaired"), "{said:?}");
    assert_eq!(tree(node.dir.path()), before, "there was nothing to repair");
    node.write("config/cell.cfg", "{");
    node.do_real(&["doctor"]).expect(2, &["host.settings"]);
}

fn doctor_looks_beside_a_service_and_repairs_nothing_there() {
    let node = Node::new("joins");
    node.write("config/cell.cfg", NOWHERE);
    node.do_small(&["start"]).expect(0, &[]);
    let pid = node.pid();
    node.do_real(&["doctor"]).expect(2, &[&format!("the service runs, pid {pid}"), "host.libvirt"]);
    let said = node.do_real(&["doctor", "--repair"]).expect(2, &[&format!("with pid {pid}"), "cell stop"]);
    assert_eq!(said.out, "", "nothing was looked at");
    assert_eq!(node.pid(), pid);
    node.do_small(&["stop"]).expect(0, &[]);
}

fn a_bad_configuration_is_one_clear_line() {
    let cases = [
        ("domain.cfg", "{\n \"domain\": \"x\",\n}", "domain.cfg: is not valid JSON: trailing comma at line 3 column 1"),
        (
            "domain.cfg",
            r#"{"domain": "x", "group_address": "10.0.0.1", "group_port": 5599}"#,
            "\"group_address\" is 10.0.0.1, which is not multicast",
        ),
        ("domain.cfg", r#"{"domain": "x", "group_address": "224.0.0.226", "group_port": 70000}"#, "\"group_port\" is 70000 and has to be"),
        ("cell.cfg", r#"{"virtualization": "xen"}"#, "cell.cfg: \"virtualization\" is \"xen\"; it has to be \"auto\", \"kvm\" or \"qemu\""),
    ];
    for (file, content, expected) in cases {
        let node = Node::new("br0");
        node.write(&format!("config/{file}"), content);
        for command in ["start", "run"] {
            let said = node.do_real(&[command]).expect(6, &[expected]);
            assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{said:?}");
        }
        assert!(!node.path("cell.pid").exists() && node.log().is_empty(), "it must fail before anything is started");
    }
    let node = Node::new("br0");
    node.do_real(&["run", "--log-level", "loud"]).expect(6, &["--log-level is \"loud\"; it has to be"]);
}

fn defaults_are_written_without_a_terminal() {
    let node = Node::empty();
    fs::create_dir(node.path("config")).unwrap();
    // Keeps the real service from going further than its configuration.
    node.write("config/cell.cfg", r#"{"bridge": ""}"#);
    let file = node.path("config/domain.cfg");
    node.do_real(&["start"]).expect(6, &[file.to_str().unwrap(), "created with the default settings, domain nano, group 224.0.0.226:5599"]);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written, serde_json::json!({"domain": "nano", "group_address": "224.0.0.226", "group_port": 5599, "timeout": 10}));
}

fn warnings_do_not_stop_a_start() {
    let node = Node::new("waits");
    node.write("config/cell.cfg", r#"{"brigde": "br0"}"#);
    let said = node.do_small(&["start"]).expect(0, &["cell started"]);
    assert!(
        said.err.starts_with("cell: warning: ")
            && said.err.contains("\"brigde\" is not a known setting and is ignored; \"bridge\" may be meant")
    );
    node.do_small(&["stop"]).expect(0, &[]);
    assert!(node.log().contains("WARN cell::cli::service") && node.log().contains("brigde"), "{}", node.log());
}

fn a_home_that_is_not_there() {
    let node = Node::empty();
    let missing = node.path("nowhere");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cell"));
    command.arg("start").env("CELL_HOME", &missing);
    Said::of(command).expect(6, &["nowhere", "--home DIR"]);
    assert!(!missing.exists());
}

fn a_closed_pipe_is_no_panic() {
    let node = Node::empty();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let output = node.real(&["status"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), &b""[..]));
    std::io::stdout().flush().unwrap();
}
