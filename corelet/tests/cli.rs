//! The command line as a user runs it, against a Cell over loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod common;

use std::net::SocketAddrV4;
use std::process::Stdio;

use common::{joining, obedient, FakeCell, PATIENCE};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

/// A corelet on loopback without discovery.
struct Running {
    child: Child,
    errors: BufReader<ChildStderr>,
    address: SocketAddrV4,
}

async fn corelet(arguments: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_corelet"))
        .args(["--listen", "127.0.0.1", "--no-discovery", "--port", "0"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    errors.read_line(&mut first).await.unwrap();
    let address = first.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("no address in: {first}"));
    Running { child, errors, address }
}

impl Running {
    async fn write(&mut self, input: &str) {
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
    }

    /// Exit status, standard output, standard error.
    async fn end(mut self) -> (i32, String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        let mut stdout = self.child.stdout.take().unwrap();
        let reading = async {
            tokio::try_join!(stdout.read_to_string(&mut output), self.errors.read_to_string(&mut errors)).unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, reading).await.unwrap();
        (status.code().unwrap_or(-1), output, errors)
    }
}

fn json(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

#[tokio::test]
async fn a_shell_takes_a_guest_through_its_life() {
    let mut corelet = corelet(&["--json", "shell"]).await;
    let _cell = FakeCell::connect(corelet.address, "Cell_a", joining(obedient)).await;
    corelet
        .write("create one --disk 64M --memory 512M\nlist\nstart one\nwait one running\nstatus one\nget manager.one\nstop one --force\nstorage\ndelete one\nlist\n")
        .await;
    let (status, output, errors) = corelet.end().await;
    assert_eq!(status, 0, "{errors}");
    let results = json(&output);
    let commands: Vec<&str> = results.iter().map(|result| result["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["create", "list", "start", "wait", "status", "get", "stop", "storage", "delete", "list"]);
    assert!(results.iter().all(|result| result["ok"] == true));
    assert_eq!(results[0]["guest"]["memory"], 512 << 20);
    assert_eq!(results[0]["guest"]["disks"][0], 64 << 20);
    assert_eq!(results[1]["cells"][0]["guests"][0]["name"], "manager.one");
    assert_eq!(results[4]["guest"]["usage"]["cpu"], 1.5);
    assert_eq!(results[7]["paths"]["mode"], "local");
    assert_eq!(results[9]["cells"][0]["guests"], serde_json::json!([]));
}

#[tokio::test]
async fn a_shell_goes_on_after_a_failure_but_its_status_tells() {
    let mut corelet = corelet(&["--json", "shell"]).await;
    let _cell = FakeCell::connect(corelet.address, "Cell_a", joining(obedient)).await;
    corelet.write("start nobody\nnonsense\nstorage\n").await;
    let (status, output, errors) = corelet.end().await;
    assert_eq!(status, 1);
    let results = json(&output);
    let outcomes: Vec<bool> = results.iter().map(|result| result["ok"].as_bool().unwrap()).collect();
    assert_eq!(outcomes, [false, false, true]);
    assert!(errors.contains("no guest 'nobody' on Cell_a; there is none"), "{errors}");
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason_and_status_1() {
    let corelet = corelet(&["raw", "ModifyCoreRequest", "s.Guest=x", "u.Core=2"]).await;
    let _cell = FakeCell::connect(corelet.address, "Cell_a", joining(obedient)).await;
    let (status, output, errors) = corelet.end().await;
    assert_eq!(status, 1);
    assert!(output.contains("\"error\": \"not understood\""), "{output}");
    assert!(errors.contains("corelet: Cell_a refused: not understood"), "{errors}");
}

#[tokio::test]
async fn no_cell_in_time_is_told_with_what_to_look_at() {
    let corelet = corelet(&["--wait", "0.2", "list"]).await;
    let (status, output, errors) = corelet.end().await;
    assert_eq!((status, output.as_str()), (1, ""));
    assert!(errors.contains("no Cell joined within 0.2 s; is one running in domain 'nano'"), "{errors}");
}

#[tokio::test]
async fn watching_shows_what_happens_and_an_interrupt_says_goodbye() {
    let corelet = corelet(&["--json", "watch"]).await;
    let cell = FakeCell::connect(corelet.address, "Cell_a", joining(obedient)).await;
    let pid = nix::unistd::Pid::from_raw(corelet.child.id().unwrap() as i32);
    let interrupt = async {
        while cell.received().is_empty() {
            tokio::task::yield_now().await; // until it was told of its pool
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    };
    let ((), (status, output, _)) = tokio::join!(interrupt, corelet.end());
    assert_eq!(status, 130);
    assert_eq!(json(&output)[0]["event"], "cell_connected");
    tokio::time::timeout(PATIENCE, cell.ended()).await.unwrap();
}

#[tokio::test]
async fn wrong_usage_has_status_2_and_says_what_would_be_right() {
    let run = |arguments: &'static [&'static str]| async move {
        let output = Command::new(env!("CARGO_BIN_EXE_corelet")).args(arguments).env_remove("CORELET_LISTEN").output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, errors) = run(&["list"]).await;
    assert!(status == 2 && errors.contains("--listen IP"), "{errors}");
    let (status, errors) = run(&["--listen", "nowhere", "list"]).await;
    assert!(status == 2 && errors.contains("invalid value 'nowhere'"), "{errors}");
    let (status, errors) = run(&["--listen", "203.0.113.1", "list"]).await;
    assert!(status == 1 && errors.contains("no interface of this host has the address 203.0.113.1; it has"), "{errors}");
    assert!(errors.contains("127.0.0.1 (lo)"), "{errors}");
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let first = corelet(&["watch"]).await;
    let port = first.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_corelet"))
        .args(["--listen", "127.0.0.1", "--no-discovery", "--port", &port, "list"])
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("Address already in use"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}
